"""What an explanation found, as plain numbers, which are read without JAX. `l2o.evaluation.explanation` finds them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from l2o.evaluation.forms import Fitted
from l2o.evaluation.statistics import IntervalEstimate, bootstrap_interval, ratio_interval
from l2o.evaluation.trials import Tuned

RULE = "rule"  # the name of what is explained, among those of baselines and surrogates


class Response(NamedTuple):
    """The update of one coordinate as a function of its gradient at one step of a run, everything else as it was there.

    Baselines and the best surrogate met the same gradients up to that step.
    """

    coordinate: str
    step: int  # the first is 1
    gradients: Float[np.ndarray, " num"]  # loss per parameter; symmetric about 0
    updates: dict[str, Float[np.ndarray, " num"]]  # by optimizer; in the parameter's unit
    gradient: float  # the one that the run met there
    update: float  # and the rule's update


class Trajectory(NamedTuple):
    """One coordinate of one task under several optimizers, each on its own path."""

    coordinate: str
    params: dict[str, Float[np.ndarray, " horizon"]]
    updates: dict[str, Float[np.ndarray, " horizon"]]


class Exact(NamedTuple):
    """What a rule is that is a formula of a few constants itself, such as `l2o.Momentum`."""

    part: str | None  # of a partitioned optimizer
    formula: str
    optax_code: str  # Python that makes it as `optimizer`, without l2o


class Explanation(NamedTuple):
    """What `explain` found. Optimizers are "rule" (the one explained), "sgd", "adam" and the surrogates by name."""

    part: str | None  # of a partitioned optimizer; surrogates were run in its place, the other parts as they are
    horizon: int
    window: int  # final losses are means over this many last steps
    num_params: int  # of the part, if there is one
    num_fitted: int  # runs that surrogates were fitted to
    num_held_out: int
    num_diverged: int  # of the rule's runs, left out
    num_coordinates: int  # recorded of each run
    fitted: dict[str, Fitted]
    best: str  # of the surrogates within 0.005 of the largest R² on the runs fitted, the one with the fewest constants
    tuned: dict[str, Tuned]  # baselines
    losses: dict[str, Float[np.ndarray, "num_held_out horizon_plus_1"]]  # on the held-out tasks
    against: dict[str, float]  # share of updates with the gradient's own sign (uphill); baselines on the same gradients
    beyond: float  # share of gradients larger than the saturation point of "saturation, memory"
    responses: tuple[Response, ...]
    trajectories: tuple[Trajectory, ...]
    exact: tuple[Exact, ...] = ()  # of the rule, or of those of its parts that are formulas

    @property
    def best_constant(self) -> str:
        """The best surrogate of those whose step sizes do not depend on the step."""
        return best_of({name: found for name, found in self.fitted.items() if not found.form.timed})

    def final(self, name: str, step: int | None = None) -> IntervalEstimate:
        """Mean loss on the held-out tasks after `step` steps (default: all), over the last `window`, and its 95 % interval."""
        losses = self._losses_at(name, step)
        with np.errstate(all="ignore"):
            return IntervalEstimate(float(losses.mean()), *bootstrap_interval(losses))

    def ratio(self, name: str, to: str, step: int | None = None) -> IntervalEstimate:
        """Ratio of such mean losses, paired over tasks, and its 95 % interval."""
        return IntervalEstimate(*ratio_interval(self._losses_at(name, step), self._losses_at(to, step)))

    def num_lost(self, name: str) -> int:
        """Held-out runs that ended in inf or NaN."""
        return int((~np.isfinite(self._losses_at(name, None))).sum())

    def _losses_at(self, name, step):
        last = self.horizon if step is None else step
        with np.errstate(all="ignore"):
            return self.losses[name][:, max(0, last + 1 - self.window) : last + 1].mean(axis=1)

    def steps(self) -> tuple[int, ...]:
        """The steps at which things are told: the first, a tenth, half and all of the horizon (1, 10, 50, 100 of 100)."""
        return steps_told(self.horizon)


def best_of(fitted):
    """As good as the best, and no larger than it need be. Chosen on the runs fitted: held-out ones choose nothing."""
    largest = max(found.r2_fit for found in fitted.values())
    close = [name for name, found in fitted.items() if found.r2_fit >= largest - 0.005]
    return min(close, key=lambda name: fitted[name].num_constants)


def steps_told(horizon: int) -> tuple[int, ...]:
    """As `Explanation.steps`."""
    return tuple(sorted({max(1, round(share * horizon)) for share in (0.01, 0.1, 0.5, 1.0)}))
