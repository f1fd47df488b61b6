r"""The inner loop, and the exact first-order meta-gradient through it.

One inner step is $\theta_{t+1} = \theta_t + u_t$ with $[u_t, h_{t+1}] = m(\nabla_t, h_t; \varphi)$. When derivatives of
$\nabla_t$ are dropped (Andrychowicz et al. 2016, section 2), the meta-gradient of $\sum_t w_t f(\theta_t)$ never needs a
derivative *through* the optimizee: the derivative of $f$ at $\theta_t$ is $\nabla_t$, which the forward pass has in hand.
So

$$\frac{dL}{d\varphi} = \frac{\partial}{\partial\varphi} \sum_t \langle c_t,\, u_t(\varphi; \nabla_1 \dots \nabla_t)\rangle,
\qquad c_t = \sum_{s > t} w_s \nabla_s,$$

with $c_t$ and $\nabla_t$ constants. `unroll` has that as its derivative, in the forms below. Gradients that a rule takes itself,
of the `value_fn` that it is handed, are constants as well (`l2o._first_order`), so that all forms agree on every rule that they
take.
"""

import abc
import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from l2o import _first_order, _keys
from l2o._beyond import silenced
from l2o._checks import count, counts, kind, real
from l2o._coordinates import conjugate, flatten, positions
from l2o._optimizer import (
    AbstractCoordinatewise,
    AbstractFlat,
    AbstractLearnedOptimizer,
    Optimizer,
    check_optimizer,
    with_extra_args,
)
from l2o._task import AbstractTask, TaskFamily, check_callable, task_key
from l2o.partitioned import Partitioned, deal


@dataclasses.dataclass(frozen=True)
class Stored:
    """First-order meta-gradient, the optimizer's state stored at every step. Memory O(steps x state).

    Runs the optimizer once forward, once more in the backward pass, and back. For any optimizer, and on a GPU the fastest; on
    a CPU only while the stored states fit the cache.
    """


@dataclasses.dataclass(frozen=True)
class Blocks:
    """First-order meta-gradient, replayed for `size` coordinates at a time. Memory O(steps x coordinates) floats.

    Equal to `Stored`, for coordinatewise optimizers only. Unrolls of thousands of steps fit. Stays within a CPU's cache, and
    leaves out coordinates that no loss sees (pixels that are always black): there it is the faster of the two for networks.

    **Arguments:** `size`: default 256 on a CPU, 16,384 elsewhere.

    **Raises:** `ValueError` for a size that is not a positive whole number.
    """

    size: int | None = None

    def __post_init__(self):
        counts(size=self.size)


@dataclasses.dataclass(frozen=True)
class Sampled:
    r"""First-order meta-gradient from a random `fraction` of the coordinates. Unbiased, and a fraction of the time.

    Coordinate $i$ is drawn with probability $p_i \propto (1 - u)\,\|c_{\cdot,i}\| / \sum_j \|c_{\cdot,j}\| + u / n$, where
    $u$ is `uniform`, and weighted by the inverse of its expected count. The cotangents $c$ are known before the replay,
    so importance sampling costs nothing; draws are systematic (one random offset), which lowers the variance further.
    For coordinatewise optimizers only; the parts of a `Partitioned` one are sampled each by itself. The estimate's variance
    falls with the fraction; only $\varphi$'s gradient is estimated, a gradient with respect to the initial state is refused.
    Draws are fresh in every unroll, so in every truncation of an episode.

    **Raises:** `ValueError` for a `fraction` that is not above 0 and at most 1, or a `uniform` that is not between 0 and 1.
    """

    fraction: float | int = 0.1
    uniform: float | int = 0.1

    def __post_init__(self):
        if not 0 < real("fraction", self.fraction) <= 1:
            raise ValueError(f"`fraction` must be above 0 and at most 1, got {self.fraction!r}.")
        if not 0 <= real("uniform", self.uniform) <= 1:
            raise ValueError(f"`uniform` must be between 0 and 1, got {self.uniform!r}.")


