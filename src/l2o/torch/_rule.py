"""What the PyTorch twin of an architecture is."""
# What torch's own optimizers are made of, `torch._foreach_*`, has no public name.
# pyright: reportPrivateImportUsage=false

import abc
import math
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


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

    @property
    def num_rows(self) -> int:
        """Of the state."""
        return sum(math.prod(shape) for shape in self.state_shapes.values())

    def init(self, num: int, device: torch.device) -> Tensor:
        """The state before the first step: zeros, unless overridden."""
        return torch.zeros(self.num_rows, num, dtype=self.dtype, device=device)

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


class AbstractListwise(abc.ABC):
    """Twin of a rule that takes parameters as they are, by `torch._foreach_*` operations on lists of them, at about Adam's price.

    Each parameter has a state of its own, a dict: numbers that its steps change, with the values in `numbers` before the first
    of them, and the tensors of `shapes`, zeros then. `paths` has for each of both where it is in the JAX optimizer's state. There
    a number is one for all parameters, and a tensor's coordinates are part of a vector with those of all.
    """

    numbers: Mapping[str, int | float]
    paths: dict[str, str]

    @abc.abstractmethod
    def shapes(self, p: Tensor) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """The tensors of a parameter's state."""

    @abc.abstractmethod
    def move_(self, params: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]], lr: float) -> None:
        """Adds `lr` times the updates to `params`, and changes their `states`, in place. With an `lr` of 0 no param moves.

        All are of at least single precision.
        """

    def check(self, params: list[Tensor]) -> None:
        """Refuses parameters that it cannot be stepped on, before any is: a `ValueError`. By default it takes all."""
        del params

    @torch._disable_dynamo  # its numbers are others at every step, and `torch.compile` would compile it anew for each
    def step_(self, params: list[Tensor], states: list[dict[str, Any]], lr: float, weight_decay: float) -> None:
        """One step of parameters that have gradients, in place, the decay of weights with it."""
        fine = [p.to(precise(p.dtype)) for p in params]  # itself, unless it is of less than single precision
        if weight_decay:
            torch._foreach_mul_(fine, 1 - lr * weight_decay)
        gradients = [p.grad.to(x.dtype) for p, x in zip(params, fine, strict=True) if p.grad is not None]
        self.move_(fine, gradients, states, lr)
        for p, moved in zip(params, fine, strict=True):
            if moved is not p:
                p.copy_(moved)

    def to(self, device: torch.device) -> "AbstractListwise":
        """The same rule with its weights on `device`: by default they are numbers, which are anywhere."""
        return self

    def init(self, p: Tensor) -> dict[str, Any]:
        """The state of one parameter before its first step."""
        zeros = {name: torch.zeros_like(p, dtype=dtype) for name, (_, dtype) in self.shapes(p).items()}
        return {**self.numbers, **zeros}

    def problem(self, state: Any, p: Tensor) -> str | None:
        """Why a state cannot be this parameter's, if it cannot."""
        shapes = self.shapes(p)
        missing = [name for name in (*self.numbers, *shapes) if name not in state]
        if missing:
            return f"it has no {missing[0]!r}, and so is of another optimizer."
        for name in self.numbers:
            if (
                isinstance(state[name], bool)
                or not isinstance(state[name], int | float)
                or not 0 <= state[name] < math.inf
            ):
                return f"its {name!r} is {state[name]!r}, and must be a number that is not negative."
        for name, expected in shapes.items():
            found = state[name]
            if not isinstance(found, Tensor) or found.layout != torch.strided or (found.shape, found.dtype) != expected:
                what = f"{found.dtype}, {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                return f"its {name!r} is of {what}, and must be of {expected[1]}, {tuple(expected[0])}."
        return None


def chosen(values: list[T], indices: list[int]) -> list[T]:
    """Those at some places."""
    return [values[i] for i in indices]


Rule: TypeAlias = AbstractFlat | AbstractListwise


def precise(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a parameter of this one is stepped by a rule on lists: single precision, or its own if that is finer."""
    return torch.promote_types(dtype, torch.float32)
