"""Data sets: the formats bit by bit, where `load` looks and in which order, and what its errors say."""

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import re
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import l2o
from l2o.io.data._formats import read_cifar10_folder, read_idx, read_npz, write_npz
from l2o.io.data._sources import SOURCES


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """Empty places to look in, and no way out to the network."""
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, source in SOURCES.items():
        offline = replace(source, url="http://127.0.0.1:9/", system_folder=tmp_path / "system")
        monkeypatch.setitem(SOURCES, name, offline)
    return tmp_path


def images(seed, *, num_train=6, num_test=3):
    """A data set of noise, as in an npz file."""
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (num_train, 4, 5), dtype=np.uint8),
        "y_train": rng.integers(0, 10, num_train, dtype=np.uint8),
        "x_test": rng.integers(0, 256, (num_test, 4, 5), dtype=np.uint8),
        "y_test": rng.integers(0, 10, num_test, dtype=np.uint8),
    }


def assert_holds(data, arrays):
    """`data` is `arrays`, with a channel axis and int32 labels."""
    for split in ("train", "test"):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        assert x.dtype == np.uint8
        assert y.dtype == np.int32
        np.testing.assert_array_equal(x, arrays[f"x_{split}"][..., None])
        np.testing.assert_array_equal(y, arrays[f"y_{split}"])


