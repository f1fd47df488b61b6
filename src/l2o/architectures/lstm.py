r"""The coordinatewise LSTM of "Learning to learn by gradient descent by gradient descent" (Andrychowicz et al. 2016).

Every coordinate has its own hidden state; all share the meta-parameters. Per coordinate and inner step:

$$x = \mathrm{preprocess}(\nabla), \quad (h^l, c^l) = \mathrm{LSTM}_l(h^{l-1}, h^l, c^l), \; h^0 = x, \quad
u = s\,(w^\top h^L + b)$$

with output scale $s$.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from l2o._optimizer import AbstractCoordinatewise

PRESETS = {
    "paper": {"preprocessing": 10.0, "output_scale": 0.1},  # section 3.2 and appendix A
    "code": {"preprocessing": 5.0, "output_scale": 0.01},  # defaults of the authors' public code
    "raw": {"preprocessing": None, "output_scale": 1.0},  # the paper's quadratics, section 3.1
}


def preprocess(gradient: Float[Array, " num"], p: float) -> Float[Array, "2 num"]:
    r"""Gradients of any magnitude as two inputs of order one (appendix A).

    $(\log|\nabla| / p,\ \mathrm{sign}\,\nabla)$ if $|\nabla| \ge e^{-p}$, else $(-1,\ e^p \nabla)$.
    """
    magnitude = jnp.abs(gradient)
    large = magnitude >= math.exp(-p)
    log = jnp.log(jnp.where(large, magnitude, 1.0)) / p
    return jnp.stack([jnp.where(large, log, -1.0), jnp.where(large, jnp.sign(gradient), math.exp(p) * gradient)])


@jax.custom_jvp
def _sigmoid(x):
    """The logistic function, by way of `tanh`: on a CPU XLA makes faster code of it."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


_sigmoid.defjvps(lambda tangent, result, x: tangent * (result * (1 - result)))


class _Cell(eqx.Module):
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


class LSTM(AbstractCoordinatewise):
    r"""Coordinatewise LSTM optimizer.

    **Arguments:**

    - `num_layers`, `num_units`: 2 and 20 in the paper.
    - `preprocessing`: the paper's $p$, or `None` to feed the gradient itself.
    - `output_scale`: the constant $s$ that multiplies the output.

    State: $2 \cdot$ `num_layers` $\cdot$ `num_units` numbers a parameter (80 by default).
    """

    cells: list[_Cell]
    readout: Float[Array, " units"]
    bias: Float[Array, ""]
    num_layers: int = eqx.field(static=True)
    num_units: int = eqx.field(static=True)
    preprocessing: float | None = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        num_layers: int = 2,
        num_units: int = 20,
        preprocessing: float | None = 10.0,
        output_scale: float = 0.1,
        key: PRNGKeyArray,
    ):
        if num_layers < 1 or num_units < 1:
            raise ValueError(
                f"`num_layers` and `num_units` must be at least 1, got num_layers={num_layers}, num_units={num_units}."
            )
        *cell_keys, readout_key = jax.random.split(key, num_layers + 1)
        sizes = [1 if preprocessing is None else 2] + [num_units] * num_layers
        self.cells = [_Cell(sizes[i], num_units, key=cell_keys[i]) for i in range(num_layers)]
        self.readout = jax.random.truncated_normal(readout_key, -2.0, 2.0, (num_units,)) / math.sqrt(num_units)
        self.bias = jnp.zeros(())
        self.num_layers = num_layers
        self.num_units = num_units
        self.preprocessing = preprocessing
        self.output_scale = output_scale

    def init_coordinates(self, num):
        zeros = jnp.zeros((self.num_units, num), self.bias.dtype)
        return [(zeros, zeros)] * self.num_layers

    def update_coordinates(self, gradients, state, params=None):
        gradients = gradients.astype(self.bias.dtype)
        x = gradients[None] if self.preprocessing is None else preprocess(gradients, self.preprocessing)
        new_state = []
        for cell, (h, c) in zip(self.cells, state, strict=True):
            x, c = cell(x, h, c)
            new_state.append((x, c))
        return self.output_scale * (self.readout @ x + self.bias), new_state


def build(key: PRNGKeyArray, *, preset: str = "paper", **arguments) -> LSTM:
    """An `LSTM` with a preset's constants ("paper", "code" or "raw"), any of which `arguments` override."""
    if preset not in PRESETS:
        raise ValueError(f"No preset named {preset!r}. Presets of lstm: {', '.join(PRESETS)}.")
    return LSTM(**{**PRESETS[preset], **arguments}, key=key)
