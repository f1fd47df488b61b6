"""Where runs end: the losses of several optimizers on several tasks, all in one vectorised program."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from l2o.core import keys as _keys
from l2o.core import parallel
from l2o.core.optimizer import Optimizer, check_optimizer, eval_params_of
from l2o.core.task import TaskFamily
from l2o.core.unroll import begin, unroll


def final_losses(
    make: Callable[[Any], Optimizer],
    values: PyTree,
    family: TaskFamily,
    keys: Key[Array, " num_tasks"],
    *,
    horizon: int,
    num_evals: int = 1,
    batch_size: int | None = None,
) -> Float[Array, "num_values num_tasks"]:
    """The loss of every task after `horizon` steps of every optimizer `make(value)`; to be compiled by the caller.

    All optimizers see the same tasks, starts and minibatches. Each loss is the mean over `num_evals` minibatches that follow
    those of the run: one is enough where losses do not depend on them.

    **Arguments:** `values`: a pytree whose leaves have the values on their first axis. `batch_size`: at most so many tasks
    are run at once, each with all optimizers; default all.
    """

    def one(value, key):
        optimizer = check_optimizer("make(value)", make(value))
        task, state, batch_key = begin(family, optimizer, key)
        state, _ = unroll(task, optimizer, state, batch_key, length=horizon)
        answer = (eval_params_of(optimizer) or (lambda _, params: params))(state.opt_state, state.params)
        judged = jax.vmap(lambda i: task.loss(answer, _keys.of_step(batch_key, horizon + i)))(jnp.arange(num_evals))
        return jnp.mean(judged)

    # The values innermost: a minibatch is drawn once for all of them, and its products with their params are one.
    # Batches are of one size: a smaller last one would be compiled as a second program.
    most = min(batch_size or len(keys), len(keys))
    even = next(size for size in range(most, 0, -1) if len(keys) % size == 0)
    return jax.lax.map(lambda key: jax.vmap(one, (0, None))(values, key), keys, batch_size=even).T


def means_to_minimise(
    runs: Float[Any, "num_values num_tasks"], target: float | None = None
) -> Float[Any, " num_values"]:
    """What the best value minimises: the mean loss over tasks, inf where any diverged; with a target the mean of `unsolved`."""
    if target is not None:
        return unsolved(runs, target).mean(axis=1)
    return jnp.where(jnp.isfinite(runs).all(axis=1), runs.mean(axis=1), jnp.inf)


def unsolved(losses: Float[Any, "*shape"], target: float) -> Float[np.ndarray, "*shape"]:
    r"""How far runs are from solved, $l^2 / (l^2 + \text{target}^2)$ for a last loss of $l$: 0 at 0, one half at the target.

    Its mean is a smooth share of the runs that end above the target. A run that diverged counts 1, one that ends far above the
    target hardly less: whether it can be saved matters, not where it is. In double precision, in which these still differ.
    """
    losses = np.asarray(losses, np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        share = 1 / (1 + (target / np.maximum(losses, 0)) ** 2)
    return np.where(np.isfinite(losses), share, 1.0)


def like(optimizer: Optimizer) -> Callable[[PyTree], Optimizer]:
    """Makes optimizers that differ from this one in their arrays alone: `make` of `FinalLosses`."""
    static = eqx.partition(optimizer, eqx.is_inexact_array)[1]
    return lambda arrays: eqx.combine(arrays, static)


class FinalLosses:
    """`final_losses` of the optimizers `make(value)`, on all cores, compiled once for each shape.

    The tasks are shared out among `devices`, as many as divide them evenly, and run on each `batch_size` at a time.
    """

    def __init__(
        self,
        make: Callable[[Any], Optimizer],
        family: TaskFamily,
        *,
        horizon: int,
        num_evals: int = 1,
        batch_size: int | None = None,
        devices: Sequence[parallel.Device] | None = None,
    ):
        self._family, self._devices = family, devices
        options = {"horizon": horizon, "num_evals": num_evals, "batch_size": batch_size}
        self._program = parallel.jit_for_now(
            lambda values, family, keys: final_losses(make, values, family, keys, **options)
        )

    def __call__(
        self,
        values: PyTree,
        keys: Key[Array, " num_tasks"],
        *,
        values_together: int | None = None,
        tasks_together: int | None = None,
    ) -> Float[np.ndarray, "num_values num_tasks"]:
        """Of the items of the first axis of `values`, all at once, or so many values and so many tasks at a time.

        Chunks are of one shape, the last one filled up with its last value, so that one program does for all of them. The tasks
        must be a whole number of chunks.
        """
        num = len(jax.tree.leaves(values)[0])
        size, step = values_together or num, tasks_together or len(keys)
        chunks = [np.minimum(np.arange(start, start + size), num - 1) for start in range(0, num, size)]
        rows = [
            [
                self._run(jax.tree.map(lambda x, i=chunk: x[i], values), keys[i : i + step])
                for i in range(0, len(keys), step)
            ]
            for chunk in chunks
        ]
        return np.concatenate([np.concatenate(row, axis=1) for row in rows])[:num]

    def _run(self, values, keys):
        devices = parallel.share(len(keys), self._devices)
        shares = keys.reshape(len(devices), -1)
        inputs = [parallel.put((values, self._family, k), device) for k, device in zip(shares, devices, strict=True)]
        found = parallel.run_on_each(self._program, inputs)
        return np.concatenate([np.asarray(part) for part in found], axis=1)
