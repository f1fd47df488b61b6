r"""The meta-gradient by replaying a rule on recorded gradients, some coordinates at a time.

With $c_t = \sum_{s > t} w_s \nabla_s$, which the recorded gradients give, the derivative of $\sum_t \langle c_t, u_t \rangle$
is all that is left to be taken, and of a coordinatewise rule it is a sum over coordinates.
"""

from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from l2o.core import keys
from l2o.core.coordinates import conjugate, flatten, positions
from l2o.core.inner_loop import InnerState, Run, scan, with_dtypes_of
from l2o.core.optimizer import AbstractCoordinatewise, AbstractFlat, Optimizer


def unroll(optimizer: Optimizer, state: InnerState, run: Run, form: Any) -> tuple[InnerState, Any]:
    """As `l2o.core.inner_loop.scan`, its derivatives by `form`, an `AbstractReplayed`."""
    return _unroll((optimizer, state), run, form)


@eqx.filter_custom_vjp
def _unroll(differentiable, run, form):
    optimizer, state = differentiable
    return scan(optimizer, state, run)


@_unroll.def_fwd
def _unroll_fwd(perturbed, differentiable, run, form):
    form.check(any(jax.tree.leaves((perturbed[1].params, perturbed[1].opt_state))))
    optimizer, state = differentiable
    state, (losses, gradients, loss_gradients) = scan(optimizer, state, run._replace(record=_flat_gradients))
    return (state, losses), (gradients, None if run.split == "train" else loss_gradients)


def _flat_gradients(step):
    return step.loss, flatten(step.gradient)[0], flatten(conjugate(step.loss_gradient))[0]


@_unroll.def_bwd
def _unroll_bwd(residuals, cotangents, perturbed, differentiable, run, form):
    optimizer, state = differentiable
    gradients, loss_gradients = residuals  # [length, num]
    if loss_gradients is None:
        loss_gradients = gradients
    ct_state, ct_losses = cotangents
    if ct_losses is None:
        ct_losses = jnp.zeros((run.length,), gradients.dtype)
    ct_final = None
    if jax.tree.leaves((ct_state.params, ct_state.opt_state)):
        ct_final = tuple(
            jax.tree.map(_zeros_if_none, cotangent, like, is_leaf=lambda x: x is None)
            for cotangent, like in ((ct_state.params, state.params), (ct_state.opt_state, state.opt_state))
        )
    wants_start = any(jax.tree.leaves((perturbed[1].params, perturbed[1].opt_state)))
    # Fresh in every truncation: with one offset for all, an episode would see the same part of the coordinates throughout.
    draw_key = keys.of_draw(run.key, state.step)
    group = Group(state.params, state.opt_state, gradients, loss_gradients, ct_losses, ct_final, wants_start)
    ct_optimizer, ct_params, ct_opt_state = _replay(optimizer, group, draw_key, form)
    return ct_optimizer, eqx.filter(InnerState(ct_params, ct_opt_state, jnp.zeros((), jnp.int32)), eqx.is_inexact_array)


# Indices of coordinates, what their cotangents are multiplied by, and how many there are: indices after these are of none.
Chosen: TypeAlias = tuple[Int[Array, " num"], Float[Array, " num"], Int[Array, ""] | int]


class Group(NamedTuple):
    """What the backward pass has of an unroll of coordinates: its start, what it recorded, and the cotangents of its end."""

    params: PyTree
    opt_state: PyTree
    gradients: Float[Array, "length num"]  # raveled, as are
    loss_gradients: Float[Array, "length num"]
    weights: Float[Array, " length"]  # the cotangents of the losses
    ct_final: tuple[PyTree, PyTree] | None  # of the params and the opt_state; None: no loss sees them
    wants_start: bool  # whether the start's cotangents are asked for, not zeros

    def ct_updates(self) -> Float[Array, "length num"]:
        """Cotangents of the updates: what later losses see of them, and the end. Of raveled params."""
        later = later_gradients(self.weights[:, None] * self.loss_gradients)
        return later if self.ct_final is None else later + self.ct_final[0][None]

    def taken(self, indices) -> "Group":
        """Of the coordinates at `indices` alone. They are on the last axis of every leaf; those past the end are zeros."""
        taken = jax.tree.map(
            lambda x: x.at[..., indices].get(mode="fill", fill_value=0), self._replace(weights=None, wants_start=None)
        )
        return taken._replace(weights=self.weights, wants_start=self.wants_start)


