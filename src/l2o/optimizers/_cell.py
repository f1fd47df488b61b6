"""The LSTM cell of the recurrent architectures, and the averaging that makes some of its units global."""

import functools
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

    def run(self, xs, h, c):
        """All steps on inputs [length, inputs, num]: the activations [length, hidden, num], and the last h and c.

        The derivative, in reverse mode only, is our own: what a step computed is stored, and not computed again.
        """
        return _run(self.weight, self.bias, xs, h, c)


@jax.custom_vjp
def _run(weight, bias, xs, h, c):
    return _run_forward(weight, bias, xs, h, c)[0]


def _run_forward(weight, bias, xs, h, c):
    num_units = len(h)
    is_gate = jnp.arange(len(weight))[:, None] < 3 * num_units
    scale = jnp.where(is_gate, 0.5, 1.0).astype(weight.dtype)  # sigmoid(x) = tanh(x / 2) / 2 + 1 / 2
    shift = jnp.where(is_gate, 0.5, 0.0).astype(weight.dtype)

    def step(carry, t_and_x):
        h, c, stored = carry
        t, x = t_and_x
        inputs = jnp.concatenate([x, h])
        activations = jnp.tanh((weight @ inputs + bias[:, None]) * scale) * scale + shift
        i, f, o, z = jnp.split(activations, 4)
        new_c = f * c + i * z
        squashed = jnp.tanh(new_c)
        h = o * squashed
        for part, value in ((0, activations), (4, c), (5, squashed), (6, inputs)):
            stored = jax.lax.dynamic_update_slice(stored, value[None], (t, part * num_units, 0))
        return (h, new_c, stored), h

    # All in one buffer: XLA would fill several of one shape with zeros once, and copy that for each.
    stored = jnp.zeros((len(xs), 6 * num_units + weight.shape[1], h.shape[1]), weight.dtype)
    (h, c, stored), hs = jax.lax.scan(step, (h, c, stored), (jnp.arange(len(xs)), xs))
    return (hs, h, c), (weight, stored)


def _run_backward(residuals, cotangents):
    weight, stored = residuals
    ct_hs, ct_h, ct_c = cotangents
    length, num_units, num = ct_hs.shape
    num_inputs = weight.shape[1] - num_units

    def at(x, t, part=0, size=num_units):
        # One slice straight from the buffer: of a slice of a slice, XLA makes code ten times slower on a CPU.
        return jax.lax.dynamic_slice(x, (t, part * num_units, 0), (1, size, num))[0]

    def step(k, carry):
        ct_h, ct_c, ct_weight, ct_bias, ct_xs, ct_gates = carry
        t = length - 1 - k
        i, f, o, z, c, y = (at(stored, t, part) for part in range(6))
        ct_h = ct_h + at(ct_hs, t)
        ct_c = ct_c + ct_h * o * (1 - y**2)
        parts = (ct_c * z * i * (1 - i), ct_c * c * f * (1 - f), ct_h * y * o * (1 - o), ct_c * i * (1 - z**2))
        for part, x in enumerate(parts):  # not `concatenate`, which a CPU would do number by number
            ct_gates = jax.lax.dynamic_update_slice(ct_gates, x, (part * num_units, 0))
        ct_weight = ct_weight + ct_gates @ at(stored, t, 6, num_inputs + num_units).T
        ct_bias = ct_bias + jnp.sum(ct_gates, axis=1)
        ct_inputs = weight.T @ ct_gates
        ct_xs = jax.lax.dynamic_update_slice(ct_xs, ct_inputs[None, :num_inputs], (t, 0, 0))
        return ct_inputs[num_inputs:], ct_c * f, ct_weight, ct_bias, ct_xs, ct_gates

    zeros = functools.partial(jnp.zeros, dtype=weight.dtype)
    start = (zeros(weight.shape), zeros(len(weight)), zeros((length, num_inputs, num)), zeros((len(weight), num)))
    ct_h, ct_c, ct_weight, ct_bias, ct_xs, _ = jax.lax.fori_loop(0, length, step, (ct_h, ct_c, *start))
    return ct_weight, ct_bias, ct_xs, ct_h, ct_c


_run.defvjp(_run_forward, _run_backward)


def average_first(h: Float[Array, "units num"], num_global: int) -> Float[Array, "units num"]:
    """The first `num_global` units' activations, each replaced by its mean over all coordinates (a GAC)."""
    mean = jnp.mean(h[:num_global], axis=-1, keepdims=True)
    return jnp.concatenate([jnp.broadcast_to(mean, (num_global, h.shape[-1])), h[num_global:]])
