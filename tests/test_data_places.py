"""Where data are looked for, and what a caller is told when they are nowhere."""

import functools
import gzip
import hashlib
import http.server
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from data_files import images, save_npz

import l2o
from l2o.io.data._sources import SOURCES

pytestmark = pytest.mark.usefixtures("places")


def assert_holds(data, arrays):
    """`data` is `arrays`, with a channel axis and int32 labels."""
    for split in ("train", "test"):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        assert x.dtype == np.uint8
        assert y.dtype == np.int32
        np.testing.assert_array_equal(x, arrays[f"x_{split}"][..., None])
        np.testing.assert_array_equal(y, arrays[f"y_{split}"])


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
