r"""What a rule may know of the loss, as first-order meta-gradients see it.

In first order every gradient $\nabla f(\theta)$ that a rule meets is a constant, whether it is given it or takes it itself, of
`value_fn`, as races and line searches do. Losses are not: the derivative of $f(\theta)$ is $\nabla f(\theta)$.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from l2o.core import keys
from l2o.core.task import AbstractTask

# Whether a rule's own code is being run. Derivatives asked for then are the rule's, and exact whatever their order;
# those asked for later are of the unroll that the rule was recorded in: meta-gradients.
_inside_rule = contextvars.ContextVar("inside_rule", default=False)


@contextlib.contextmanager
def inside_rule():
    """While a rule is traced."""
    token = _inside_rule.set(True)
    try:
        yield
    finally:
        _inside_rule.reset(token)


def value_fn(task: AbstractTask, key: PRNGKeyArray) -> Callable[[PyTree], Float[Array, ""]]:
    """The loss of one minibatch as a function of the params, to be handed to a rule. Its gradients are constants."""
    # A pytree, so that wherever a rule passes it on, the task's arrays and the key go as what they are.
    return jax.tree_util.Partial(_value, task=task, key=key)


def _value(params, *, task, key):
    return _loss(params, task, key)


@eqx.filter_custom_jvp
def _loss(params, task, key):
    return task.loss(params, key)


@_loss.def_jvp
def _loss_jvp(primals, tangents):
    loss, gradient = _loss_and_gradient(*primals)
    return loss, _product(gradient, tangents[0], loss)


@eqx.filter_custom_jvp
def _loss_and_gradient(params, task, key):
    return jax.value_and_grad(task.loss)(params, key)


@_loss_and_gradient.def_jvp
def _loss_and_gradient_jvp(primals, tangents):
    params, task, key = primals
    loss, gradient = _loss_and_gradient(params, task, key)
    change = jax.tree.map(jnp.zeros_like, gradient)
    if _inside_rule.get():  # a rule that wants second derivatives
        frozen = _constant(params)
        known = jax.tree.map(_zeros_if_none, tangents[0], params, is_leaf=lambda x: x is None)
        change = jax.jvp(lambda p: jax.grad(task.loss)(p, key), (frozen,), (known,))[1]
    return (loss, gradient), (_product(gradient, tangents[0], loss), change)


@eqx.filter_custom_jvp
def _constant(params):
    """The identity, whose derivatives are zero but for the rule's own."""
    return params


@_constant.def_jvp
def _constant_jvp(primals, tangents):
    (params,) = primals
    known = jax.tree.map(_zeros_if_none, tangents[0], params, is_leaf=lambda x: x is None)
    return _constant(params), known if _inside_rule.get() else jax.tree.map(jnp.zeros_like, params)


def _product(gradient, tangent, loss):
    """The change of the loss that a change of the params makes, as `jax.grad` means its gradients (also complex ones)."""
    if tangent is None:
        return jnp.zeros_like(loss)
    parts = [
        jnp.sum(jnp.real(g * t.astype(g.dtype)))
        for g, t in zip(jax.tree.leaves(gradient), jax.tree.leaves(tangent, is_leaf=_is_none), strict=True)
        if t is not None
    ]
    return sum(parts, start=jnp.zeros_like(loss)).astype(loss.dtype)


def _zeros_if_none(tangent: Any, like: Array) -> Array:
    return jnp.zeros_like(like) if tangent is None else tangent


def _is_none(x):
    return x is None


def evaluate_fully(params, task, key, split):
    """Loss (of `split`), gradient of the training loss, and gradient of the loss."""
    loss, gradient = jax.value_and_grad(task.loss)(params, key)
    if split == "train":
        return loss, gradient, gradient
    loss, loss_gradient = jax.value_and_grad(functools.partial(task.loss, split=split))(
        params, keys.of_split(key, split)
    )
    return loss, gradient, loss_gradient


@eqx.filter_custom_vjp
def evaluate(params, task, key, split):
    """As `evaluate_fully`, whose derivatives are first-order ones."""
    return evaluate_fully(params, task, key, split)


@evaluate.def_fwd
def _evaluate_fwd(perturbed, params, task, key, split):
    result = evaluate_fully(params, task, key, split)
    return result, result[2]


@evaluate.def_bwd
def _evaluate_bwd(loss_gradient, cotangents, perturbed, params, task, key, split):
    # d loss = <loss_gradient, d params>: already in hand. The gradients' own cotangents are dropped: first order.
    if cotangents[0] is None:  # nothing depends on this loss
        return jax.tree.map(lambda g: None, loss_gradient)
    return jax.tree.map(lambda g: cotangents[0].astype(g.dtype) * g, loss_gradient)
