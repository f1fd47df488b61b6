"""Hyperparameters chosen by trials, all of them in one vectorised program."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from l2o.core import keys as _keys
from l2o.core import parallel
from l2o.core.checks import count, counts, kind, real
from l2o.core.finals import means_to_minimise
from l2o.core.optimizer import check_optimizer
from l2o.core.task import TaskFamily, check_callable
from l2o.core.unroll import begin, unroll
from l2o.evaluation.trials import SCHEDULES, Trial, Tuned, rate_of
from l2o.optimizers import baselines


@dataclasses.dataclass(frozen=True)
class Search:
    """The budget and the space in which every baseline is tuned, the same for all.

    **Arguments:**

    - `num_trials`: settings tried.
    - `kind`: "grid": rates evenly spaced in the logarithm, for each of `schedules`; weight decay at optax's default.
        "random": everything drawn independently, rates and weight decays log-uniformly (Bergstra & Bengio 2012).
    - `rates`: smallest and largest learning rate.
    - `schedules`: "constant", "cosine" (to zero at the horizon), "warmup_cosine" (a tenth of the horizon linear, then cosine).
    - `weight_decays`: smallest and largest, for random search of rules that have one (AdamW, Lion, Muon, schedule-free).

    **Raises:** `ValueError` for a kind or schedule that does not exist, bounds that are not positive, finite and ascending, or a
    budget too small for the grid.
    """

    num_trials: int = 11
    kind: str = "grid"
    rates: tuple[float, float] = (1e-4, 10.0)
    schedules: tuple[str, ...] = ("constant",)
    weight_decays: tuple[float, float] | None = None

    def __post_init__(self):
        if self.kind not in ("grid", "random"):
            raise ValueError(f"`kind` must be grid or random, got {self.kind!r}.")
        kind("schedules", self.schedules, tuple | list, "a tuple of names, such as ('constant',)")
        unknown = [s for s in self.schedules if s not in SCHEDULES]
        if unknown or not self.schedules:
            raise ValueError(f"No schedule named {(unknown or [''])[0]!r}. Schedules: {', '.join(SCHEDULES)}.")
        count("num_trials", self.num_trials)
        if self.num_trials < len(self.schedules):
            raise ValueError(
                f"{self.num_trials} trials cannot cover {len(self.schedules)} schedules. Allow more trials."
            )
        if self.weight_decays and self.kind == "grid":
            raise ValueError(
                "Weight decay is searched at random only: pass kind='random', or leave `weight_decays` out."
            )
        _check_bounds("rates", self.rates)
        if self.weight_decays is not None:
            _check_bounds("weight_decays", self.weight_decays)

    def trials(self, key: PRNGKeyArray) -> Trial:
        """The settings tried: arrays [num_trials], in ascending order of the rate for a grid."""
        indices = np.array([SCHEDULES.index(s) for s in self.schedules])
        if self.kind == "grid":
            per_schedule = self.num_trials // len(indices)
            rates = np.repeat(np.geomspace(*self.rates, per_schedule), len(indices))
            return Trial(rates, np.tile(indices, per_schedule), np.full(len(rates), np.nan))
        rng = np.random.default_rng(np.asarray(jax.random.key_data(_keys.one(key))).ravel())
        num = self.num_trials
        rates, schedules = _log_uniform(rng, self.rates, num), rng.choice(indices, num)
        decays = _log_uniform(rng, self.weight_decays, num) if self.weight_decays else np.full(num, np.nan)
        return Trial(rates, schedules, decays)

    def make(self, baseline: baselines.Baseline, horizon: int) -> Callable[[Trial], Any]:
        """The function from a trial to `baseline`'s optimizer; schedules end at `horizon`."""

        def make(trial):
            options = {"weight_decay": trial.weight_decay} if self.weight_decays and baseline.weight_decay else {}
            if self.schedules == ("constant",):
                return baseline.make(trial.rate, **options)
            return baseline.make(lambda step: trial.rate * _scale(trial.schedule, step, horizon), **options)

        return make


def _check_bounds(name, bounds):
    kind(name, bounds, Sequence, "two numbers, such as (1e-4, 10.0)")
    if len(bounds) != 2 or not 0 < real(name, bounds[0]) <= real(name, bounds[1]) < float("inf"):
        raise ValueError(f"`{name}` must be two numbers, positive, finite and ascending, got {bounds}.")


def _log_uniform(rng, bounds, num):
    return np.exp(rng.uniform(*np.log(bounds), num))


def _scale(schedule, step, horizon):
    scales = [baselines.schedule(name, horizon)(step) for name in SCHEDULES]
    return jnp.stack([jnp.asarray(s, jnp.float32) for s in scales])[schedule]