def save_npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def idx(array):
    """An idx file, by hand: magic, rank, big-endian sizes, bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.tobytes())


def save_idx_folder(folder, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    names = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]
    for name, array in zip(names, arrays.values(), strict=True):
        (folder / f"{name}-ubyte.gz").write_bytes(idx(array))


@pytest.fixture
def publisher(monkeypatch, places):
    """A web server that publishes a folder; `publish(name)` makes it the source of a data set."""
    folder = places / "published"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    requests = []
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def publish(name):
        files = {path.name: "sha256:" + sha256(path) for path in sorted(folder.iterdir())}
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], url=url, files=files))

    publish.folder, publish.requests = folder, requests
    yield publish
    server.shutdown()
    server.server_close()
    thread.join()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- formats


def test_idx_is_read_bit_by_bit(places):
    path = places / "a.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x02" + b"\0\0\0\x02" + b"\0\0\0\x03" + bytes([0, 1, 2, 127, 128, 255])))
    array = read_idx(path)
    assert array.tolist() == [[0, 1, 2], [127, 128, 255]]
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0"), "begins with 00 00 08, this one with 00 00 0d"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x03ab"), "cannot reshape"),
        (gzip.compress(bytes(100))[:-9], "EOFError"),
        (b"<html>404</html>", "Not a gzipped file"),
    ],
    ids=["floats", "short", "truncated", "not gzip"],
)
def test_idx_error_names_the_file_and_the_reason(places, content, reason):
    path = places / "a.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {path}")) as raised:
        read_idx(path)
    assert reason in str(raised.value)


def cifar10_archive(path, batches):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_cifar10_records_are_a_label_and_three_colour_planes(places):
    def record(label):
        red, green, blue = np.zeros((3, 32, 32), np.uint8)
        red[0, 1], green[31, 0], blue[:] = label, 7, 200
        return bytes([label]) + red.tobytes() + green.tobytes() + blue.tobytes()

    batches = {f"data_batch_{i}.bin": record(i) + record(i + 4) for i in (3, 1, 5, 2, 4)}
    batches |= {"batches.meta.txt": b"airplane\n", "test_batch.bin": record(0)}
    cifar10_archive(places / "cifar-10-binary.tar.gz", batches)

    data = read_cifar10_folder(places)
    assert data.y_train.tolist() == [1, 5, 2, 6, 3, 7, 4, 8, 5, 9]
    assert data.y_test.tolist() == [0]
    assert data.x_train.shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(data.x_train[:, 0, 1, 0], data.y_train)
    assert data.x_test[0, 31, 0].tolist() == [0, 7, 200]
    assert data.x_test[0, 0, 31].tolist() == [0, 0, 200]


def test_cifar10_error_names_a_missing_batch(places):
    cifar10_archive(places / "cifar-10-binary.tar.gz", {"data_batch_1.bin": bytes(3073)})
    with pytest.raises(ValueError, match=r"Cannot read .*cifar-10-binary.tar.gz .*data_batch_2"):
        read_cifar10_folder(places)


def test_npz_write_then_read_is_the_identity(places):
    data = read_npz(save_npz(places / "a.npz", **images(0)))
    write_npz(places / "new" / "b.npz", data)
    for before, after in zip(data, read_npz(places / "new" / "b.npz"), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def test_npz_is_written_whole_or_not_at_all(places, monkeypatch):
    path = save_npz(places / "data" / "a.npz", **images(0))
    data, before = read_npz(path), path.read_bytes()

    def full_disk(path, **arrays):
        Path(path).write_bytes(b"PK half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_npz(path, data)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("num_kept", [0, 2, 300, -1])
def test_truncated_npz_is_named(places, num_kept):
    path = save_npz(places / "user" / "mnist.npz", **images(0))
    path.write_bytes(path.read_bytes()[:num_kept])
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {path} (")) as raised:
        l2o.data.load("mnist")
    assert "replace it, or delete it" in str(raised.value)


def test_damaged_npz_is_named(places):
    path = save_npz(places / "user" / "mnist.npz", **images(0))
    content = bytearray(path.read_bytes())
    content[content.index(images(0)["x_train"].tobytes())] ^= 1  # one bit of one pixel
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {path} (BadZipFile: Bad CRC-32")):
        l2o.data.load("mnist")


class Trap:
    """Unpickling it is noticed."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_nothing_is_unpickled(places):
    trap = np.array([Trap()], dtype=object)
    path = save_npz(places / "user" / "mnist.npz", **images(0) | {"x_train": trap})
    with pytest.raises(ValueError, match=r"Cannot read .*allow_pickle=False"):
        l2o.data.load("mnist")
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"Cannot read .*not a whole npz file"):
        l2o.data.load("mnist")
    assert not Trap.sprung


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x_train": np.zeros((6, 4, 5), np.float32)}, r"got float32 \[6, 4, 5\] and uint8 \[6\]"),
        ({"x_test": np.zeros((3, 20), np.uint8)}, r"got uint8 \[3, 20\] and uint8 \[3\]"),
        ({"y_train": np.zeros(5, np.uint8)}, r"got uint8 \[6, 4, 5\] and uint8 \[5\]"),
        ({"y_test": np.zeros(3)}, r"got uint8 \[3, 4, 5\] and float64 \[3\]"),
    ],
)
def test_arrays_that_are_no_images_or_labels_are_refused(places, wrong, message):
    save_npz(places / "user" / "mnist.npz", **images(0) | wrong)
    with pytest.raises(ValueError, match=r"expected uint8 images \[n, h, w\] or .*" + message):
        l2o.data.load("mnist")


