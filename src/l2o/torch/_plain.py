"""Weights in plain containers, numbers and tensors, which `torch.load` reads by its default (`weights_only=True`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KEYS = ("architecture", "arguments", "arrays")


def plain_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The same weights with tensors on the CPU for arrays; the very same dictionary if they have been so before.

    **Raises:** `ValueError` if they are not of the form that `load_weights` and `l2o.pretrained.as_dict` return.
    """
    missing = [key for key in _KEYS if key not in weights]
    if missing:
        raise ValueError(
            f"Weights in memory have {', '.join(map(repr, _KEYS))}, but these lack {', '.join(map(repr, missing))}. Pass what "
            "`load_weights` or `l2o.pretrained.as_dict` return."
        )
    if isinstance(weights, dict) and _is_plain(weights):
        return weights
    arrays = {str(path): _as_tensor(array) for path, array in weights["arrays"].items()}
    return {**{str(key): _plain(value) for key, value in weights.items() if key != "arrays"}, "arrays": arrays}


def same_weights(some: Any, others: Any) -> bool:
    """Whether weights are equal, wherever they came from."""
    if some is others or not (isinstance(some, Mapping) and isinstance(others, Mapping)):
        return some == others
    keys = ("architecture", "arguments")
    if any(some[key] != others[key] for key in keys) or set(some["arrays"]) != set(others["arrays"]):
        return False
    pairs = ((array, others["arrays"][path]) for path, array in some["arrays"].items())
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def _is_plain(value) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(v) for key, v in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is Tensor:
        return value.device.type == "cpu" and not value.requires_grad
    return value is None or type(value) in (bool, int, float, str)


def _plain(value):
    """Numbers of NumPy's or JAX's become Python's, a path a string."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _as_tensor(array) -> Tensor:
    """Of anything that is a tensor or speaks NumPy."""
    if isinstance(array, Tensor):
        return array.detach().cpu()
    array = np.array(array, order="C")
    if array.dtype.name == "bfloat16":  # JAX's, which torch does not know as NumPy's
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
