"""What the PyTorch twin of an architecture is, and how it is found."""

import abc
import importlib
import math
import pkgutil
from typing import Any

import torch
from torch import Tensor

from l2o._weights import PARTITIONED, RESCALED


class AbstractFlat(abc.ABC):
    """Twin of a rule on the vector of all coordinates that are stepped together.

    The state of `num` coordinates is one matrix [rows, num], in `dtype`. `state_shapes` names its parts, in order: paths of
    the leaves of the JAX optimizer's state, and their shapes without the last axis.
    """

    dtype: torch.dtype
    state_shapes: dict[str, tuple[int, ...]]

    @abc.abstractmethod
    def update_(self, gradients: Tensor, state: Tensor, params: Tensor) -> Tensor:
        """The updates, [num], of `num` coordinates; changes their `state`, [rows, num], in place."""

    @abc.abstractmethod
    def to(self, device: torch.device) -> "AbstractFlat":
        """The same rule with its weights on `device`."""

    def init(self, num: int, device: torch.device) -> Tensor:
        """The state before the first step: zeros, unless overridden."""
        rows = sum(math.prod(shape) for shape in self.state_shapes.values())
        return torch.zeros(rows, num, dtype=self.dtype, device=device)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """The state's parts by their paths, each [..., num], as in JAX."""
        parts = state.split([math.prod(shape) for shape in self.state_shapes.values()])
        return {
            path: part.reshape(*shape, part.shape[-1])
            for (path, shape), part in zip(self.state_shapes.items(), parts, strict=True)
        }

    def pack(self, parts: dict[str, Tensor]) -> Tensor:
        """The inverse of `unpack`."""
        return torch.cat([parts[path].reshape(math.prod(shape), -1) for path, shape in self.state_shapes.items()])


class AbstractCoordinatewise(AbstractFlat):
    """Twin of `l2o.AbstractCoordinatewise`: a rule that treats every coordinate alike and apart from the others.

    It may be stepped for some coordinates at a time.
    """


def build(weights: dict[str, Any], part: str | None = None) -> AbstractFlat:
    """The rule of some weights: their "architecture", its "arguments", and "arrays" by path; `part`: as `of_part`.

    **Raises:** `ValueError` if the architecture has no twin, or the arrays are not those that it needs; and as `of_part`.
    """
    weights = of_part(weights, part)
    architecture = weights["architecture"]
    if architecture == RESCALED:
        from l2o.torch._rescaled import Rescaled

        return Rescaled(
            build(_inside(weights, ".optimizer", weights["arguments"]["optimizer"])), weights["arguments"]["rms"]
        )
    package = importlib.import_module("l2o.torch")
    twins = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    if architecture not in twins:
        raise ValueError(
            f"No PyTorch twin of the architecture {architecture!r}. Twins: {', '.join(twins)}. "
            "Use these weights with JAX and optax, by `l2o.load`."
        )
    module = importlib.import_module(f"l2o.torch.{architecture}")
    return module.build(weights["arrays"], **weights["arguments"])


def of_part(weights: dict[str, Any], part: str | None) -> dict[str, Any]:
    """The weights of one part of a `l2o.Partitioned` optimizer; of any other, its weights.

    **Raises:** `ValueError` if `part` names none, or is missing.
    """
    if weights["architecture"] != PARTITIONED:
        if part is None:
            return weights
        raise ValueError(
            f"These weights are of one {weights['architecture']}, without parts: part={part!r} names none."
        )
    parts = weights["arguments"]["parts"]
    if part not in parts:
        groups = ", ".join(f'{{"params": ..., "part": "{name}"}}' for name in parts)
        raise ValueError(
            f"These weights have a part for each kind of parameter, {', '.join(map(repr, parts))}, and every group must name "
            f"its own, got part={part!r}. Pass `params` as groups: [{groups}]."
        )
    return _inside(weights, f".parts[{part!r}]", parts[part])


def _inside(weights, prefix, structure) -> dict[str, Any]:
    """The weights of what a wrapper holds at `prefix`, a path in JAX's optimizer."""
    arrays = {path.removeprefix(prefix): a for path, a in weights["arrays"].items() if path.startswith(prefix)}
    return {**structure, "arrays": arrays}
