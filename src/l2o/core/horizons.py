r"""What becomes of a run that goes on beyond the steps that its rule was meta-trained for.

`l2o.pretrained.save(..., family=family)` writes it into the header of the weights, beside the horizon.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from l2o.core import keys
from l2o.core import keys as _keys
from l2o.core.checks import counts, sizes
from l2o.core.optimizer import Optimizer, check_optimizer, silenced
from l2o.core.task import TaskFamily, check_callable
from l2o.core.unroll import begin, unroll

MULTIPLES = (2, 10)
_NUM_BATCHES = 16


def losses_beyond(
    optimizer: Optimizer,
    family: TaskFamily,
    *,
    horizon: int,
    num_tasks: int = 4,
    multiples: Sequence[int] = MULTIPLES,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    r"""Loss after 2 and 10 times `horizon` steps over that after `horizon`, on `num_tasks` tasks of `family`, for a header.

    With $\bar f$ the mean loss over 16 minibatches, the same for all three, each task's ratio is $\bar f(\theta_{kT}) / \bar
    f(\theta_T)$. "ratios" are their geometric means for every $k$ of "multiples", "worst" the largest ones, and "num_tasks" how
    many tasks there were. Losses below rounding (`ratio`) count as that. A ratio is None where a loss is not finite, or negative.

    **Raises:** `ValueError` for numbers that are not positive and whole; `TypeError` for what is no optimizer or no family.
    """
    check_optimizer("optimizer", optimizer)
    check_callable(family)
    counts(horizon=horizon, num_tasks=num_tasks)
    multiples = sizes("multiples", multiples)
    keys = jax.random.split(jax.random.key(1) if key is None else _keys.one(key), num_tasks)
    steps = tuple(k * horizon for k in (0, 1, *multiples))
    losses = np.stack([np.asarray(losses_at(silenced(optimizer), family, key, steps)) for key in keys])
    return summarised(ratios(losses), multiples)


@eqx.filter_jit
def losses_at(
    optimizer: Optimizer, family: TaskFamily, key: PRNGKeyArray, steps: tuple[int, ...]
) -> Float[Array, " num"]:
    """The loss after so many `steps` (ascending) of the run of `key`: the mean over 16 minibatches, the same ones each time."""
    task, state, batch_key = begin(family, optimizer, key)
    judged = jax.random.split(keys.of_judged(key), _NUM_BATCHES)
    losses, done = [], 0
    for step in steps:
        state, _ = unroll(task, optimizer, state, batch_key, length=step - done)
        losses.append(jnp.mean(jax.lax.map(lambda k, params=state.params: task.loss(params, k), judged)))
        done = step
    return jnp.stack(losses)


def ratios(losses: Float[np.ndarray, "num_runs num"]) -> Float[np.ndarray, "num_runs num_multiples"]:
    """Later losses over that at the horizon, from losses at the start, at the horizon, and later; NaN where they say nothing.

    Losses below single precision's epsilon times that of the start count as that: below it there is only rounding.
    """
    losses = np.asarray(losses, float)
    floor = np.finfo(np.float32).eps * np.abs(losses[:, :1])
    with np.errstate(all="ignore"):
        found = np.maximum(losses[:, 2:], floor) / np.maximum(losses[:, 1:2], floor)
    return np.where(
        np.isfinite(losses).all(axis=1, keepdims=True) & (losses >= 0).all(axis=1, keepdims=True), found, np.nan
    )


def summarised(
    found: Float[np.ndarray, "num_runs num_multiples"], multiples: Sequence[int] = MULTIPLES
) -> dict[str, Any]:
    """What a header says of the `ratios` of several runs."""
    with np.errstate(all="ignore"):
        means = np.exp(np.log(found).mean(axis=0))
    return {
        "multiples": list(multiples),
        "ratios": [_rounded(x) for x in means],
        "worst": [_rounded(x) for x in found.max(axis=0)],  # NaN where any is
        "num_tasks": len(found),
    }


def _rounded(value):
    return float(f"{value:.3g}") if np.isfinite(value) else None
