"""The file formats that data sets come in, each read into a `DataSet`. Nothing is ever unpickled."""

import gzip
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8


class DataSet(NamedTuple):
    """Images, or rows of a table, and class labels of a training and a test split.

    A tuple, so it unpacks; a pytree, so `jax.tree.map(jnp.asarray, data)` moves it to the device.
    """

    x_train: UInt8[np.ndarray, "num_train height width channels"] | Float32[np.ndarray, "num_train features"]
    y_train: Int32[np.ndarray, " num_train"]
    x_test: UInt8[np.ndarray, "num_test height width channels"] | Float32[np.ndarray, "num_test features"]
    y_test: Int32[np.ndarray, " num_test"]


class Text(NamedTuple):
    """A text as numbers of its characters: character `i` is `vocabulary[i]`. The test split is its last tenth."""

    train: Int32[np.ndarray, " num_train"]
    test: Int32[np.ndarray, " num_test"]
    vocabulary: str  # every character that occurs, in the order of Unicode


def read_text(path: Path) -> Text:
    """Read a text in UTF-8."""
    with _errors_name(path):
        text = path.read_bytes().decode()
        if len(text) < 2:
            raise ValueError(f"expected a text, found {len(text)} characters")
    vocabulary, ids = np.unique(np.array(list(text)), return_inverse=True)
    train, test = np.split(ids.astype(np.int32), [len(ids) - max(1, len(ids) // 10)])
    return Text(train, test, "".join(vocabulary))


def read_npz(path: Path, *, table: bool = False) -> DataSet:
    """Read a data set from NumPy's zip of arrays: `DataSet`'s four, or `x` and `y`, which are then split."""
    with _errors_name(path), path.open("rb") as file:
        if not zipfile.is_zipfile(path):  # else np.load takes it for a pickle, and its refusal misleads
            raise ValueError("not a whole npz file")
        arrays = np.load(file, allow_pickle=False)
        if set(DataSet._fields) <= set(arrays):
            return _data_set(*(arrays[field] for field in DataSet._fields), table=table)
        if {"x", "y"} <= set(arrays):
            return _split(arrays["x"], arrays["y"], table=table)
        raise ValueError(f"expected arrays {', '.join(DataSet._fields)}, found {', '.join(arrays) or 'none'}")


def write_npz(path: Path, data: DataSet) -> None:
    """Write a data set as `read_npz` reads it: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        np.savez_compressed(part, **data._asdict())
        os.replace(part, path)


def read_idx_folder(folder: Path) -> DataSet:
    """Read the four gzipped idx files in which MNIST and its descendants are published."""
    return _data_set(
        read_idx(folder / "train-images-idx3-ubyte.gz"),
        read_idx(folder / "train-labels-idx1-ubyte.gz"),
        read_idx(folder / "t10k-images-idx3-ubyte.gz"),
        read_idx(folder / "t10k-labels-idx1-ubyte.gz"),
    )


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Read a gzipped idx file of bytes: 0, 0, 8 (unsigned bytes), the rank, big-endian sizes, the values."""
    with _errors_name(path):
        raw = gzip.decompress(path.read_bytes())
        if raw[:3] != b"\x00\x00\x08":
            raise ValueError(f"an idx file of bytes begins with 00 00 08, this one with {raw[:3].hex(' ')}")
        rank = raw[3]
        sizes = np.frombuffer(raw, ">u4", count=rank, offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(sizes).copy()  # a view is read-only


def read_cifar10_folder(folder: Path) -> DataSet:
    """Read CIFAR-10's binary archive: each record is a label byte and the bytes of a [3, 32, 32] image."""
    path = folder / "cifar-10-binary.tar.gz"
    with _errors_name(path), tarfile.open(path) as archive:
        batches = {
            Path(member.name).stem: np.frombuffer(file.read(), np.uint8).reshape(-1, 3073)
            for member in archive
            if member.name.endswith(".bin") and (file := archive.extractfile(member))
        }
        train = np.concatenate([batches[f"data_batch_{i}"] for i in range(1, 6)])
        return _data_set(*_cifar10_arrays(train), *_cifar10_arrays(batches["test_batch"]))


def _cifar10_arrays(records):
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0]


def _data_set(x_train, y_train, x_test, y_test, *, table=False):
    checked = _rows_and_labels if table else _images_and_labels
    data = DataSet(*checked(x_train, y_train), *checked(x_test, y_test))
    _check_classes(data.y_train, data.y_test)
    return data


def _images_and_labels(x, y):
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not _are_labels_of(x, y):
        raise ValueError(
            "expected uint8 images [n, h, w] or [n, h, w, c] and integer labels [n], "
            f"got {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}"
        )
    return x if x.ndim == 4 else x[..., None], _labels(y)


def _rows_and_labels(x, y):
    if x.dtype.kind not in "iuf" or x.ndim != 2 or not _are_labels_of(x, y):
        raise ValueError(
            "expected a table of numbers [n, features] and integer labels [n], "
            f"got {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}"
        )
    with np.errstate(over="ignore"):
        rows = x.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(rows))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"a table holds finite numbers, in single precision, but {len(wrong)} of its entries are none: the first is "
            f"{x[row, column]} in row {row}, column {column}"
        )
    return rows, _labels(y)


def _are_labels_of(x, y):
    return y.dtype.kind in "iu" and y.shape == x.shape[:1]


# Nets have an output for every class up to the largest label, so that a stray label would ask for a net of its size.
_MAX_CLASSES = 100_000


def _labels(y):
    """Class numbers: from 0 up, and at most so many."""
    if y.size and not (y.min() >= 0 and y.max() < _MAX_CLASSES):
        raise ValueError(
            f"labels are the numbers of classes, from 0 to at most {_MAX_CLASSES - 1}, but these go from {y.min()} to {y.max()}; "
            "number the classes 0, 1, 2, ..."
        )
    return y.astype(np.int32)


def _check_classes(y_train, y_test):
    """Refuses data that would have classes without a single example to learn them from."""
    if not y_train.size:
        raise ValueError("there are no training examples")
    present = np.unique(y_train)
    num_classes = max(int(present[-1]), int(y_test.max(initial=0))) + 1
    # Classes that a sample happens to miss are let pass, gaps in the numbering (labels 7 and 900 of two classes) are not.
    if num_classes > 2 * len(present) + 10:
        raise ValueError(
            f"labels number the classes 0, 1, 2, ..., but the {len(present)} different ones of the training split go up to "
            f"{num_classes - 1}; number the classes that there are without gaps"
        )


def _split(x, y, *, table=False):
    # A fixed permutation of the file's order, whose last fifth is the test split. RandomState's stream is
    # frozen for good; default_rng's may change with NumPy (NEP 19), and the split would with it.
    order = np.random.RandomState(0).permutation(len(x))
    train, test = np.split(order, [len(x) - len(x) // 5])
    return _data_set(x[train], y[train], x[test], y[test], table=table)


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    # Every exception, as a damaged file fails in many ways: in the zip, in zlib, in a header, in a reshape.
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"Cannot read {path} ({type(error).__name__}: {error}). If it is damaged, replace it, "
            "or delete it so that the data set is looked for elsewhere."
        ) from error
