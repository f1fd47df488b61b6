"""Pictures and network weights for neural art: read from `$L2O_DATA` or the cache, never downloaded."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from l2o.io.data._formats import _errors_name
from l2o.io.data._load import _cache_folder, _user_folders
from l2o.io.door import is_file_stem


class Pictures(NamedTuple):
    """Colour pictures of one size in up to three splits; a split that the file does not have is None."""

    train: UInt8[np.ndarray, "num_train height width 3"] | None
    val: UInt8[np.ndarray, "num_val height width 3"] | None
    test: UInt8[np.ndarray, "num_test height width 3"] | None


def load_pictures(name: str) -> Pictures:
    """The pictures of `NAME.npz`: uint8 arrays `x_train`, `x_val`, `x_test` of shape [n, h, w, 3], one or more of them.

    **Raises:** `FileNotFoundError` saying where it looked; `ValueError` if the file does not hold that, or `name` is a path.
    """
    if not is_file_stem(name):
        raise ValueError(
            f"Pictures are named by a file of theirs in $L2O_DATA, and {name!r} is a path. Pass NAME of NAME.npz."
        )
    path = _find(
        f"{name}.npz",
        "It holds colour pictures of one size, uint8 [n, h, w, 3], as x_train, x_val, x_test (one or more of them). Any "
        "photographs will do: np.savez('my_photos.npz', x_train=..., x_test=...) is family(data='my_photos').",
    )
    with _errors_name(path), np.load(path, allow_pickle=False) as arrays:
        splits = {key: arrays[f"x_{key}"] for key in Pictures._fields if f"x_{key}" in arrays}
        if not splits or any(x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 for x in splits.values()):
            found = {key: f"{arrays[key].dtype} {list(arrays[key].shape)}" for key in arrays}
            raise ValueError(f"expected x_train, x_val or x_test, uint8 [n, h, w, 3], found {found}")
    return Pictures(*(splits.get(key) for key in Pictures._fields))


def load_style(name: str, size: int) -> UInt8[np.ndarray, "height width 3"]:
    """The painting `NAME_SIZE` of `styles.npz`.

    **Raises:** `FileNotFoundError` saying where it looked; `ValueError` naming the styles there are.
    """
    path = _find("styles.npz", "It holds one array per painting and size, NAME_SIZE: uint8 [SIZE, SIZE, 3].")
    with _errors_name(path), np.load(path, allow_pickle=False) as arrays:
        known = sorted(arrays)
        picture = arrays.get(f"{name}_{size}")
        if picture is not None and (picture.dtype != np.uint8 or picture.shape != (size, size, 3)):
            found = f"{picture.dtype} {list(picture.shape)}"
            raise ValueError(f"expected {name}_{size} to be uint8 {[size, size, 3]}, found {found}")
    if picture is None:
        raise ValueError(f"No style named {name!r} at {size} pixels in {path}. There are: {', '.join(known)}.")
    return picture


def load_vgg16() -> dict[str, Float[np.ndarray, "..."]]:
    """VGG-16's convolutions, `conv1_1.weight` (OIHW) ... `conv5_3.bias`, as float32 (Simonyan & Zisserman 2015, CC BY 4.0).

    They expect pictures as BGR in 0..255 with the means [103.939, 116.779, 123.68] taken off. Nothing is unpickled.

    **Raises:** `FileNotFoundError` saying where it looked, and how to make the file.
    """
    path = _find(
        "vgg16_conv_fp16.safetensors",
        "Make it once where Keras is installed, with keras.applications.VGG16(include_top=False): its block1_conv1 is our "
        "conv1_1, with the kernel transposed to OIHW, np.transpose(kernel, (3, 2, 0, 1)), as conv1_1.weight in float16, and "
        "conv1_1.bias; so on to conv5_3; save them with safetensors.numpy.save_file.",
    )
    from safetensors.numpy import load_file

    with _errors_name(path):
        return {name: array.astype(np.float32) for name, array in load_file(path).items()}


def _find(file: str, hint: str) -> Path:
    looked = [folder / file for folder in [*_user_folders(), _cache_folder()]]
    for path in looked:
        if path.is_file():
            return path
    lines = [f"There is no {file}. Looked at", *(f"  {path}" for path in looked)]
    raise FileNotFoundError("\n".join([*lines, "Set L2O_DATA to the folder that has it.", hint]))
