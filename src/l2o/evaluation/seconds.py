"""Optimizers by the clock: what each reaches in the same time, and when it reaches the same loss. Plain numbers.

Curves are recorded by steps. With what a step takes, measured side by side (`l2o.evaluation.timing`), they are curves by seconds,
as far as they go: where a cheap rule would have taken more steps than were recorded, that is said, and nothing is extrapolated.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from l2o.core.intervals import IntervalEstimate, ratio_interval
from l2o.evaluation.costs import StepCost
from l2o.evaluation.records import Record
from l2o.evaluation.statistics import bootstrap_interval, steps_to_reach


class Timed(NamedTuple):
    """One optimizer by the clock of a panel."""

    ms_step: float  # of a whole step: loss, gradient and update
    steps: int  # that it takes in the time
    step: int  # at which its loss is: the same, or the last one recorded
    loss: IntervalEstimate  # mean over tasks; infinite if a run diverged
    num_diverged: int  # runs, at that step
    ratio: IntervalEstimate | None  # of that loss to the best baseline's; None of itself
    seconds_to_target: (
        float  # that its mean curve takes to the target; all that were recorded, if it does not get there
    )
    reached: bool  # whether it gets there

    @property
    def recorded(self) -> bool:
        """Whether all steps that it takes in the time were recorded. If not, what it would have reached is not known."""
        return self.step == self.steps

    def cut(self) -> str:
        """What to say where they were not."""
        return f"its loss after {self.step:,} steps, all that were recorded; in that time it takes {self.steps:,}"


class Clock(NamedTuple):
    """A panel by the clock: the time of the best baseline's run to the horizon, and what everyone makes of it."""

    best: str  # the baseline with the smallest mean loss at the horizon
    seconds: float  # its steps to the horizon take
    target: float  # its mean loss there; NaN if it diverged
    optimizers: dict[str, Timed]


def clock_of(
    records: Mapping[str, Record], costs: Mapping[str, StepCost], best: str, horizon: int, window: int = 1
) -> Clock | None:
    """All whose costs were measured, beside the baseline `best`; None if its own were not."""
    if best not in costs:
        return None
    seconds = horizon * costs[best].ms_step / 1e3
    theirs, target = _losses(records[best], horizon, window), mean_curve(records[best], window)[horizon - window + 1]
    found = {}
    for name, record in records.items():
        if name not in costs:
            continue
        ms_step, last = costs[name].ms_step, record.curves.losses.shape[1] - 1
        # Times are measured, and cannot be told apart to nine digits; rounding must not cost the baseline its last step.
        steps = horizon if name == best else int(1e3 * seconds / ms_step * (1 + 1e-9))
        step = min(steps, last)
        losses = _losses(record, step, window)
        ratio = None if name == best else _ratio(losses, theirs)
        to_target = steps_to_reach(mean_curve(record, window), target) if np.isfinite(target) else None
        reached = to_target is not None
        found[name] = Timed(
            ms_step,
            steps,
            step,
            _mean(losses),
            int((~np.isfinite(losses)).sum()),
            ratio,
            (to_target + window - 1 if reached else last) * ms_step / 1e3,
            reached,
        )
    return Clock(best, seconds, float(target) if np.isfinite(target) else float("nan"), found)


def mean_curve(record: Record, window: int = 1) -> Float[np.ndarray, " num_windows"]:
    """Mean over tasks of the loss over `window` steps; entry 0 is of the first whole window. Infinite where one diverged."""
    with np.errstate(all="ignore"):
        mean = record.curves.losses.mean(axis=0)
        return np.convolve(np.where(np.isfinite(mean), mean, np.inf), np.ones(window) / window, "valid")


def _losses(record, step, window):
    """Each task's mean over the window that ends at `step`, or over all steps where these are fewer."""
    return record.curves.losses[:, max(0, step - window + 1) : step + 1].mean(axis=1, dtype=np.float64)


def _ratio(losses, theirs):
    if not np.isfinite(theirs).all():
        return IntervalEstimate(float("nan"), float("nan"), float("nan"))
    return IntervalEstimate(*ratio_interval(np.where(np.isnan(losses), np.inf, losses), theirs))


def _mean(losses):
    if not np.isfinite(losses).all():
        return IntervalEstimate(float("inf"), float("nan"), float("nan"))
    return IntervalEstimate(float(losses.mean()), *bootstrap_interval(losses))