@dataclasses.dataclass(frozen=True)
class SecondOrder:
    r"""Full meta-gradient, $\partial \nabla_t / \partial \varphi$ included, by plain autodiff through the optimizee."""


MetaGradient = Stored | Blocks | Sampled | SecondOrder


def _check_form(form):
    kind("meta_gradient", form, MetaGradient | None, "`Stored()`, `Blocks()`, `Sampled()`, `SecondOrder()` or None")


# Where `Stored` would take more than this many bytes for all tasks that run side by side, `Blocks` is chosen instead. A CPU
# writes and reads memory beyond its cache more slowly than it replays; an accelerator wants all coordinates at once while
# they fit.
_STORED_LIMIT = 2**30
_STORED_LIMIT_CPU = 2**24


class InnerState(eqx.Module):
    """Where an inner training run stands."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


def start(task: AbstractTask, optimizer: Optimizer, key: PRNGKeyArray) -> InnerState:
    """The state before the first inner step."""
    params = task.init(_keys.one(key))
    return InnerState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def begin(family: TaskFamily, optimizer: Optimizer, key: PRNGKeyArray) -> tuple[AbstractTask, InnerState, PRNGKeyArray]:
    """A task drawn from `family`, the start of an inner training run on it, and the key of its minibatches.

    Everything that happens in an episode follows from its `key`, whatever the optimizer.
    """
    key = _keys.one(key)
    task = family(task_key(key))
    return task, start(task, optimizer, jax.random.fold_in(key, 1)), jax.random.fold_in(key, 2)


def unroll(
    task: AbstractTask,
    optimizer: Optimizer,
    state: InnerState,
    key: PRNGKeyArray,
    *,
    length: int,
    split: str = "train",
    meta_gradient: MetaGradient | None = None,
) -> tuple[InnerState, Float[Array, " length"]]:
    r"""Takes `length` inner steps, and returns the losses $f(\theta_t)$ *before* each of them.

    Step $t$ draws its minibatch with `fold_in(key, t)`, $t$ counted from the start of the episode, so an unroll can be
    cut anywhere and gives the same numbers.

    **Arguments:**

    - `optimizer`: learned, or any optax transformation; extra arguments `value`, `grad` and `value_fn` are passed on.
    - `split`: which loss is returned (and meta-differentiated). "train" is the loss of the minibatch that the gradient
        was taken on; any other split costs a second evaluation, on an independent batch: a less noisy meta-gradient.
    - `meta_gradient`: how a derivative of the result is computed: `Stored()`, `Blocks()`, `Sampled()` or
        `SecondOrder()`. Default: `Stored()`, or `Blocks()` where storing would take over 16 MiB on a CPU, 1 GiB elsewhere.
        In all but the last, gradients that a rule takes of `value_fn` are constants too.

    **Raises:** `ValueError` for a `length` that is negative or no whole number, and for a form that the optimizer cannot have.
    """
    count("length", length, at_least=0)
    check_optimizer("optimizer", optimizer)
    _check_form(meta_gradient)
    key = _keys.one(key)
    optimizer = silenced(optimizer, length)  # warnings need effects, which a derivative has none of
    if meta_gradient is None:
        meta_gradient = default_form(optimizer, state.params, length)
    if isinstance(meta_gradient, Blocks | Sampled):
        if (why := _why_not_replayed(optimizer)) is not None:
            raise ValueError(
                f"{type(meta_gradient).__name__} needs a coordinatewise optimizer, got {why}. Use `Stored()`."
            )
        final, losses = _unroll_replayed((optimizer, state), task, key, length, split, meta_gradient)
        # Counted here: a step number out of a custom derivative would pass for differentiable in the next unroll.
        return InnerState(final.params, final.opt_state, state.step + length), losses
    second_order = isinstance(meta_gradient, SecondOrder)
    state, losses = _scan(task, optimizer, state, key, length, split, second_order=second_order)
    return state, losses


def _scan(task, optimizer, state, key, length, split, *, second_order=False, recording=False) -> tuple[InnerState, Any]:
    """The loop itself. Returns the final state and, per step, the losses.

    `recording`: with the losses the gradients and the loss gradients (both raveled, [length, num]), which only replays read.
    """
    optimizer = with_extra_args(optimizer)
    evaluate = _evaluate if second_order else _evaluate_first_order
    eval_params = getattr(optimizer, "eval_params", None)

    def update(gradient, opt_state, params, **extra):
        with _first_order.inside_rule():
            updates, new = optimizer.update(gradient, opt_state, params, **extra)
        return updates, _with_dtypes_of(opt_state, new)

    if not second_order:
        # Recomputing one optimizer step in the backward pass is cheaper than storing all it computed.
        update = eqx.filter_checkpoint(update) if isinstance(optimizer, AbstractLearnedOptimizer) else update

    def step(state, _):
        step_key = jax.random.fold_in(key, state.step)
        loss, gradient, loss_gradient = evaluate(state.params, task, step_key, split)
        gradient = conjugate(gradient)  # of complex params, as optax's rules and ours take it
        extra: dict[str, Any] = {}
        if getattr(optimizer, "uses_value", True):
            value_fn = (lambda params: task.loss(params, step_key)) if second_order else None
            value_fn = value_fn or _first_order.value_fn(task, step_key)
            extra = {"value": loss, "grad": gradient, "value_fn": value_fn}
        updates, opt_state = update(gradient, state.opt_state, state.params, **extra)
        params = optax.apply_updates(state.params, updates)
        if eval_params is not None:  # the loss is reported where the rule says its answer is
            loss = task.loss(eval_params(state.opt_state, state.params), loss_key(key, state.step, split), split=split)
        recorded = (loss, flatten(gradient)[0], flatten(conjugate(loss_gradient))[0]) if recording else loss
        return InnerState(params, opt_state, state.step + 1), recorded

    return jax.lax.scan(step, state, length=length)


def _with_dtypes_of(old, new):
    """The state `new` in the dtypes of `old`: float32 weights on float64 params must not make another state of it."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        return new

    def keep(before, after):
        floating = all(hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) for x in (before, after))
        return after.astype(before.dtype) if floating and before.dtype != after.dtype else after

    return jax.tree.map(keep, old, new)