def test_npz_with_other_arrays_says_which(places):
    save_npz(places / "user" / "mnist.npz", train=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(ValueError, match="expected arrays x_train, y_train, x_test, y_test, found train, labels"):
        l2o.data.load("mnist")


# ---- where load looks


def test_user_folder_comes_before_cache_before_system_before_publisher(places, publisher):
    save_idx_folder(publisher.folder, images(4))
    publisher("fashion_mnist")
    user = save_npz(places / "user" / "fashion_mnist.npz", **images(1))
    cache = save_npz(places / "cache" / "l2o" / "fashion_mnist.npz", **images(2))
    save_idx_folder(places / "system", images(3))

    assert_holds(l2o.data.load("fashion_mnist"), images(1))
    user.unlink()
    assert_holds(l2o.data.load("fashion_mnist"), images(2))
    cache.unlink()
    assert_holds(l2o.data.load("fashion_mnist"), images(3))
    assert publisher.requests == []
    for path in (places / "system").iterdir():
        path.unlink()
    (places / "system").rmdir()
    assert_holds(l2o.data.load("fashion_mnist"), images(4))


def test_download_happens_once_and_leaves_one_file(places, publisher):
    save_idx_folder(publisher.folder, images(0))
    publisher("mnist")
    assert_holds(l2o.data.load("mnist"), images(0))
    assert_holds(l2o.data.load("mnist"), images(0))
    assert len(publisher.requests) == 4
    assert [path.name for path in (places / "cache" / "l2o").iterdir()] == ["mnist.npz"]


def test_file_with_another_checksum_is_refused_and_not_kept(places, publisher):
    save_idx_folder(publisher.folder, images(0))
    publisher("mnist")
    (publisher.folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(images(1)["y_test"]))
    with pytest.raises(ValueError, match=r"http://127.0.0.1:\d+/t10k-labels-idx1-ubyte.gz did not arrive") as raised:
        l2o.data.load("mnist")
    assert sha256(publisher.folder / "t10k-labels-idx1-ubyte.gz") in str(raised.value)
    assert list((places / "cache" / "l2o").iterdir()) == []


def test_file_that_the_publisher_lost_is_missing_data(publisher):
    save_idx_folder(publisher.folder, images(0))
    publisher("mnist")
    (publisher.folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"No data for 'mnist'.*\n(.*\n)* .*HTTPError: 404"):
        l2o.data.load("mnist")


def test_offline_error_says_where_it_looked_and_what_to_do(places):
    with pytest.raises(FileNotFoundError) as raised:
        l2o.data.load("fashion_mnist")
    lines = str(raised.value).splitlines()
    arrays = "x_train, y_train, x_test, y_test (or x, y, which load splits)"
    assert lines[:4] == [
        "No data for 'fashion_mnist'. Looked at",
        f"  {places / 'user' / 'fashion_mnist.npz'}",
        f"  {places / 'cache' / 'l2o' / 'fashion_mnist.npz'}",
        f"  {places / 'system'}",
    ]
    assert lines[4].startswith("  http://127.0.0.1:9/ (ConnectionError: ")
    assert lines[5:] == [
        f"Set L2O_DATA to a folder that holds fashion_mnist.npz with the arrays {arrays}: "
        "images uint8 [n, h, w] or [n, h, w, c], labels integers [n].",
        "Where the network is open, load('fashion_mnist') makes that file and leaves it in its cache.",
        "On Debian and Ubuntu the package dataset-fashion-mnist holds it too.",
    ]


def test_smile_is_never_downloaded_and_the_error_says_how_to_make_it():
    with pytest.raises(
        FileNotFoundError, match=r"(?s)smile\.npz or smile_32\.npz.*Clone https://github.com/hromi"
    ) as e:
        l2o.data.load("smile")
    assert "127.0.0.1" not in str(e.value)
    assert "network" not in str(e.value)


def test_unsplit_images_are_split_once_and_for_all(places):
    x = np.arange(11, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    save_npz(places / "user" / "smile_32.npz", x=x, y=np.arange(11) % 2)
    data = l2o.data.load("smile")
    # Frozen: another split would silently change every number that was measured on this one.
    assert data.x_test[:, 0, 0, 0].tolist() == [0, 5]
    assert sorted(data.x_train[:, 0, 0, 0]) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(data.x_train[:, 0, 0, 0] % 2, data.y_train)


def test_unknown_name_lists_the_known_ones():
    message = (
        "No data set named 'minst'. Data sets: mnist, fashion_mnist, cifar10, smile, mnist_sample, breast_cancer, wine, "
        "digits, persuasion."
    )
    for function in (l2o.data.load, l2o.data.describe):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            function("minst")


@pytest.mark.parametrize("name", l2o.data.names())
def test_every_set_has_a_licence_and_a_citation(name):
    lines = l2o.data.describe(name).splitlines()
    assert [line.split(": ")[0] for line in lines] == [name, "Homepage", "Licence", "Cite"]
    assert all(len(line.split(": ", 1)[1]) > 15 for line in lines)


@pytest.mark.parametrize("name", l2o.data.names())
def test_published_files_have_checksums_of_full_length(name):
    for checksum in SOURCES[name].files.values():
        assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum)


# ---- the sample in the package


def test_sample_is_balanced_and_real():
    data = l2o.data.load("mnist_sample")
    assert data.x_train.shape == (8000, 28, 28, 1)
    assert data.x_test.shape == (2000, 28, 28, 1)
    assert np.bincount(data.y_train).tolist() == [800] * 10
    assert np.bincount(data.y_test).tolist() == [200] * 10
    assert len(np.unique(np.concatenate(data[::2]), axis=0)) == 10_000
    # MNIST's published mean and standard deviation of a pixel, 0.1307 and 0.3081.
    assert data.x_train.mean() / 255 == pytest.approx(0.1307, abs=0.003)
    assert data.x_train.std() / 255 == pytest.approx(0.3081, abs=0.003)
    # Labels belong to their images: the nearest class mean is right as often, 82%, as on the whole of MNIST.
    x_train, x_test = (x.reshape(len(x), -1) / 255.0 for x in (data.x_train, data.x_test))
    means = np.stack([x_train[data.y_train == digit].mean(axis=0) for digit in range(10)])
    distances = (means**2).sum(axis=1) - 2 * x_test @ means.T
    assert (distances.argmin(axis=1) == data.y_test).mean() == pytest.approx(0.82, abs=0.03)


def test_sample_is_small_and_carries_its_licence():
    samples = Path(l2o.data.__file__).parent / "samples"
    assert (samples / "mnist.npz").stat().st_size < 2_000_000
    notice = (samples / "LICENSE-mnist.txt").read_text()
    for words in ("Yann LeCun and Corinna Cortes", "CC BY-SA 3.0", "creativecommons.org", "Changes made"):
        assert words in notice


def test_importing_data_is_light():
    # `l2o` itself imports JAX, so a bare package of that name stands in for it.
    code = (
        "import sys, types; sys.modules['l2o'] = package = types.ModuleType('l2o')\n"
        f"package.__path__ = [{str(Path(l2o.data.__file__).parents[1])!r}]\n"
        "import l2o.data; l2o.data.load('mnist_sample')\n"
        "assert not {'jax', 'pooch', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- tables


@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "features"),
    [("breast_cancer", [170, 286], [42, 71], 30), ("wine", [48, 57, 39], [11, 14, 9], 13)],
)
def test_tables_hold_what_uci_says(name, num_train, num_test, features):
    """UCI: 212 malignant and 357 benign tumours of 30 measurements; 59, 71 and 48 wines of 13."""
    data = l2o.data.load(name)
    assert {data.x_train.dtype, data.x_test.dtype} == {np.dtype(np.float32)}
    assert {data.x_train.shape[1], data.x_test.shape[1]} == {features}
    assert np.bincount(data.y_train).tolist() == num_train
    assert np.bincount(data.y_test).tolist() == num_test


