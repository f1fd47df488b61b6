"""What a family is like: whether it is deterministic, how large its gradients are, and what a run costs."""

import time
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray, PyTree

from l2o.core import keys as _keys
from l2o.core import parallel, scale
from l2o.core.coordinates import flatten, num_coordinates
from l2o.core.finals import FinalLosses
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily, is_deterministic
from l2o.core.unroll import begin, unroll
from l2o.optimizers.wrappers.partitioned import LABELS

# Operations of all candidates side by side above which tasks run one after the other: then a core is busy, and more would
# only push each other out of its cache.
_ENOUGH = 2e6
_TRANSCENDENTAL = 10  # operations that one is worth
_LEAST_CURVATURE = 1e-20  # of the largest
_NUM_CURVED = 32  # tasks whose curvatures are looked at
_NUM_EVALS = 8  # minibatches on which a loss is judged where it depends on them


class Look(NamedTuple):
    """What was seen."""

    deterministic: bool
    num_params: int
    gradient_rms: float  # root mean square of a coordinate of the first gradient, median over tasks
    real: bool  # whether all params are floating-point numbers
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
        real=all(jnp.issubdtype(x.dtype, jnp.floating) for _, x in leaves),
        operations=_operations(family, key),
        labels={name: sorted({label(path, leaf) for path, leaf in leaves}) for name, label in LABELS.items()},
    )


def curvatures(
    family: TaskFamily, rule: AbstractLearnedOptimizer, key: PRNGKeyArray, *, horizon: int, num_evals: int
) -> PyTree[np.ndarray]:
    r"""How curved losses are along each coordinate where runs of `rule` go: the mean of $|H|_{ii}$, in the params' structure.

    $|H|$ is the Hessian with the absolute values of its eigenvalues, at a third of some runs, two thirds and the end. What is
    not finite is left out. The units of the params make no difference but that they are those of the result. It takes the square
    of the params.
    """

    def of_task(key):
        task, state, batch_key = begin(family, rule, key)
        rebuild = flatten(state.params)[1]

        def loss(x, step):
            one = lambda i: task.loss(rebuild(x), _keys.of_step(batch_key, step + i))
            return jnp.mean(jax.vmap(one)(jnp.arange(num_evals)))

        found = []
        for length in np.diff(np.linspace(0, horizon, 4).round().astype(int)):
            state, _ = unroll(task, rule, state, batch_key, length=int(length))
            found.append(jax.hessian(loss)(flatten(state.params)[0], state.step))
        return jnp.stack(found)

    keys = jax.random.split(key, _NUM_CURVED)
    found = np.asarray(parallel.jit_for_now(lambda keys: jax.lax.map(of_task, keys))(keys), float)
    mean = mean_curvatures(found.reshape(-1, *found.shape[2:]))
    leaves, treedef = jax.tree.flatten(jax.eval_shape(lambda: family(keys[0]).init(keys[0])))
    parts = np.split(mean, np.cumsum([x.size for x in leaves])[:-1])
    return jax.tree.unflatten(treedef, [part.reshape(x.shape) for part, x in zip(parts, leaves, strict=True)])


def mean_curvatures(hessians: Float[np.ndarray, "num size size"]) -> Float[np.ndarray, " size"]:
    r"""The mean of $|H|_{ii}$ over those that are finite; ones if none is.

    In units in which the mean of $|H_{ii}|$ is 1, as units of the params may be so unlike that eigenvalues would drown the small
    ones in rounding errors. There each is divided by its trace, so that none counts for more than another.
    """
    fine = hessians[np.isfinite(hessians).all(axis=(1, 2))]
    if not len(fine):
        return np.ones(hessians.shape[1])
    typical = np.abs(np.diagonal(fine, axis1=1, axis2=2)).mean(axis=0)
    typical = np.maximum(typical, max(_LEAST_CURVATURE * typical.max(), np.finfo(float).tiny))
    unit = typical**-0.5
    values, vectors = np.linalg.eigh(fine * unit[:, None] * unit)
    found = np.einsum("nij,nj->ni", vectors**2, np.abs(values))
    shares = found / np.maximum(found.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return shares.mean(axis=0) * typical


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
