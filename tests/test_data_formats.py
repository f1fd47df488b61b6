"""Data files: read bit by bit, written whole, and never unpickled."""

import gzip
import io
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_files import images, save_npz

import l2o
from l2o.io.data._formats import read_cifar10_folder, read_idx, read_npz, write_npz

pytestmark = pytest.mark.usefixtures("places")


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
