"""What the PyTorch twin of an architecture is."""

import abc
import math

import torch
from torch import Tensor


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