def _evaluate(params, task, key, split):
    """Loss (of `split`), gradient of the training loss, and gradient of the loss."""
    loss, gradient = jax.value_and_grad(task.loss)(params, key)
    if split == "train":
        return loss, gradient, gradient
    loss, loss_gradient = jax.value_and_grad(functools.partial(task.loss, split=split))(params, _split_key(key, split))
    return loss, gradient, loss_gradient


def loss_key(key: PRNGKeyArray, step: Int[Array, ""], split: str) -> PRNGKeyArray:
    """The key with which `unroll` draws the batch of the loss that it returns for `step`."""
    return _split_key(jax.random.fold_in(_keys.one(key), step), split)


def _split_key(step_key, split):
    return step_key if split == "train" else jax.random.fold_in(step_key, 1)


@eqx.filter_custom_vjp
def _evaluate_first_order(params, task, key, split):
    return _evaluate(params, task, key, split)


@_evaluate_first_order.def_fwd
def _evaluate_fwd(perturbed, params, task, key, split):
    result = _evaluate(params, task, key, split)
    return result, result[2]


@_evaluate_first_order.def_bwd
def _evaluate_bwd(loss_gradient, cotangents, perturbed, params, task, key, split):
    # d loss = <loss_gradient, d params>: already in hand. The gradients' own cotangents are dropped: first order.
    if cotangents[0] is None:  # nothing depends on this loss
        return jax.tree.map(lambda g: None, loss_gradient)
    return jax.tree.map(lambda g: cotangents[0].astype(g.dtype) * g, loss_gradient)


