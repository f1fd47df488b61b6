"""A family of one task."""

import equinox as eqx

from l2o.core.task import AbstractTask


class OneTask(eqx.Module):
    """The same problem for every key; keys choose the start and the minibatches. All tasks share one copy of its arrays."""

    task: AbstractTask

    def __call__(self, key):
        return self.task