def one_of(index: Int[Array, ""], rules: Sequence[optax.GradientTransformation]) -> optax.GradientTransformation:
    """The rule at `index`, which may be traced: all of them share one compiled program, their task's gradient included.

    Compiling is what small comparisons spend their time on. The state is one vector as long as the largest of the rules'.
    """
    rules = [optax.with_extra_args_support(rule) for rule in rules]

    def flat_state(rule, params):
        """A function from its state to a vector, and back."""
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(rule.init, params))
        vector, unravel = ravel_pytree(zeros)
        return vector.size, lambda v: unravel(v[: vector.size].astype(vector.dtype))

    def to_vector(state, size):
        vector = ravel_pytree(state)[0]
        return jnp.zeros(size, jnp.float32).at[: vector.size].set(vector.astype(jnp.float32))

    def init(params):
        size = max(flat_state(rule, params)[0] for rule in rules)
        return jax.lax.switch(index, [lambda p, r=rule: to_vector(r.init(p), size) for rule in rules], params)

    def update(updates, state, params=None, **extra):
        def branch(rule):
            _, unravel = flat_state(rule, params)

            def step(updates, state, params):
                updates, new = rule.update(updates, unravel(state), params, **extra)
                return updates, to_vector(new, state.size)

            return step

        return jax.lax.switch(index, [branch(rule) for rule in rules], updates, state, params)

    return optax.GradientTransformationExtraArgs(init, update)


def tune(
    make_optimizer: Callable[[Any], Any],
    grid: PyTree,
    family: TaskFamily,
    *,
    horizon: int,
    num_tasks: int,
    key: PRNGKeyArray,
    final_steps: int | None = None,
    batch_size: int | None = None,
    devices: Sequence[parallel.Device] | None = None,
) -> Tuned:
    """The value of `grid` for which `make_optimizer(value)` has the smallest mean final loss.

    Every value sees the same tasks and minibatches. Pass another key than the one results are reported on.

    **Arguments:** `grid`: values along the first axis, of an array or of every leaf of a pytree (`Search.trials`).
    `final_steps`: the final loss is the mean over this many last steps; default a tenth of the horizon
    (minibatch losses are noisy). `batch_size`: tasks run at once on a device, each with the whole grid; default one.
    `devices`: default all local ones.

    **Raises:** `ValueError` if every value of the grid diverges, and for numbers that are not positive and whole, an empty grid,
    or one whose leaves are not of one length.
    """
    key = _keys.one(key)
    kind("make_optimizer", make_optimizer, callable, "a function from a value to an optimizer, such as `optax.adam`")
    check_callable(family)
    counts(horizon=horizon, num_tasks=num_tasks, final_steps=final_steps, batch_size=batch_size)
    final_steps = final_steps or max(1, horizon // 10)
    if final_steps > horizon + 1:
        raise ValueError(
            f"`final_steps` must be at most the number of losses, `horizon` + 1, got final_steps={final_steps} and "
            f"horizon={horizon}."
        )
    grid = jax.tree.map(np.asarray, grid)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(grid)]
    if not shapes or any(len(shape) != 1 for shape in shapes) or len(set(shapes)) != 1 or shapes[0] == (0,):
        raise ValueError(
            f"`grid` must hold values along one axis, in an array or in every leaf of a pytree, got leaves of shapes {shapes}."
        )
    devices = parallel.share(num_tasks, devices)
    shares = jax.random.split(key, num_tasks).reshape(len(devices), -1)
    arguments = [parallel.put((on_device(grid), family, keys), d) for keys, d in zip(shares, devices, strict=True)]
    options = {"horizon": horizon, "final_steps": final_steps, "batch_size": batch_size}
    program = eqx.filter_jit(final_losses)
    runs = parallel.run_on_each(lambda *a: program(make_optimizer, *a, **options), arguments)
    tuned = chosen(grid, np.concatenate([np.asarray(r) for r in runs], axis=1))
    if not np.isfinite(tuned.losses).any():
        raise ValueError(
            f"Every run diverged at some task, for all of the grid {jax.tree.map(lambda x: x.tolist(), grid)}. "
            "Try smaller values."
        )
    return tuned


def final_losses(
    make_optimizer: Callable[[Any], Any],
    grid: PyTree,
    family: TaskFamily,
    keys: Key[Array, " num_tasks"],
    *,
    horizon: int,
    final_steps: int,
    batch_size: int | None = None,
) -> Float[Array, "num_values num_tasks"]:
    """Every task's final loss under every value of the grid, to be compiled by the caller."""

    def one(value, key):
        optimizer = check_optimizer("make_optimizer(value)", make_optimizer(value))
        task, state, batch_key = begin(family, optimizer, key)
        _, losses = unroll(task, optimizer, state, batch_key, length=horizon + 1)
        return jnp.mean(losses[-final_steps:])

    # The grid innermost: a minibatch is drawn once for all values, and its products with their params are one.
    runs = jax.lax.map(
        lambda key: jax.vmap(one, in_axes=(0, None))(grid, key), keys, batch_size=batch_size or len(keys)
    )
    return runs.T


def chosen(grid: PyTree, runs: Float[np.ndarray, "num_values num_tasks"]) -> Tuned:
    """The best value of the grid, given every run's final loss."""
    losses = np.asarray(means_to_minimise(runs))
    best = int(np.argmin(losses))
    value = jax.tree.map(lambda x: x[best].item(), grid)
    rates = rate_of(grid)
    watched = jax.tree.leaves(grid) if rates is None else [np.asarray(rates)]
    return Tuned(value, any(bool(x[best] in (x.min(), x.max())) for x in watched), grid, losses)


def on_device(grid: PyTree) -> PyTree:
    """The grid as JAX arrays, floats in single precision unless 64 bits are enabled."""
    return jax.tree.map(jnp.asarray, grid)
