"""Learning rates tuned on a grid, all of it in one vectorised program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from l2o._inner import begin, unroll
from l2o._task import TaskFamily


class Tuned(NamedTuple):
    """Result of `tune`."""

    value: float  # the best of the grid
    at_edge: bool  # whether it is the grid's first or last: the true best may lie outside
    grid: Float[np.ndarray, " num_values"]
    losses: Float[np.ndarray, " num_values"]  # mean final loss of each; inf where any run diverged


def tune(
    make_optimizer: Callable[[Any], Any],
    grid: Float[np.ndarray, " num_values"],
    family: TaskFamily,
    *,
    horizon: int,
    num_tasks: int,
    key: PRNGKeyArray,
    final_steps: int | None = None,
) -> Tuned:
    """The value of `grid` for which `make_optimizer(value)` has the smallest mean final loss.

    Every value sees the same tasks and minibatches. Pass another key than the one results are reported on.

    **Arguments:** `final_steps`: the final loss is the mean over this many last steps; default a tenth of the horizon
    (minibatch losses are noisy).

    **Raises:** `ValueError` if every value of the grid diverges.
    """
    final_steps = final_steps or max(1, horizon // 10)

    @eqx.filter_jit
    def final_losses(family, grid, keys):
        def one(value, key):
            task, state, batch_key = begin(family, make_optimizer(value), key)
            _, losses = unroll(task, make_optimizer(value), state, batch_key, length=horizon + 1)
            return jnp.mean(losses[-final_steps:])

        over_tasks = jax.vmap(one, in_axes=(None, 0))
        return jax.vmap(over_tasks, in_axes=(0, None))(grid, keys)

    grid = np.asarray(grid)
    runs = np.asarray(final_losses(family, jnp.asarray(grid, jnp.float32), jax.random.split(key, num_tasks)))
    losses = np.where(np.isfinite(runs).all(axis=1), runs.mean(axis=1), np.inf)
    if not np.isfinite(losses).any():
        raise ValueError(f"Every run diverged at some task, for all of the grid {grid.tolist()}. Try smaller values.")
    best = int(np.argmin(losses))
    return Tuned(float(grid[best]), best in (0, len(grid) - 1), grid, losses)
