"""What was tried in tuning a baseline, and what was chosen: plain numbers, which are read without JAX."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

SCHEDULES = ("constant", "cosine", "warmup_cosine")


class Trial(NamedTuple):
    """A setting of a baseline's hyperparameters; as a grid, arrays [num_trials]."""

    rate: Any  # learning rate, the peak of its schedule
    schedule: Any  # index into `SCHEDULES`
    weight_decay: Any  # used only by rules that have it in optax; NaN: optax's default


class Tuned(NamedTuple):
    """Result of `tune`."""

    value: Any  # the best of the grid
    at_edge: (
        bool  # whether its rate (without one, any leaf) is the grid's smallest or largest: the best may lie outside
    )
    grid: Any  # array [num_values], or a pytree of such
    losses: Float[np.ndarray, " num_values"]  # mean final loss of each; inf where any run diverged

    @property
    def rate(self) -> float:
        """The learning rate chosen: `rate`, `learning_rate` or `lr` of the value, or the value itself if it is a number.

        **Raises:** `ValueError` if it is neither.
        """
        rate = rate_of(self.value)
        if rate is None:
            names = ", ".join(f"`{name}`" for name in _RATE_NAMES)
            raise ValueError(
                f"Which of the tuned hyperparameters is the learning rate? It is looked for under the names {names}, but the "
                f"value chosen is {self.value}. Take what you need from `value`."
            )
        return float(rate)


_RATE_NAMES = ("rate", "learning_rate", "lr")


def rate_of(tree):
    """The learning rate of a value, or the rates of a grid; None where nothing says which leaf it is."""
    if isinstance(tree, Mapping):
        return next((tree[name] for name in _RATE_NAMES if name in tree), None)
    if isinstance(tree, int | float | np.generic) or hasattr(tree, "__array__"):
        return tree
    return next((getattr(tree, name) for name in _RATE_NAMES if hasattr(tree, name)), None)
