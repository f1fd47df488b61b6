"""The LSTM cell of the recurrent architectures, and the averaging that makes some of its units global."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


@jax.custom_jvp
def _sigmoid(x):
    """The logistic function, by way of `tanh`: on a CPU XLA makes faster code of it."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


_sigmoid.defjvps(lambda tangent, result, x: tangent * (result * (1 - result)))


class Cell(eqx.Module):
    """LSTM cell with forget gates; inputs and hidden units first, coordinates last."""

    weight: Float[Array, "four_hidden inputs_hidden"]  # rows: input, forget, output gate, candidate
    bias: Float[Array, " four_hidden"]

    def __init__(self, num_inputs: int, num_units: int, *, key: PRNGKeyArray):
        fan_in = num_inputs + num_units
        shape = (4 * num_units, fan_in)
        self.weight = jax.random.truncated_normal(key, -2.0, 2.0, shape) / math.sqrt(fan_in)
        # Forget gates start open (+1), as in the authors' code.
        self.bias = jnp.zeros(4 * num_units).at[num_units : 2 * num_units].set(1.0)

    def __call__(self, x, h, c):
        gates = self.weight @ jnp.concatenate([x, h]) + self.bias[:, None]
        i, f, o, z = jnp.split(gates, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * jnp.tanh(z)
        return _sigmoid(o) * jnp.tanh(c), c


def average_first(h: Float[Array, "units num"], num_global: int) -> Float[Array, "units num"]:
    """The first `num_global` units' activations, each replaced by its mean over all coordinates (a GAC)."""
    mean = jnp.mean(h[:num_global], axis=-1, keepdims=True)
    return jnp.concatenate([jnp.broadcast_to(mean, (num_global, h.shape[-1])), h[num_global:]])
