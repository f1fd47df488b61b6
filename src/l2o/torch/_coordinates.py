"""The coordinates of parameters: real numbers, of which a complex entry has two, as in `torch.optim`.

Real and imaginary part lie side by side (`torch.view_as_real`). PyTorch's gradient of a complex parameter is that with
respect to its two parts, so nothing is conjugated.
"""

from typing import Any

import torch
from torch import Tensor


def count(p: Tensor) -> int:
    """How many coordinates a parameter has."""
    return 2 * p.numel() if p.is_complex() else p.numel()


def flat(tensor: Tensor) -> Tensor:
    """The coordinates of a parameter or its gradient, [count(tensor)], in the order of its entries, not of its memory."""
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).reshape(-1)


def add_(p: Tensor, update: Tensor) -> None:
    """Adds an update, [count(p)], to a parameter."""
    parts = torch.view_as_real(p) if p.is_complex() else p
    parts.add_(update.view(parts.shape))


def named(group: dict[str, Any], index: int, position: int) -> str:
    """A parameter in a message: by its place, and by its name if the optimizer was given names."""
    names = group.get("param_names")
    return f"parameter {position} of group {index}" + (f" ({names[position]!r})" if names else "")


def check_gradient(group: dict[str, Any], index: int, position: int) -> None:
    """**Raises:** `RuntimeError` if a parameter has a gradient that it cannot be stepped along."""
    p = group["params"][position]
    gradient, shape = p.grad, tuple(p.shape)
    if gradient.layout != torch.strided:
        raise RuntimeError(
            f"LearnedOptimizer does not take sparse gradients, got one of layout {gradient.layout} for "
            f"{named(group, index, position)}, of shape {shape}. Make it dense (for an embedding: sparse=False) or give that "
            "parameter to torch.optim.SparseAdam."
        )
    kind = _kind(p)
    if kind is None or _kind(gradient) != kind:
        raise RuntimeError(
            "LearnedOptimizer steps floating-point parameters along floating-point gradients and complex ones along complex, "
            f"got a gradient of {gradient.dtype} for {named(group, index, position)}, of {p.dtype} and shape {shape}."
        )
    if p.is_conj():
        raise RuntimeError(
            f"LearnedOptimizer cannot write to {named(group, index, position)}, of shape {shape}: it is a conjugated view. "
            "Make the parameter from `tensor.resolve_conj()`."
        )
    if gradient.shape != p.shape or gradient.device != p.device:
        raise RuntimeError(
            f"The gradient of {named(group, index, position)} has shape {tuple(gradient.shape)} and is on {gradient.device}, "
            f"the parameter has shape {shape} and is on {p.device}: it was replaced after `backward()`."
        )


def _kind(tensor: Tensor) -> str | None:
    return "complex" if tensor.is_complex() else "floating-point" if tensor.is_floating_point() else None
