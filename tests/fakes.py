"""Small tasks, rules and inner problems whose answers can be derived by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import l2o


class Descent(l2o.AbstractCoordinatewise):
    """u = -e^a g, one meta-parameter."""

    log_rate: Float[Array, ""]

    def init_coordinates(self, num):
        return ()

    def update_coordinates(self, gradients, state, params):
        return -jnp.exp(self.log_rate) * gradients, state


class Momentum(l2o.AbstractCoordinatewise):
    """m <- b m + g, u = -a tanh(m): a nonlinear rule with a state."""

    rate: Float[Array, ""]
    decay: Float[Array, ""]

    def init_coordinates(self, num):
        return jnp.zeros(num, self.rate.dtype)

    def update_coordinates(self, gradients, state, params):
        state = self.decay * state + gradients
        return -self.rate * jnp.tanh(state), state


class Affine(l2o.AbstractLearnedOptimizer):
    """u = a g + b."""

    a: Float[Array, ""]
    b: Float[Array, ""]

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, **extra):
        return jax.tree.map(lambda g: self.a * g + self.b, updates), state


class Normalised(l2o.AbstractLearnedOptimizer):
    """u = -a g / |g|: every coordinate's update depends on all the others."""

    rate: Float[Array, ""]

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, **extra):
        norm = optax.tree.norm(updates) + 1e-3
        return jax.tree.map(lambda g: -self.rate * g / norm, updates), state


class Regression(l2o.AbstractTask):
    """Least squares of a tanh network with 2 inputs and 3 units (12 params) on minibatches drawn by the key."""

    x: Float[Array, "num 2"]
    y: Float[Array, " num"]
    batch_size: int = eqx.field(static=True, default=4)  # 0: the full batch, for a deterministic loss

    def init(self, key):
        return {"hidden": {"w": 0.5 * jax.random.normal(key, (2, 3)), "b": jnp.zeros(3)}, "out": 0.5 * jnp.ones(3)}

    def loss(self, params, key, *, split="train"):
        x, y = self.x, self.y
        if self.batch_size:
            index = jax.random.randint(key, (self.batch_size * (1 if split == "train" else 3),), 0, len(y))
            x, y = x[index], y[index]
        hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"][None])
        return jnp.mean((hidden @ params["out"] - y) ** 2)


def regression(batch_size=4):
    x_key, y_key = jax.random.split(jax.random.key(7))
    return Regression(jax.random.normal(x_key, (16, 2)), jax.random.normal(y_key, (16,)), batch_size)


def bowl(key=None, *, start=1.0):
    """x^2 from `start`, whatever the key: a family of one, and of one start."""
    return l2o.FunctionTask(lambda key: jnp.full((), start), lambda x, key: x**2)


def bowls(key):
    """|x - c|^2 in two dimensions with c drawn."""
    centre = jax.random.normal(key, (2,))
    return l2o.FunctionTask(lambda key: jnp.zeros(2), lambda x, key: jnp.sum((x - centre) ** 2))


def tiny_lstm(key=0, **arguments):
    from l2o.optimizers import lstm

    return lstm.build(jax.random.key(key), **{"num_layers": 1, "num_units": 3, **arguments})


def assert_trees_close(actual, expected, **tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(e), **tolerance)


def assert_trees_equal(actual, expected):
    """Bit for bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(e))