def test_tables_hold_the_published_values():
    """Ranges that UCI's descriptions list: radius 6.981 to 28.11, proline 278 to 1680, pixels 0 to 16."""
    cancer, wine, digits = (l2o.data.load(name) for name in ("breast_cancer", "wine", "digits"))
    for data, column, low, high in ((cancer, 0, 6.981, 28.11), (wine, 12, 278, 1680), (digits, slice(None), 0, 16)):
        values = np.concatenate([data.x_train, data.x_test])[:, column]
        assert [values.min(), values.max()] == pytest.approx([low, high])
    assert len(digits.y_train) + len(digits.y_test) == 1797
    # Labels belong to their rows: malignant nuclei (0) are larger, and the nearest class mean tells digits apart.
    assert cancer.x_train[cancer.y_train == 0, 0].mean() > 1.3 * cancer.x_train[cancer.y_train == 1, 0].mean()
    means = np.stack([digits.x_train[digits.y_train == digit].mean(axis=0) for digit in range(10)])
    nearest = ((digits.x_test[:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == digits.y_test).mean() > 0.85


def test_tables_and_text_are_small_and_carry_their_terms():
    samples = Path(l2o.data.__file__).parent / "samples"
    notice = (samples / "LICENSE-tables.txt").read_text()
    for name in l2o.data.names("table"):
        assert f"{name}.npz: " in notice
        assert (samples / f"{name}.npz").stat().st_size < 100_000
        doi = re.search(r"10\.24432/\w+", SOURCES[name].citation).group()
        assert f"https://doi.org/{doi}" in notice
    for words in ("CC BY 4.0", "creativecommons.org", "Changes made"):
        assert words in notice
    assert "public domain" in (samples / "LICENSE-persuasion.txt").read_text()


def test_a_table_is_no_images_and_the_other_way_round(places):
    rows = {"x_train": np.zeros((4, 3)), "y_train": np.arange(4), "x_test": np.ones((2, 3)), "y_test": np.arange(2)}
    path = save_npz(places / "rows.npz", **rows)
    data = read_npz(path, table=True)
    assert (data.x_test.dtype, data.y_test.dtype, data.x_train.shape) == (np.float32, np.int32, (4, 3))
    with pytest.raises(ValueError, match="expected uint8 images"):
        read_npz(path)
    with pytest.raises(ValueError, match=r"expected a table of numbers \[n, features\].* got uint8 \[6, 4, 5\]"):
        read_npz(save_npz(places / "images.npz", **images(0)), table=True)


# ---- texts


def test_text_is_what_jane_austen_wrote():
    train, test, vocabulary = l2o.data.load_text("persuasion")
    text = "".join(vocabulary[i] for i in np.concatenate([train, test]))
    assert text.startswith("Persuasion\n")
    assert "Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man who," in text
    assert [len(text), len(test), len(vocabulary)] == [215_526, 21_552, 75]
    assert list(vocabulary) == sorted(set(text))
    assert train.dtype == test.dtype == np.int32


def test_a_text_of_your_own(places):
    (places / "user").mkdir()
    path = places / "user" / "mine.txt"
    path.write_text("Straße\nbanana", encoding="utf-8")
    train, test, vocabulary = l2o.data.load_text("mine")
    assert "".join(vocabulary[i] for i in train) == "Straße\nbanan"
    assert "".join(vocabulary[i] for i in test) == "a"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {path} (UnicodeDecodeError")):
        l2o.data.load_text("mine")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="expected a text, found 0 characters"):
        l2o.data.load_text("mine")


def test_missing_text_says_where_it_looked_and_what_there_is(places, monkeypatch):
    path = places / "user" / "nope.txt"
    expected = (
        rf"No text named 'nope' \(no file {re.escape(str(path))}\)\. Texts: persuasion; or set L2O_DATA .*nope\.txt"
    )
    with pytest.raises(ValueError, match=expected):
        l2o.data.load_text("nope")
    monkeypatch.delenv("L2O_DATA")
    with pytest.raises(ValueError, match=r"No text named 'mnist'\. Texts: persuasion"):
        l2o.data.load_text("mnist")


def test_a_text_is_no_data_set():
    with pytest.raises(ValueError, match=r"'persuasion' is a text\. Load it by `load_text\('persuasion'\)`\."):
        l2o.data.load("persuasion")


def test_names_by_kind():
    assert l2o.data.names("table") == ["breast_cancer", "wine", "digits"]
    assert l2o.data.names("text") == ["persuasion"]
    assert [*l2o.data.names("images"), *l2o.data.names("table"), *l2o.data.names("text")] == l2o.data.names()
