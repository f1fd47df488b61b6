"""Meta-validation: how good an optimizer is on tasks that it is not trained on."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import PRNGKeyArray

from l2o.core import parallel
from l2o.core.checks import counts
from l2o.core.curves import loss_curves
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily, check_callable


@dataclasses.dataclass(frozen=True)
class Validation:
    """Meta-validation: every `every` meta-steps, the same `num_tasks` tasks are solved for `horizon` steps.

    The score is the mean loss over the last `final_steps` steps (default a tenth of the horizon), the paper's "final
    validation loss"; the optimizer with the best one is kept (Andrychowicz et al. 2016, section 3). A score that is not
    finite is never the best.

    **Raises:** `ValueError` for numbers that are not positive and whole, or more final steps than there are.
    """

    family: TaskFamily
    horizon: int
    num_tasks: int = 16
    every: int = 100
    final_steps: int | None = None
    batch_size: int | None = None

    def __post_init__(self):
        check_callable(self.family)
        counts(
            horizon=self.horizon,
            num_tasks=self.num_tasks,
            every=self.every,
            final_steps=self.final_steps,
            batch_size=self.batch_size,
        )
        if self.final_steps is not None and self.final_steps > self.horizon + 1:
            raise ValueError(
                f"`final_steps` must be at most the number of losses, `horizon` + 1, got final_steps={self.final_steps} and "
                f"horizon={self.horizon}."
            )

    def score(
        self, optimizer: AbstractLearnedOptimizer, key: PRNGKeyArray, devices: Sequence[parallel.Device] | None = None
    ) -> float:
        """Mean final loss on the validation tasks of `key`."""
        curves = loss_curves(
            optimizer,
            self.family,
            horizon=self.horizon,
            num_tasks=self.num_tasks,
            key=key,
            batch_size=self.batch_size,
            devices=devices,
        )
        return float(np.mean(curves[:, -(self.final_steps or max(1, self.horizon // 10)) :]))
