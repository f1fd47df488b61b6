"""Update rules that take the loss, second derivatives, or answer elsewhere than at the params."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fakes import Descent, Momentum, tiny_lstm
from jaxtyping import Array, Float

import l2o
from l2o.core import plugins

KEY = jax.random.key(0)


def _built(name):
    rule = plugins.get("optimizers", name).build(KEY)
    if not hasattr(rule, "num_units"):
        return rule
    more = {"num_global": 1} if hasattr(rule, "num_global") else {}
    return type(rule)(num_layers=1, num_units=3, key=KEY, **more)


def _momentum():
    return Momentum(jnp.asarray(0.1), jnp.asarray(0.7))


# A small one of every architecture and wrapper, and rules that want more than gradients. To list them compiles nothing: each is
# made when it is called.
RULES = {
    **{name: functools.partial(_built, name) for name in plugins.names("optimizers")},
    "descent": lambda: Descent(jnp.log(0.1)),
    "heavy ball": _momentum,
    "partitioned": lambda: l2o.Partitioned({"hidden": tiny_lstm(), "out": _momentum()}),
    "rescaled": lambda: l2o.Rescaled(tiny_lstm(), 0.1),
    "guarded": lambda: l2o.Guarded(tiny_lstm(), optax.sgd(0.1), race=2),
    "chained": lambda: l2o.chain(optax.clip(0.1), _momentum(), optax.scale(0.5)),
    "looking ahead": lambda: LookingAhead(jnp.asarray(0.3)),
    "newton": lambda: Newton(jnp.asarray(0.3)),
    "averaging": lambda: Averaging(jnp.asarray(0.2), jnp.asarray(0.6)),
    "averaged schedule": lambda: Averaged(jnp.asarray(0.2)),
    "by hand": lambda: ByHand(jnp.asarray(0.3)),
}


class LookingAhead(l2o.AbstractLearnedOptimizer):
    """A step, and a second one by the gradient and the loss that it finds there."""

    rate: Float[Array, ""]
    uses_value = True

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, *, value=None, value_fn=None, **extra):
        ahead = jax.tree.map(lambda p, g: p - self.rate * g, params, updates)
        loss, there = jax.value_and_grad(value_fn)(ahead)
        return jax.tree.map(lambda g, h: -self.rate * (g + jnp.tanh(loss - value) * h), updates, there), state


class Newton(l2o.AbstractLearnedOptimizer):
    """A rule that takes a second derivative of the loss: a gradient step scaled by the curvature along it."""

    rate: Float[Array, ""]
    uses_value = True

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, *, value_fn=None, **extra):
        ahead = jax.tree.map(lambda p, g: p - self.rate * g, params, updates)
        _, bent = jax.jvp(jax.grad(value_fn), (ahead,), (updates,))
        curvature = optax.tree.vdot(updates, bent)
        return jax.tree.map(lambda g: -self.rate / (1 + curvature**2) * g, updates), state


class Averaging(l2o.AbstractCoordinatewise):
    """Descent whose losses are those of a moving average of the params."""

    rate: Float[Array, ""]
    decay: Float[Array, ""]

    def init_coordinates(self, num):
        return jnp.zeros(num, self.rate.dtype)

    def update_coordinates(self, gradients, state, params):
        return -self.rate * gradients, self.decay * state + (1 - self.decay) * params

    def eval_params(self, state, params):
        leaves, treedef = jax.tree.flatten(params)
        cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = jnp.split(state, cuts)
        return jax.tree.unflatten(treedef, [x.reshape(leaf.shape) for x, leaf in zip(parts, leaves, strict=True)])


class Averaged(l2o.AbstractLearnedOptimizer):
    """The same with a state in the params' structure, and not coordinatewise."""

    rate: Float[Array, ""]

    def init(self, params):
        return params

    def update(self, updates, state, params=None, **extra):
        mean = jax.tree.map(lambda m, p: 0.5 * m + 0.5 * p, state, params)
        return jax.tree.map(lambda g: -self.rate * g, updates), mean

    def eval_params(self, state, params):
        return jax.tree.map(lambda m, p: 0.5 * (m + p), state, params)


class ByHand(Descent):
    """Coordinatewise by its class, with an `update` that does more."""

    def update(self, updates, state, params=None, **extra):
        norm = optax.tree.norm(updates)
        return jax.tree.map(lambda g: -self.log_rate * g / (1 + norm), updates), state
