r"""One meta-step, $\varphi \leftarrow \varphi + \mathrm{outer\_opt}(\hat\nabla L(\varphi))$, as a pure function of a pytree."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from l2o.core import keys, parallel
from l2o.core.checks import kind, positive, real
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer
from l2o.meta.estimators import AbstractGradientEstimator
from l2o.optimizers.wrappers.beyond import bare


class MetaState(eqx.Module):
    """Where meta-training stands."""

    optimizer: AbstractLearnedOptimizer  # whose arrays are the meta-parameters
    average: PyTree  # of these arrays, an exponential moving average
    outer_state: optax.OptState
    episodes: (
        PyTree  # of the estimator: a tuple with an item for every device, or arrays whose first axis the devices share
    )
    key: PRNGKeyArray  # from which all meta-steps draw
    step: Int[Array, ""]  # meta-steps done
    num_skipped: Int[Array, ""]  # of these, without an update: nothing was finite, or too many tasks diverged
    num_diverged: Int[Array, ""]  # episodes whose meta-loss or meta-gradient was not finite

    @property
    def averaged(self) -> AbstractLearnedOptimizer:
        """The optimizer with the average in the place of its arrays."""
        return eqx.combine(self.average, self.optimizer)


class MetaTraining:
    r"""Meta-training by single steps, for loops of your own. `l2o.meta_train` is a loop over this, with checkpoints.

    ```python
    training = l2o.MetaTraining(l2o.BPTT(problem, num_tasks=64))
    state = training.init(l2o.LSTM(key=key), key)
    for _ in range(1000):
        state, metrics = training.step(state)
    optimizer = state.optimizer
    ```

    `step` is pure: the same state gives the same result. On one device it may stand inside `jax.jit`, `jax.lax.scan` or, over a
    batch of states, `jax.vmap`. Several devices share the tasks. Those of a CPU run a program each, from threads: XLA runs a scan
    on one core, and collectives between host devices can deadlock. Accelerators run one program (`jax.shard_map`).

    **Arguments:** as of `l2o.meta_train`; `sharded`: one program for all devices, or one for each. Default: one for all where
    they are no CPUs.

    **Raises:** `ValueError` for numbers out of range, `TypeError` for what is no estimator or no optax transformation.
    """

    def __init__(
        self,
        estimator: AbstractGradientEstimator,
        outer_opt: optax.GradientTransformation | None = None,
        *,
        average: float = 0.0,
        max_diverged: float = 0.5,
        devices: Sequence[parallel.Device] | None = None,
        sharded: bool | None = None,
    ):
        kind(
            "estimator",
            estimator,
            AbstractGradientEstimator,
            "a gradient estimator, such as `l2o.BPTT(problem, num_tasks=64)`",
        )
        self.outer_opt = default_outer_optimizer() if outer_opt is None else outer_opt
        kind(
            "outer_opt",
            self.outer_opt,
            optax.GradientTransformation,
            "an optax transformation, such as `optax.adam(1e-3)`",
        )
        if not 0 <= real("average", average) < 1:
            raise ValueError(f"`average` must be at least 0 and below 1, got {average}.")
        if not 0 <= real("max_diverged", max_diverged) <= 1:
            raise ValueError(f"`max_diverged` is a share of the tasks, from 0 to 1, got {max_diverged}.")
        self.estimator, self.average, self.max_diverged = estimator, average, max_diverged
        self.devices = parallel.share(estimator.num_tasks if estimator.jitted else 1, devices)
        self.sharded = any(d.platform != "cpu" for d in self.devices) if sharded is None else sharded
        self.sharded &= estimator.jitted and len(self.devices) > 1
        self._share = estimator.share(len(self.devices))  # what each device does
        self._shares = [parallel.put(self._share, device) for device in self.devices]
        self._mesh = Mesh(np.asarray(self.devices), ("tasks",))

    @property
    def num_tasks(self) -> int:
        """In every meta-step, on all devices."""
        return len(self.devices) * _num_tasks(self._share)

    def init(self, optimizer: Optimizer, key: PRNGKeyArray, init_key: PRNGKeyArray | None = None) -> MetaState:
        """The start: episodes begin, with keys from `init_key`, and meta-steps will draw theirs from `key`.

        **Raises:** `ValueError` if the optimizer has no meta-parameters, as an optax transformation has none.
        """
        rule = check_trainable(bare(optimizer))
        key = keys.one(key)
        if init_key is None:
            key, init_key = jax.random.split(key)
        init_keys = jax.random.split(keys.one(init_key), len(self.devices))
        if self.sharded:
            episodes = _init_sharded(self._share, rule, init_keys, self._mesh)
            rule = parallel.put(rule, NamedSharding(self._mesh, PartitionSpec()))
        else:
            init = _init_jitted if self.estimator.jitted else _init
            episodes = tuple(
                init(share, *parallel.put((rule, k), device))
                for share, k, device in zip(self._shares, init_keys, self.devices, strict=True)
            )
            rule = parallel.put(rule, self.devices[0])
        arrays = eqx.filter(rule, eqx.is_inexact_array)
        zero = jnp.zeros((), jnp.int32)
        return MetaState(rule, arrays, self.outer_opt.init(arrays), episodes, key, zero, zero, zero)

    def step(self, state: MetaState) -> tuple[MetaState, dict[str, Array]]:
        """The next state and, of this meta-step, "meta_loss", "gradient_norm", "share_diverged" and whether it was "skipped".

        Tasks that diverged are left out of the mean. Devices count as much as they have tasks left.
        """
        step_keys = jax.random.split(keys.of_step(state.key, state.step), len(self.devices))
        if self.sharded:
            (losses, gradients, lost), episodes = _estimate_sharded(self._share, state, step_keys, self._mesh)
        else:
            estimate = _estimate_jitted if self.estimator.jitted else _estimate
            inputs = zip(self._shares, state.episodes, step_keys, self.devices, strict=True)
            found = parallel.run_on_each(
                estimate, [(share, *parallel.put((state.optimizer, e, k), device)) for share, e, k, device in inputs]
            )
            home = [jax.device_put(estimate, self.devices[0]) for estimate, _ in found]
            episodes = tuple(episodes for _, episodes in found)
            losses, gradients, lost = zip(*((e.meta_loss, e.gradient, e.num_diverged) for e in home), strict=True)
        lost = jnp.stack(lost)
        weights, left, meta_loss = _weighed(jnp.stack(losses), lost, _num_tasks(self._share))
        arrays, static = eqx.partition(state.optimizer, eqx.is_inexact_array)
        before = arrays, state.average, state.outer_state
        stepped, norm = _outer_step(self.outer_opt, *before, gradients, weights, self.average)
        share = jnp.sum(lost) / self.num_tasks
        taken = jnp.isfinite(norm) & (left > 0) & (share <= self.max_diverged)
        arrays, average, outer_state = _chosen(taken, stepped, before)
        metrics = {"meta_loss": meta_loss, "gradient_norm": norm, "share_diverged": share, "skipped": ~taken}
        state = MetaState(
            optimizer=eqx.combine(arrays, static),
            average=average,
            outer_state=outer_state,
            episodes=episodes,
            key=state.key,
            step=state.step + 1,
            num_skipped=state.num_skipped + ~taken,
            num_diverged=state.num_diverged + jnp.sum(lost).astype(state.num_diverged.dtype),
        )
        return state, metrics


def default_outer_optimizer(
    learning_rate: optax.ScalarOrSchedule = 1e-3, max_norm: float = 0.1
) -> optax.GradientTransformation:
    """Adam behind a clip of the meta-gradient's global norm: the mean over tasks is clipped, not each task's.

    **Raises:** `ValueError` for a `max_norm` that is not positive (infinite: no clip), or a rate that is not positive and finite.
    """
    positive("max_norm", max_norm, finite=False)
    if not callable(learning_rate):
        positive("learning_rate", learning_rate)
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate))


def check_trainable(optimizer: Any) -> AbstractLearnedOptimizer:
    """The optimizer, if it has meta-parameters: a run would change nothing without.

    **Raises:** `ValueError`.
    """
    if any(leaf.size for leaf in jax.tree.leaves(eqx.filter(optimizer, eqx.is_inexact_array))):
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "There is nothing to train: an optax transformation hides what it is made of in functions, learned rules as well. "
            "Chain a learned rule with optax's by `l2o.chain(optax.clip(1.0), rule)`, whose meta-parameters are the rule's."
        )
    raise ValueError(
        f"There is nothing to train: {type(optimizer).__name__} has no floating JAX arrays among its leaves, which are what is "
        "trained. Fields that are static, Python numbers, NumPy arrays, and learned rules inside of optax transformations "
        "(`optax.chain`; use `l2o.chain`) are not."
    )


def _num_tasks(estimator):
    return sum(part.num_tasks for part in estimator.parts)


def _init(estimator, optimizer, key):
    return estimator.init(optimizer, key)


def _estimate(estimator, optimizer, episodes, key):
    return estimator.estimate(optimizer, episodes, key)


_init_jitted, _estimate_jitted = eqx.filter_jit(_init), eqx.filter_jit(_estimate)


@eqx.filter_jit
def _init_sharded(estimator, optimizer, init_keys, mesh):
    """Episodes, on the first axis those of each device."""
    arrays, static = eqx.partition((estimator, optimizer), eqx.is_array)

    def one(arrays, keys):
        estimator, optimizer = eqx.combine(arrays, static)
        return jax.tree.map(lambda x: x[None], estimator.init(optimizer, keys[0]))

    return jax.shard_map(one, mesh=mesh, in_specs=(_ALL, _SHARED), out_specs=_SHARED, check_vma=False)(
        arrays, init_keys
    )


@eqx.filter_jit
def _estimate_sharded(estimator, state, step_keys, mesh):
    """What every device found, on the first axis of losses, gradients and counts, and its episodes."""
    arrays, static = eqx.partition((estimator, state.optimizer), eqx.is_array)

    def one(arrays, episodes, keys):
        estimator, optimizer = eqx.combine(arrays, static)
        mine = jax.tree.map(lambda x: x[0], episodes)
        found, mine = estimator.estimate(optimizer, mine, keys[0])
        return jax.tree.map(lambda x: x[None], ((found.meta_loss, found.gradient, found.num_diverged), mine))

    specs = (_ALL, _SHARED, _SHARED)
    shared = jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=_SHARED, check_vma=False)
    return shared(arrays, state.episodes, step_keys)


_ALL, _SHARED = PartitionSpec(), PartitionSpec("tasks")


@eqx.filter_jit
def _weighed(losses, lost, num_tasks):
    """What each device's mean counts, of `num_tasks` tasks fewer those `lost`; how many are left, and the mean of the losses."""
    left = jnp.maximum(0, num_tasks - lost)
    weights = jnp.where(jnp.any(left), left / jnp.max(left), 1)
    return weights, jnp.sum(left), jnp.sum(jnp.where(weights > 0, weights * losses, 0)) / jnp.sum(weights)


@eqx.filter_jit
def _outer_step(outer_opt, arrays, averaged, outer_state, gradients, weights, average):
    """One outer update with the weighted mean of the devices' meta-gradients."""
    if not isinstance(gradients, tuple):  # of one program for all devices, on the first axis
        gradients = [jax.tree.map(lambda x, i=i: x[i], gradients) for i in range(len(weights))]

    def mean_of(*parts):
        weighted = [jnp.where(w > 0, w.astype(g.dtype) * g, 0) for w, g in zip(weights, parts, strict=True)]
        return (sum(weighted[1:], start=weighted[0]) / jnp.sum(weights)).astype(parts[0].dtype)

    mean = jax.tree.map(mean_of, *gradients)
    updates, outer_state = outer_opt.update(mean, outer_state, arrays)
    arrays = eqx.apply_updates(arrays, updates)
    return (arrays, optax.incremental_update(arrays, averaged, 1 - average), outer_state), optax.tree.norm(mean)


@eqx.filter_jit
def _chosen(taken, new, old):
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)
