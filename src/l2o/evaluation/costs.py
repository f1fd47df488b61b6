"""What optimizers cost beside what they reach, as plain numbers: a step, meta-training, and when that pays back.

`l2o.evaluation.timing` measures the steps.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class StepCost(NamedTuple):
    """A step of one optimizer on one family, one task alone on one device."""

    ms_step: float  # of a whole step: loss and gradient, and the update
    ms_optimizer: float  # the update alone; a line search's evaluations are part of it
    state_bytes: int  # of the optimizer's state, beside the params
    num_params: int


class MetaTraining(NamedTuple):
    """What it took to make a learned optimizer."""

    seconds: float
    num_episodes: float  # inner runs
    num_steps: float  # inner steps in all

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "MetaTraining | None":
        """Of the header of saved weights; None if it does not say."""
        if not {"seconds", "num_episodes", "horizon"} <= recipe.keys():
            return None
        num_steps = recipe.get("num_inner_steps", recipe["num_episodes"] * recipe["horizon"])
        return cls(float(recipe["seconds"]), float(recipe["num_episodes"]), float(num_steps))


class BreakEven(NamedTuple):
    """After how many solves meta-training has paid back; inf: never."""

    steps: float  # counted in inner steps
    seconds: float  # counted in seconds on this machine


def against_tuning(meta: MetaTraining, ours: StepCost, theirs: StepCost, *, horizon: int, num_trials: int) -> BreakEven:
    """Against someone who tunes the baseline's rate on each new problem: `num_trials` runs, the best of which is the answer.

    The learned optimizer needs one run. Both run `horizon` steps.
    """
    saved_seconds = horizon * (num_trials * theirs.ms_step - ours.ms_step) / 1e3
    return BreakEven(_solves(meta.num_steps, (num_trials - 1) * horizon), _solves(meta.seconds, saved_seconds))


def against_tuned(
    meta: MetaTraining, ours: StepCost, theirs: StepCost, *, our_steps: int, their_steps: int
) -> BreakEven:
    """Against the best baseline, tuned once and for all, which needs `their_steps` for what takes us `our_steps`."""
    saved_seconds = (their_steps * theirs.ms_step - our_steps * ours.ms_step) / 1e3
    return BreakEven(_solves(meta.num_steps, their_steps - our_steps), _solves(meta.seconds, saved_seconds))


def _solves(invested, saved):
    return invested / saved if saved > 0 else float("inf")
