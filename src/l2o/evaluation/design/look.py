"""What a family is like: whether it is deterministic, how large its gradients are, and what a run costs."""

import time
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from l2o.core import keys as _keys
from l2o.core import scale
from l2o.core.coordinates import num_coordinates
from l2o.core.finals import FinalLosses
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily, is_deterministic
from l2o.optimizers.wrappers.partitioned import LABELS

# Operations of all candidates side by side above which tasks run one after the other: then a core is busy, and more would
# only push each other out of its cache.
_ENOUGH = 2e6
_TRANSCENDENTAL = 10  # operations that one is worth
_NUM_EVALS = 8  # minibatches on which a loss is judged where it depends on them


class Look(NamedTuple):
    """What was seen."""

    deterministic: bool
    num_params: int
    gradient_rms: float  # root mean square of a coordinate of the first gradient, median over tasks
    operations: float  # of a loss and its gradient
    labels: dict[str, list[str]]  # by name of a label, the groups into which it parts the params

    @property
    def num_evals(self) -> int:
        """Minibatches on which a run's last loss is judged."""
        return 1 if self.deterministic else _NUM_EVALS

    def batch_size(self, num_candidates: int) -> int:
        """Tasks to run at once, each with so many candidates."""
        return max(1, int(_ENOUGH // max(1.0, self.operations * num_candidates)))


def look(family: TaskFamily, key: PRNGKeyArray, num_tasks: int = 8) -> Look:
    """Looks at a family.

    **Raises:** `ValueError` if its params have no coordinates to move.
    """
    keys = jax.random.split(key, num_tasks)
    params = jax.eval_shape(lambda: family(key).init(key))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    num = num_coordinates(params)
    if num == 0:
        raise ValueError("The params of this family have no floating or complex numbers: there is nothing to optimize.")
    rms = np.asarray(scale.at_start(family, keys))
    known = rms[np.isfinite(rms) & (rms > 0)]
    return Look(
        deterministic=is_deterministic(family, key),
        num_params=num,
        gradient_rms=float(np.median(known)) if known.size else 1.0,
        operations=_operations(family, key),
        labels={name: sorted({label(path, leaf) for path, leaf in leaves}) for name, label in LABELS.items()},
    )


def measured(
    runs: FinalLosses, rule: AbstractLearnedOptimizer, key: PRNGKeyArray, num_together: int, num_tasks: int
) -> tuple[float, float]:
    """Runs a second, of so many rules side by side, and the seconds that it takes to compile them."""
    arrays = jax.tree.map(lambda x: jnp.stack([x] * num_together), eqx.filter(rule, eqx.is_inexact_array))
    times = []
    for i in range(2):
        begun = time.monotonic()
        runs(arrays, jax.random.split(jax.random.fold_in(key, i), num_tasks))
        times.append(time.monotonic() - begun)
    return num_together * num_tasks / max(1e-3, times[1]), max(0.0, times[0] - times[1])


def _operations(family, key):
    """Of a loss and its gradient, as XLA counts them before it compiles; making the task is left out."""
    task = eqx.filter_eval_shape(family, _keys.of_task(key))
    arrays, static = eqx.partition(task, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    params = eqx.filter_eval_shape(task.init, key)

    def gradient(arrays, params, key):
        return jax.value_and_grad(eqx.combine(arrays, static).loss)(params, key)

    counted = jax.jit(gradient).lower(arrays, params, key).cost_analysis() or {}
    return float(counted.get("flops", 0.0)) + _TRANSCENDENTAL * float(counted.get("transcendentals", 0.0)) + 1.0
