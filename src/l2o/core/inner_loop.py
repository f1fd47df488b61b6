"""The loop itself: steps of a rule on a task, and what is recorded of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from l2o.core import keys
from l2o.core.coordinates import conjugate
from l2o.core.meta_gradient import first_order
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer, OptState, eval_params_of, with_extra_args
from l2o.core.task import AbstractTask


class InnerState(eqx.Module):
    """Where an inner training run stands."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


class InnerStep(NamedTuple):
    """All that is known of one step: what `record` of `unroll` is given."""

    loss: Float[Array, ""]  # before the step
    params: PyTree  # before the step, as are
    opt_state: OptState
    gradient: PyTree  # of the training loss, as the rule is given it
    loss_gradient: PyTree  # of the loss that is reported, as JAX has it
    updates: PyTree


class Run(NamedTuple):
    """What is unrolled: `length` steps on a task. See `unroll`."""

    task: AbstractTask
    key: PRNGKeyArray
    length: int
    split: str = "train"
    record: Callable[[InnerStep], PyTree] | None = None


def scan(optimizer: Optimizer, state: InnerState, run: Run, *, second_order: bool = False) -> tuple[InnerState, Any]:
    """The final state, and what is recorded of every step. Its derivatives are first-order ones unless `second_order`."""
    task, key, length, split, record = run
    optimizer = with_extra_args(optimizer)
    evaluate = first_order.evaluate_fully if second_order else first_order.evaluate
    eval_params = eval_params_of(optimizer)

    def update(gradient, opt_state, params, **extra):
        with first_order.inside_rule():
            updates, new = optimizer.update(gradient, opt_state, params, **extra)
        return updates, with_dtypes_of(opt_state, new)

    if not second_order:
        # Recomputing one optimizer step in the backward pass is cheaper than storing all it computed.
        update = eqx.filter_checkpoint(update) if isinstance(optimizer, AbstractLearnedOptimizer) else update

    def step(state, _):
        step_key = keys.of_step(key, state.step)
        loss, gradient, loss_gradient = evaluate(state.params, task, step_key, split)
        gradient = conjugate(gradient)  # of complex params, as optax's rules and ours take it
        extra: dict[str, Any] = {}
        if getattr(optimizer, "uses_value", True):
            value_fn = (lambda params: task.loss(params, step_key)) if second_order else None
            value_fn = value_fn or first_order.value_fn(task, step_key)
            extra = {"value": loss, "grad": gradient, "value_fn": value_fn}
        updates, opt_state = update(gradient, state.opt_state, state.params, **extra)
        params = optax.apply_updates(state.params, updates)
        if eval_params is not None:  # the loss is reported where the rule says its answer is
            loss = task.loss(eval_params(state.opt_state, state.params), loss_key(key, state.step, split), split=split)
        now = InnerStep(loss, state.params, state.opt_state, gradient, loss_gradient, updates)
        return InnerState(params, opt_state, state.step + 1), loss if record is None else record(now)

    return jax.lax.scan(step, state, length=length)


def loss_key(key: PRNGKeyArray, step: Int[Array, ""], split: str) -> PRNGKeyArray:
    """The key with which `unroll` draws the batch of the loss that it returns for `step`."""
    return keys.of_split(keys.of_step(keys.one(key), step), split)


def with_dtypes_of(old: OptState, new: OptState) -> OptState:
    """The state `new` in the dtypes of `old`: float32 weights on float64 params must not make another state of it."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        return new

    def keep(before, after):
        floating = all(hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) for x in (before, after))
        return after.astype(before.dtype) if floating and before.dtype != after.dtype else after

    return jax.tree.map(keep, old, new)
