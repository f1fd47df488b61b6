"""An obvious unroll, and the objectives that meta-gradients are of."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from fakes import Momentum, Normalised, regression, tiny_lstm

import l2o

KEY = jax.random.key(0)
LENGTH = 4


def obvious(task, optimizer, state, key, *, length, split="train", second_order=False):
    """The inner loop as one would write it on paper, for plain autodiff."""

    def step(state, _):
        params, opt_state, t = state
        step_key = jax.random.fold_in(key, t)
        gradient = jax.grad(task.loss)(params, step_key)
        outer_key = step_key if split == "train" else jax.random.fold_in(step_key, 1)
        loss = task.loss(params, outer_key, split=split)
        if not second_order:
            gradient = jax.lax.stop_gradient(gradient)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (jax.tree.map(jnp.add, params, updates), opt_state, t + 1), loss

    final, losses = jax.lax.scan(step, (state.params, state.opt_state, state.step), length=length)
    return l2o.InnerState(*final), losses


def objective(loop, weights=None, **options):
    """A number that depends on all of an unroll's results: weighted losses, final params, final optimizer state."""

    def value(differentiable, task, step, key):
        optimizer, params, opt_state = differentiable
        state, losses = loop(task, optimizer, l2o.InnerState(params, opt_state, step), key, **options)
        w = jnp.ones(losses.shape) if weights is None else weights
        final = [jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((state.params, state.opt_state))]
        return jnp.sum(w * losses) + 0.3 * sum(final)

    return value


def meta_gradient(loop, optimizer, weights=None, batch_size=4, **options):
    """Of `objective`, with respect to the optimizer, the initial params and the initial optimizer state."""
    task = regression(batch_size)
    state = l2o.start(task, optimizer, jax.random.key(1))
    opt_state = jax.tree.map(lambda x: x + 0.1, state.opt_state)
    grad = eqx.filter_jit(eqx.filter_grad(objective(loop, weights, length=LENGTH, **options)))
    return grad((optimizer, state.params, opt_state), task, state.step, KEY)


def rule(name):
    if name == "lstm":
        return tiny_lstm()
    if name == "normalised":
        return Normalised(jnp.asarray(0.1))
    return Momentum(jnp.asarray(0.1), jnp.asarray(0.7))


def run(optimizer, num, params=None, gradient=lambda p, t: 2 * p):
    """The params after every step, on |x|² unless told otherwise."""
    params = jnp.asarray([1.0, -2.0]) if params is None else params
    state, path = optimizer.init(params), [params]
    for t in range(num):
        updates, state = optimizer.update(gradient(params, t), state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return jnp.stack(path)
