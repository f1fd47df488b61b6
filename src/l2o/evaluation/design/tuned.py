"""The baselines of a design, each tuned with and without schedules: who is to be beaten, and may win."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Key
from msgspec import Meta

from l2o.core import parallel
from l2o.core.finals import FinalLosses, means_to_minimise
from l2o.core.task import TaskFamily
from l2o.evaluation.design.plan import Tuning
from l2o.evaluation.trials import SCHEDULES, Trial
from l2o.evaluation.tuning import Search, on_device
from l2o.optimizers import baselines
from l2o.optimizers.hand_designed import HandDesigned

CHUNK = 11  # trials in one program
_MOST = 6  # times that the grid is extended beyond its edge


class TunedBaseline(NamedTuple):
    """A baseline, and what came of tuning it."""

    rule: HandDesigned
    loss: float  # as of `Found`; infinite if every trial diverged
    num_trials: int


class Found(NamedTuple):
    """What came of tuning, in plain values."""

    rate: Annotated[float, Meta(gt=0, le=1e30)]
    schedule: Literal["constant", "cosine", "warmup_cosine"]
    loss: float | None  # mean over the tasks of the last round, of losses or `unsolved`; None: every trial diverged
    num_trials: Annotated[int, Meta(ge=1, le=10_000)]


def tune_baseline(
    name: str,
    family: TaskFamily,
    keys: Key[Array, " num_tasks"],
    tuning: Tuning,
    *,
    horizon: int,
    num_evals: int,
    batch_size: int,
    target: float | None = None,
    devices: Sequence[parallel.Device] | None = None,
) -> Found:
    """The best rate and schedule: a grid, on some of the tasks, then the best and their neighbours on all.

    While the best rate is at an edge of the grid, the grid goes on beyond it.
    """
    schedules = SCHEDULES[: tuning.schedules]
    search = Search((5 * tuning.per_decade + 1) * len(schedules), "grid", (1e-4, 10.0), schedules)
    make, step = search.make(baselines.get(name), horizon), 10 ** (1 / tuning.per_decade)
    options = {"horizon": horizon, "num_evals": num_evals, "batch_size": batch_size, "devices": devices}
    runs, num_first = FinalLosses(make, family, **options), max(1, len(keys) // tuning.more)

    def judge(trials, keys):
        found = runs(on_device(trials), keys, values_together=CHUNK, tasks_together=num_first)
        return np.asarray(means_to_minimise(found, target))

    trials = search.trials(keys[0])
    losses = judge(trials, keys[:num_first])
    for _ in range(_MOST):
        if not np.isfinite(losses).any():
            rates = trials.rate.min() / step ** np.arange(1.0, 5.0)
        else:
            best = trials.rate[np.argmin(losses)]
            if trials.rate.min() < best < trials.rate.max():
                break
            rates = best * step ** (np.arange(1.0, 3.0) * (1 if best == trials.rate.max() else -1))
        more = _trials(np.repeat(rates, len(schedules)), np.tile(np.arange(len(schedules)), len(rates)))
        trials = _joined(trials, more)
        losses = np.concatenate([losses, judge(more, keys[:num_first])])
    order = np.argsort(losses, kind="stable")[: tuning.refined]
    shifts = step ** (np.arange(-1, 2) / 3)  # thirds of a step
    refined = _trials(
        *(x.ravel() for x in np.broadcast_arrays(trials.rate[order, None] * shifts, trials.schedule[order, None]))
    )
    final = judge(refined, keys)
    best = int(np.argmin(final))
    return Found(
        float(refined.rate[best]),
        SCHEDULES[int(refined.schedule[best])],
        float(final[best]) if np.isfinite(final[best]) else None,
        len(trials.rate) + len(refined.rate),
    )


def as_rule(name: str, horizon: int, found: Found) -> TunedBaseline:
    """What `tune_baseline` found, as a rule."""
    rule = HandDesigned(name, horizon, rate=found.rate, schedule=found.schedule)
    return TunedBaseline(rule, float("inf") if found.loss is None else found.loss, found.num_trials)


def _trials(rates, schedules):
    return Trial(np.asarray(rates, float), np.asarray(schedules), np.full(len(rates), np.nan))


def _joined(some, others):
    return Trial(*(np.concatenate(pair) for pair in zip(some, others, strict=True)))
