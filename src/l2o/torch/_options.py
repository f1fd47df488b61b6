"""What a group of parameters is given beside them: weights, by name or in memory, and rates, checked before they are used."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2o.io import contents as _header
from l2o.io import weights as _weights
from l2o.torch._plain import plain_weights


def load_weights(name_or_path: str | Path, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Weights of a shipped optimizer, or from a file, a folder or "user/repo", as `l2o.load` takes them.

    They are "architecture", "arguments", "arrays" by path, and, where the header has them, "horizon", the steps that the
    optimizer was meta-trained for, and "scale", that of the gradients that it met there.

    **Arguments:** `dtype`: that the optimizer computes, and keeps its state, in; default the file's (single precision).

    **Raises:** `ValueError` if there are none of that name, or the file is not whole or not of a learned optimizer.
    """
    leaves, header = _weights.read(_weights.resolve(name_or_path))
    arrays = {path: torch.from_numpy(leaf).to(dtype) for path, leaf in leaves.items()}
    told = _header.decoded(header, str(name_or_path))
    known = {"horizon": _header.horizon(told), "scale": told.get("scale")}
    weights = {"architecture": told["architecture"], "arguments": told["arguments"], "arrays": arrays}
    return {**weights, **{name: value for name, value in known.items() if value is not None}}


def contents(weights: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """What weights hold, in plain types, and the "name" that they were read by."""
    if isinstance(weights, Mapping):
        return plain_weights(weights)
    return {**load_weights(weights), "name": str(weights)}


def name_of(weights) -> str:
    """Of weights, in a message."""
    if not isinstance(weights, Mapping):
        return str(weights)
    return weights.get("name", f"This {weights['architecture']} optimizer")


def rate(name, value) -> float | Tensor:
    """A number that `torch.load` takes; a tensor stays one."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"`{name}` must be one number, got a tensor of shape {tuple(value.shape)}.")
    try:
        number = value if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if not isinstance(number, float):
        raise ValueError(f"`{name}` must be a number, got {value!r}.")
    if number < 0:
        raise ValueError(f"`{name}` must not be negative, got {value}.")
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be finite, got {value}.")
    return value if isinstance(value, Tensor) else number


def check_finite(group, index) -> None:
    """Schedules set rates as they like, and one that is not finite would be the end of the parameters."""
    for name in ("lr", "weight_decay"):
        rate = group[name]
        if isinstance(rate, Tensor) and rate.device.type != "cpu":
            continue  # looking at it would wait for the device
        if not math.isfinite(rate):
            raise ValueError(f"`{name}` of group {index} is {rate}, and must be finite.")
