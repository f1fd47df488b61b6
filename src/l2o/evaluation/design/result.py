"""What a design found: the winner, by how much it wins, and all that was tried."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from l2o.core.finals import unsolved
from l2o.core.intervals import binomial_interval
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.evaluation.costs import StepCost
from l2o.evaluation.statistics import IntervalEstimate, bootstrap_interval, ratio_interval
from l2o.optimizers import pretrained


class Progress(NamedTuple):
    """Where a design stands."""

    stage: str  # in words
    share: float  # of the time that has passed
    best: str  # name of the best so far
    ratio: (
        float  # of its mean loss to the best tuned baseline's, on tasks that neither was chosen on; NaN: not known yet
    )
    seconds_left: float


class Candidate(NamedTuple):
    """An optimizer that took part in the race."""

    name: str
    optimizer: AbstractLearnedOptimizer
    baseline: bool  # hand-designed, and tuned
    validation: Float[np.ndarray, " num_tasks"]  # its last losses on the validation tasks
    what: str = ""  # how it was made, in words
    test: Float[np.ndarray, " num_tasks"] | None = None  # on fresh tasks; None: it was out of the race by then
    cost: StepCost | None = None
    target: float | None = None  # where what counts is how many runs end below it

    @property
    def counted(self) -> Float[np.ndarray, " num_tasks"]:
        """What counts on each of the validation tasks: the loss, or whether it is `unsolved`."""
        return self._counted(self.validation)

    @property
    def mean(self) -> float:
        """Of what counts on the validation tasks; infinite if the loss counts and it diverged on one."""
        return _mean(self.counted)

    @property
    def test_mean(self) -> float:
        """The same on fresh tasks.

        **Raises:** `ValueError` if it was out of the race by then.
        """
        if self.test is None:
            raise ValueError(f"{self.name} was not run on fresh tasks.")
        return _mean(self._counted(self.test))

    def _counted(self, losses):
        return losses if self.target is None else unsolved(losses, self.target)

    @property
    def judged(self) -> Float[np.ndarray, " num_tasks"]:
        """Its last losses on fresh tasks; on the validation tasks where there are no others."""
        return self.validation if self.test is None else self.test


@dataclasses.dataclass
class Designed:
    """Result of `design`."""

    optimizer: AbstractLearnedOptimizer  # the winner: a rule like any other, for `l2o.save`, optax and `l2o.torch`
    winner: Candidate
    baseline: Candidate  # the best of those that were tuned
    candidates: list[Candidate]  # all, the best by validation first
    horizon: int
    by: str
    deterministic: bool
    num_params: int
    finished: bool  # False: it was interrupted, and this is the best so far
    seconds: float
    num_runs: float  # inner runs that the search took, tuning not counted
    name: str = "this family"
    target: float | None = None

    @property
    def beats_tuning(self) -> bool:
        """Whether the winner is anything but a tuned baseline."""
        return not self.winner.baseline

    @property
    def ratio(self) -> IntervalEstimate:
        """Mean last loss of the winner over that of the best tuned baseline, with its 95 % interval, on fresh tasks.

        On the validation tasks if it was interrupted before there were any. NaN where losses may be negative.
        """
        ours, theirs = self.winner.judged, self.baseline.judged
        return IntervalEstimate(*ratio_interval(ours, theirs))

    def solved(self, candidate: Candidate) -> IntervalEstimate:
        """The share of the fresh tasks that it ends on at a loss of at most `target`, with its exact binomial 95 % interval.

        **Raises:** `ValueError` if the design had no target.
        """
        if self.target is None:
            raise ValueError("Nothing says what is solved: this design had no `target`.")
        return binomial_interval(int((candidate.judged <= self.target).sum()), len(candidate.judged))

    @property
    def difference(self) -> IntervalEstimate:
        """Mean last loss of the winner less that of the best tuned baseline, with its 95 % interval."""
        ours, theirs = self.winner.judged, self.baseline.judged
        found = np.asarray(ours - theirs, float)
        return IntervalEstimate(float(found.mean()), *bootstrap_interval(found))

    @property
    def recipe(self) -> dict[str, Any]:
        """How it was made, for the header of its weights."""
        return {
            "task": self.name,
            "horizon": self.horizon,
            "seconds": round(self.seconds, 1),
            "num_episodes": self.num_runs,
            "num_inner_steps": self.num_runs * self.horizon,
            "made_by": "l2o.design",
            **({} if self.target is None else {"target": self.target, "share_solved": list(self.solved(self.winner))}),
            "ratio_to_best_baseline": [float(x) if np.isfinite(x) else None for x in self.ratio],
            "best_baseline": str(self.baseline.optimizer),
        }

    def save(self, path: str | Path) -> Path:
        """Writes the winner's weights, which `l2o.load` and `l2o.torch.LearnedOptimizer` take.

        **Raises:** `OSError` if they cannot be written.
        """
        pretrained.save(path, self.optimizer, recipe=self.recipe)
        return Path(path)


def _mean(values):
    return float(np.mean(values)) if np.isfinite(values).all() else float("inf")


def surely_better(ours: Candidate, theirs: Candidate) -> bool:
    """Whether `ours` has the smaller mean on the validation tasks beyond doubt: its 95 % interval says so."""
    if not np.isfinite(ours.counted).all():
        return False
    if not np.isfinite(theirs.counted).all():
        return True
    ratio, _, high = ratio_interval(ours.counted, theirs.counted)
    if np.isfinite(ratio):
        return high < 1
    _, high = bootstrap_interval(np.asarray(ours.counted - theirs.counted, float))
    return high < 0