@eqx.filter_custom_vjp
def _unroll_replayed(differentiable, task, key, length, split, form):
    optimizer, state = differentiable
    return _scan(task, optimizer, state, key, length, split)


@_unroll_replayed.def_fwd
def _unroll_fwd(perturbed, differentiable, task, key, length, split, form):
    optimizer, state = differentiable
    if isinstance(form, Sampled) and any(jax.tree.leaves((perturbed[1].params, perturbed[1].opt_state))):
        raise ValueError("`Sampled` estimates the gradient of the meta-parameters only; use `Stored` or `Blocks`.")
    state, (losses, gradients, loss_gradients) = _scan(task, optimizer, state, key, length, split, recording=True)
    return (state, losses), (gradients, None if split == "train" else loss_gradients)


@_unroll_replayed.def_bwd
def _unroll_bwd(residuals, cotangents, perturbed, differentiable, task, key, length, split, form):
    optimizer, state = differentiable
    gradients, loss_gradients = residuals  # [length, num]
    if loss_gradients is None:
        loss_gradients = gradients
    ct_state, ct_losses = cotangents
    if ct_losses is None:
        ct_losses = jnp.zeros((length,), gradients.dtype)
    ct_final = None
    if jax.tree.leaves((ct_state.params, ct_state.opt_state)):
        ct_final = tuple(
            jax.tree.map(_zeros_if_none, cotangent, like, is_leaf=lambda x: x is None)
            for cotangent, like in ((ct_state.params, state.params), (ct_state.opt_state, state.opt_state))
        )
    wants_start = any(jax.tree.leaves((perturbed[1].params, perturbed[1].opt_state)))
    # Fresh in every truncation: with one offset for all, an episode would see the same part of the coordinates throughout.
    draw_key = jax.random.fold_in(jax.random.fold_in(key, 2**31), state.step)
    run = _Run(state.params, state.opt_state, gradients, loss_gradients, ct_final, wants_start)
    ct_optimizer, ct_params, ct_opt_state = _replay_backward(optimizer, run, ct_losses, draw_key, form)
    return ct_optimizer, eqx.filter(InnerState(ct_params, ct_opt_state, jnp.zeros((), jnp.int32)), eqx.is_inexact_array)


class _Run(NamedTuple):
    """What the backward pass has of an unroll: its start, what it recorded, and the cotangents of its end."""

    params: PyTree
    opt_state: PyTree
    gradients: Float[Array, "length num"]  # raveled, as are
    loss_gradients: Float[Array, "length num"]
    ct_final: tuple[PyTree, PyTree] | None  # of the params and the opt_state; None: no loss sees them
    wants_start: bool  # whether the start's cotangents are asked for, not zeros


def _replay_backward(optimizer, run, weights, key, form):
    """Cotangents of the optimizer's arrays, the params and the opt_state, by `form`."""
    if not isinstance(optimizer, Partitioned):
        return _replay_group(optimizer, run, weights, key, form)
    # Parts act on their own leaves alone, so their meta-gradients are those of as many unrolls.
    labels = optimizer.labels(run.params)
    results = {}
    for i, (name, part) in enumerate(optimizer.parts.items()):
        ours = np.concatenate(jax.tree.leaves(deal(labels, name, positions(run.params))))
        results[name] = _replay_backward(
            part,
            _Run(
                deal(labels, name, run.params),
                run.opt_state[name],
                run.gradients[:, ours],
                run.loss_gradients[:, ours],
                run.ct_final and (deal(labels, name, run.ct_final[0]), run.ct_final[1][name]),
                run.wants_start,
            ),
            weights,
            jax.random.fold_in(key, i),
            form,
        )
    ct_parts, ct_params, ct_opt_state = ({name: r[i] for name, r in results.items()} for i in range(3))
    ct_optimizer = eqx.tree_at(lambda o: o.parts, eqx.filter(optimizer, eqx.is_inexact_array), ct_parts)
    return ct_optimizer, eqx.combine(*ct_params.values()), ct_opt_state


