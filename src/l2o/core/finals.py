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


class FinalLosses:
    """`final_losses` of optimizers that differ in their arrays alone, on all cores, compiled once for each shape.

    The tasks are shared out among `devices`, as many as divide them evenly, and run on each `batch_size` at a time.
    """

    def __init__(
        self,
        like: Optimizer,
        family: TaskFamily,
        *,
        horizon: int,
        num_evals: int = 1,
        batch_size: int | None = None,
        devices: Sequence[parallel.Device] | None = None,
    ):
        _, self._static = eqx.partition(like, eqx.is_inexact_array)
        self._family, self._devices, self._batch_size = family, devices, batch_size
        self._options = {"horizon": horizon, "num_evals": num_evals}

        def program(arrays, family, keys, batch_size):
            make = lambda arrays: eqx.combine(arrays, self._static)
            return final_losses(make, arrays, family, keys, batch_size=batch_size, **self._options)

        self._program = parallel.jit_for_now(program)

    def __call__(self, arrays: PyTree, keys: Key[Array, " num_tasks"]) -> Float[np.ndarray, "num_optimizers num_tasks"]:
        """Of the optimizers whose arrays are the items of the first axis of `arrays`."""
        devices = parallel.share(len(keys), self._devices)
        shares = keys.reshape(len(devices), -1)
        inputs = [
            (*parallel.put((arrays, self._family, share), device), self._batch_size)
            for share, device in zip(shares, devices, strict=True)
        ]
        found = parallel.run_on_each(self._program, inputs)
        return np.concatenate([np.asarray(part) for part in found], axis=1)
