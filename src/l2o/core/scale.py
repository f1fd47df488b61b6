r"""How large gradients are: what an optimizer was meta-trained on, and what it meets.

The measure is the root mean square of a gradient's coordinates, $\lVert \nabla \rVert / \sqrt{n}$, which does not grow with the
number of parameters $n$. `l2o.pretrained.save(..., family=family)` writes it into the header of the weights.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from l2o.core import keys as _keys
from l2o.core.checks import counts
from l2o.core.coordinates import num_coordinates
from l2o.core.inner_loop import loss_key
from l2o.core.optimizer import AbstractLearnedOptimizer, check_optimizer
from l2o.core.task import TaskFamily, check_callable
from l2o.core.unroll import begin, unroll

QUANTILES = (0.01, 0.5, 0.99)


def rms(gradients: PyTree) -> Float[Array, ""]:
    """Root mean square of all coordinates of a gradient, of complex numbers the real and imaginary parts."""
    return optax.tree.norm(gradients) / np.sqrt(num_coordinates(gradients))


def gradient_scale(
    optimizer: AbstractLearnedOptimizer,
    family: TaskFamily,
    *,
    horizon: int,
    num_tasks: int = 16,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """The `rms` of the gradients that `optimizer` meets on `num_tasks` tasks of `family`, for the header of its weights.

    "start" and "run" are quantiles (1 %, 50 %, 99 %; of few tasks the first and last are the extremes) over tasks at the
    first step, and over tasks and all `horizon` steps; "num_params" the parameters of a task. Values that are not finite,
    of runs that diverged, are left out.

    **Raises:** `ValueError` if no task starts with a finite gradient.
    """
    check_optimizer("optimizer", optimizer)
    check_callable(family)
    counts(horizon=horizon, num_tasks=num_tasks)
    keys = jax.random.split(jax.random.key(0) if key is None else _keys.one(key), num_tasks)
    seen = np.asarray(_watch(optimizer, family, keys, horizon))
    if not np.isfinite(seen[:, 0]).any():
        raise ValueError(f"The gradient is not finite at the start of any of {num_tasks} tasks drawn from the family.")
    return {
        "start": _quantiles(seen[:, 0]),
        "run": _quantiles(seen),
        "num_params": _num_params(family),
        "num_tasks": num_tasks,
    }


@eqx.filter_jit
def at_start(family: TaskFamily, keys: Key[Array, " num_tasks"]) -> Float[Array, " num_tasks"]:
    """The `rms` of the first gradient on the task of every key, as `l2o.evaluate` would meet it."""

    def one(key):
        task, state, batch_key = begin(family, optax.identity(), key)
        return rms(jax.grad(task.loss)(state.params, loss_key(batch_key, state.step, "train")))

    return jax.lax.map(one, keys)


@eqx.filter_jit
def _watch(optimizer, family, keys, horizon):
    def one(key):
        task, state, batch_key = begin(family, optimizer, key)
        return unroll(task, optimizer, state, batch_key, length=horizon, record=lambda step: rms(step.gradient))[1]

    return jax.lax.map(one, keys, batch_size=4)


def _quantiles(values):
    finite = values[np.isfinite(values)]
    return [float(f"{q:.3g}") for q in np.quantile(finite, QUANTILES)]


def _num_params(family):
    key = jax.random.key(0)
    params = eqx.filter_eval_shape(lambda: family(key).init(key))
    return sum(leaf.size for leaf in jax.tree.leaves(params))