def _replay(optimizer, run, key, form):
    """Cotangents of the optimizer's arrays, the params and the opt_state, by `form`."""
    groups = optimizer.coordinate_groups(run.params)
    if groups is None:
        return _replay_group(optimizer, run, key, form)
    # Parts act on their own leaves alone, so their meta-gradients are those of as many unrolls.
    results = {}
    for i, (name, group) in enumerate(groups.items()):
        ours = np.concatenate(jax.tree.leaves(group.take(positions(run.params))))
        part = run._replace(
            params=group.take(run.params),
            opt_state=run.opt_state[name],
            gradients=run.gradients[:, ours],
            loss_gradients=run.loss_gradients[:, ours],
            ct_final=run.ct_final and (group.take(run.ct_final[0]), run.ct_final[1][name]),
        )
        results[name] = _replay(group.rule, part, keys.of_item(key, i), form)
    ct_rules, ct_params, ct_opt_state = ({name: r[i] for name, r in results.items()} for i in range(3))
    ct_optimizer = eqx.filter(optimizer, eqx.is_inexact_array).with_groups(ct_rules)
    return ct_optimizer, eqx.combine(*ct_params.values()), ct_opt_state


def _replay_group(optimizer, run, key, form):
    """The same for one coordinatewise rule."""
    params, unravel = flatten(run.params)
    ct_final = None if run.ct_final is None else (flatten(conjugate(run.ct_final[0]))[0], run.ct_final[1])
    run = run._replace(params=params, ct_final=ct_final)
    index, factor, count = form.choose(run, key)
    size = max(1, min(form.block_size(len(index)), len(index)))
    index, factor = (jnp.pad(x, (0, -len(x) % size), constant_values=c) for x, c in ((index, params.size), (factor, 0)))
    arrays, static = eqx.partition(optimizer, eqx.is_inexact_array)

    def one_block(i, carry):
        total, ct_start = carry
        ours, factors = (jax.lax.dynamic_slice(x, (i * size,), (size,)) for x in (index, factor))
        block = run.taken(ours)
        gradients, ct_updates = block.gradients, block.ct_updates()
        if block.ct_final is None and len(gradients) > 1:  # no loss sees the last update
            gradients, ct_updates = gradients[:-1], ct_updates[:-1]

        def again(arrays, params, opt_state):
            return _run_coordinates(eqx.combine(arrays, static), gradients, opt_state, params)

        (updates, final), pullback = jax.vjp(again, arrays, block.params, block.opt_state)
        ct_state = jax.tree.map(jnp.zeros_like, final) if block.ct_final is None else block.ct_final[1]
        scaled = jax.tree.map(
            lambda c, x: (c * jnp.broadcast_to(factors, x.shape)).astype(x.dtype),
            (ct_updates, ct_state),
            (updates, final),
        )
        ct_arrays, ct_params, ct_opt_state = pullback(scaled)
        if run.wants_start:
            first = block.weights[0] * block.loss_gradients[0]
            ct_block = (ct_params + ct_updates[0] + first, ct_opt_state)
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
        return updates, with_dtypes_of(state, new)


def all_that_are_seen(group: Group) -> Chosen:
    """The coordinates that any loss sees, each with a factor of 1.

    Of the others all cotangents are zero: pixels that are always black, words that do not occur.
    """
    num = group.params.size
    factor = jnp.ones((num,), group.params.dtype)
    if group.wants_start:  # which the first loss may see where no later one does
        return jnp.arange(num), factor, num
    seen = jnp.any(group.loss_gradients[1:] != 0, axis=0)
    for leaf in jax.tree.leaves(group.ct_final):
        seen |= jnp.any(leaf.reshape(-1, num) != 0, axis=0)
    return jnp.nonzero(seen, size=num, fill_value=num)[0], factor, jnp.sum(seen)


def later_gradients(weighted: Float[Array, "length num"]) -> Float[Array, "length num"]:
    r"""$c_t = \sum_{s > t} w_s \nabla_s$, the derivative of the meta-loss by each update, from all $w_s \nabla_s$."""
    return jax.lax.scan(lambda total, w: (total + w, total), jnp.zeros_like(weighted[0]), weighted, reverse=True)[1]


def why_not(optimizer: Optimizer, params: PyTree) -> str | None:
    """What keeps a rule from being replayed on some of its coordinates, known their gradients alone; None: nothing."""
    groups = getattr(optimizer, "coordinate_groups", lambda params: None)(params)
    if groups is not None:
        reasons = (why_not(group.rule, group.take(params)) for group in groups.values())
        return next((why for why in reasons if why is not None), None)
    name = type(optimizer).__name__
    if not isinstance(optimizer, AbstractCoordinatewise):
        return f"{name}, whose coordinates may depend on each other"
    if optimizer.has_eval_params:
        return f"{name}, whose losses are those of its `eval_params`"
    if optimizer.uses_value:
        return f"{name}, which wants the loss itself (`uses_value`)"
    if next(c for c in type(optimizer).__mro__ if "update" in vars(c)) is not AbstractFlat:
        return f"{name}, which has an `update` of its own beside `update_coordinates`"
    return None


def _zeros_if_none(cotangent, like):
    return jnp.zeros_like(like) if cotangent is None else cotangent