def _replay_group(optimizer, run, weights, key, form):
    """The same for one coordinatewise rule."""
    params, unravel = flatten(run.params)
    ct_final = None if run.ct_final is None else (flatten(conjugate(run.ct_final[0]))[0], run.ct_final[1])
    # Coordinates are on the last axis of every leaf.
    everything = (params, run.opt_state, run.gradients, run.loss_gradients, ct_final)
    index, factor, count = _choose(everything, weights, run.wants_start, key, form)
    size = _block_size(form, len(index))
    index, factor = (jnp.pad(x, (0, -len(x) % size), constant_values=c) for x, c in ((index, params.size), (factor, 0)))
    arrays, static = eqx.partition(optimizer, eqx.is_inexact_array)

    def one_block(i, carry):
        total, ct_start = carry
        ours, factors = (jax.lax.dynamic_slice(x, (i * size,), (size,)) for x in (index, factor))
        taken = jax.tree.map(lambda x: x.at[..., ours].get(mode="fill", fill_value=0), everything)
        params, opt_state, gradients, loss_gradients, ct_final = taken
        weighted = weights[:, None] * loss_gradients
        ct_updates = _ct_updates(weighted, ct_final)
        if ct_final is None and len(gradients) > 1:  # no loss sees the last update
            gradients, ct_updates = gradients[:-1], ct_updates[:-1]

        def again(arrays, params, opt_state):
            return _run_coordinates(eqx.combine(arrays, static), gradients, opt_state, params)

        (updates, final), pullback = jax.vjp(again, arrays, params, opt_state)
        ct_state = jax.tree.map(jnp.zeros_like, final) if ct_final is None else ct_final[1]
        scaled = jax.tree.map(
            lambda c, x: (c * jnp.broadcast_to(factors, x.shape)).astype(x.dtype),
            (ct_updates, ct_state),
            (updates, final),
        )
        ct_arrays, ct_params, ct_opt_state = pullback(scaled)
        if run.wants_start:
            ct_block = (ct_params + ct_updates[0] + weighted[0], ct_opt_state)
            ct_start = jax.tree.map(lambda x, b: x.at[..., ours].set(b, mode="drop"), ct_start, ct_block)
        return jax.tree.map(jnp.add, total, ct_arrays), ct_start

    zeros = jax.tree.map(jnp.zeros_like, (arrays, (params, run.opt_state)))
    ct_arrays, (ct_params, ct_opt_state) = jax.lax.fori_loop(0, (count + size - 1) // size, one_block, zeros)
    return ct_arrays, conjugate(unravel(ct_params)), ct_opt_state


def _run_coordinates(rule, gradients, opt_state, params):
    if type(rule).run_coordinates is AbstractCoordinatewise.run_coordinates:
        rule = _Kept(rule)
    return rule.run_coordinates(gradients, opt_state, params)


class _Kept(AbstractCoordinatewise):
    """A rule whose state keeps its dtypes, as it does in an unroll."""

    rule: AbstractCoordinatewise

    def init_coordinates(self, num):
        return self.rule.init_coordinates(num)

    def update_coordinates(self, gradients, state, params):
        updates, new = self.rule.update_coordinates(gradients, state, params)
        return updates, _with_dtypes_of(state, new)


def _choose(everything, weights, wants_start, key, form):
    """The coordinates to replay, what their cotangents are multiplied by, and how many there are."""
    params, _, _, loss_gradients, ct_final = everything
    num = params.size
    if isinstance(form, Sampled):
        ct_updates = _ct_updates(weights[:, None] * loss_gradients, ct_final)
        count = max(1, min(num, round(form.fraction * num)))
        return *_draw(key, ct_updates, count, form.uniform), count
    factor = jnp.ones((num,), params.dtype)
    if wants_start:  # which the first loss may see where no later one does
        return jnp.arange(num), factor, num
    # Of coordinates that no loss sees all cotangents are zero: pixels that are always black, words that do not occur.
    seen = jnp.any(loss_gradients[1:] != 0, axis=0)
    for leaf in jax.tree.leaves(ct_final):
        seen |= jnp.any(leaf.reshape(-1, num) != 0, axis=0)
    return jnp.nonzero(seen, size=num, fill_value=num)[0], factor, jnp.sum(seen)


def _ct_updates(weighted, ct_final):
    """Cotangents of the updates: what later losses see of them, and the end."""
    later = later_gradients(weighted)
    return later if ct_final is None else later + ct_final[0][None]


def _block_size(form, num):
    if isinstance(form, Blocks) and form.size is not None:
        size = form.size
    elif jax.default_backend() == "cpu":
        size = 256  # fits the cache
    else:
        size = 2**14 if isinstance(form, Blocks) else num
    return max(1, min(size, num))


def later_gradients(weighted: Float[Array, "length num"]) -> Float[Array, "length num"]:
    r"""$c_t = \sum_{s > t} w_s \nabla_s$, the derivative of the meta-loss by each update, from all $w_s \nabla_s$."""
    return jax.lax.scan(lambda total, w: (total + w, total), jnp.zeros_like(weighted[0]), weighted, reverse=True)[1]


def _draw(key, cotangents, count, uniform):
    """Systematic sample of `count` coordinates with probabilities from the cotangents' norms, and their weights."""
    num = cotangents.shape[-1]
    norms = jnp.linalg.norm(cotangents, axis=0)
    total = jnp.sum(norms)
    # Without any cotangent (nothing to differentiate) or with a non-finite one, the draw is uniform.
    norms = jnp.where((total > 0) & jnp.isfinite(total), norms / total, 1 / num)
    probability = (1 - uniform) * norms + uniform / num
    cumulative = jnp.cumsum(probability)
    points = (jnp.arange(count) + jax.random.uniform(key)) / count * cumulative[-1]
    index = jnp.clip(jnp.searchsorted(cumulative, points, side="right"), 0, num - 1)
    return index, (1 / (count * probability[index])).astype(cotangents.dtype)


def _zeros_if_none(cotangent, like):
    return jnp.zeros_like(like) if cotangent is None else cotangent


def _why_not_replayed(optimizer) -> str | None:
    """What keeps a rule from being replayed on some of its coordinates, known their gradients alone; None: nothing."""
    if isinstance(optimizer, Partitioned):
        reasons = (_why_not_replayed(part) for part in optimizer.parts.values())
        return next((why for why in reasons if why is not None), None)
    name = type(optimizer).__name__
    if not isinstance(optimizer, AbstractCoordinatewise):
        return f"{name}, whose coordinates may depend on each other"
    if hasattr(optimizer, "eval_params"):
        return f"{name}, whose losses are those of its `eval_params`"
    if optimizer.uses_value:
        return f"{name}, which wants the loss itself (`uses_value`)"
    if next(c for c in type(optimizer).__mro__ if "update" in vars(c)) is not AbstractFlat:
        return f"{name}, which has an `update` of its own beside `update_coordinates`"
    return None


def default_form(optimizer: Optimizer, params: PyTree, length: int, num_together: int = 1) -> MetaGradient:
    """The form that `unroll` takes where none is asked for, of `num_together` unrolls side by side."""
    if not isinstance(optimizer, AbstractLearnedOptimizer) or _why_not_replayed(optimizer) is not None:
        return Stored()
    state = jax.eval_shape(optimizer.init, params)
    bytes_per_step = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    limit = _STORED_LIMIT_CPU if jax.default_backend() == "cpu" else _STORED_LIMIT
    return Blocks() if num_together * length * bytes_per_step > limit else Stored()


class AbstractInnerProblem(eqx.Module):
    """All that a gradient estimator may see of inner training: episodes that advance one truncation at a time."""

    @abc.abstractmethod
    def init(self, optimizer: AbstractLearnedOptimizer, key: PRNGKeyArray) -> PyTree:
        """Starts an episode."""

    @abc.abstractmethod
    def advance(self, optimizer: AbstractLearnedOptimizer, state: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        """Runs one truncation; returns the new state and the truncation's meta-loss."""

    @abc.abstractmethod
    def finished(self, state: PyTree) -> Bool[Array, ""]:
        """Whether the episode has reached its horizon."""

    def side_by_side(self, num: int) -> "AbstractInnerProblem":
        """The same problem, told that `num` episodes are advanced in one vectorised program, whose memory they share."""
        return self


class Episode(eqx.Module):
    """State of `InnerTraining`: the task's key (the task is rebuilt from it, not stored) and the inner state."""

    key: PRNGKeyArray
    inner: InnerState


class InnerTraining(AbstractInnerProblem):
    r"""Episodes of training a task drawn from `family` for `horizon` steps, `truncation` steps at a time.

    The meta-loss of a truncation is $\frac{1}{K} \sum_t w_t f(\theta_t)$ over its $K$ = `truncation` steps.

    **Arguments:**

    - `step_weights`: $w_t$, shape [horizon]; default 1 (Andrychowicz et al. 2016).
    - `split`: which loss is the meta-loss, as in `unroll`. "outer" asks the task for an independent, larger batch.
    - `meta_gradient`: as in `unroll`. The default counts the memory of all episodes that an estimator runs side by side.

    **Raises:** `ValueError` if `horizon` or `truncation` is not a positive whole number, `truncation` does not divide `horizon`,
    or `step_weights` is not of length `horizon`; `TypeError` for what is no family, or no form of the meta-gradient.
    """

    family: TaskFamily
    horizon: int = eqx.field(static=True)
    truncation: int = eqx.field(static=True)
    step_weights: Float[Array, " horizon"] | None = None
    split: str = eqx.field(static=True, default="train")
    meta_gradient: MetaGradient | None = eqx.field(static=True, default=None)
    num_together: int = eqx.field(static=True, default=1, kw_only=True, repr=False)  # see `side_by_side`

    def __check_init__(self):
        check_callable(self.family)
        check_truncation(self.horizon, self.truncation)
        kind("split", self.split, str, "the name of a split, such as 'train'")
        _check_form(self.meta_gradient)
        kind("step_weights", self.step_weights, jax.Array | np.ndarray | None, "an array [horizon], or None")
        if self.step_weights is not None and self.step_weights.shape != (self.horizon,):
            raise ValueError(
                f"`step_weights` must have one weight per step of the horizon, got shape {self.step_weights.shape} and "
                f"horizon={self.horizon}."
            )

    def side_by_side(self, num):
        return dataclasses.replace(self, num_together=num)

    def init(self, optimizer, key):
        key = _keys.one(key)
        return Episode(key, begin(self.family, optimizer, key)[1])

    def advance(self, optimizer, state):
        task, _, batch_key = begin(self.family, optimizer, state.key)
        form = self.meta_gradient
        if form is None:
            form = default_form(optimizer, state.inner.params, self.truncation, self.num_together)
        inner, losses = unroll(
            task,
            optimizer,
            state.inner,
            batch_key,
            length=self.truncation,
            split=self.split,
            meta_gradient=form,
        )
        if self.step_weights is not None:
            first = state.inner.step
            losses = losses * jax.lax.dynamic_slice(self.step_weights, (first,), (self.truncation,))
        return Episode(state.key, inner), jnp.mean(losses)

    def finished(self, state):
        return state.inner.step >= self.horizon


def check_truncation(horizon: int, truncation: int) -> None:
    """Refuses what are no positive whole numbers, or not a whole number of truncations.

    **Raises:** `ValueError`.
    """
    counts(horizon=horizon)
    count("truncation", truncation, at_least=0)
    if truncation < 1 or horizon % truncation:
        raise ValueError(f"`truncation` must divide `horizon`, got truncation={truncation} and horizon={horizon}.")
