r"""The coordinatewise LSTM of "Learning to learn by gradient descent by gradient descent" (Andrychowicz et al. 2016).

Every coordinate has its own hidden state; all share the meta-parameters. Per coordinate and inner step:

$$x = \mathrm{preprocess}(\nabla), \quad (h^l, c^l) = \mathrm{LSTM}_l(h^{l-1}, h^l, c^l), \; h^0 = x, \quad
u = s\,(w^\top h^L + b)$$

with output scale $s$. With `num_global` some of the units are averaged over all coordinates (`GlobalLSTM`).
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from l2o.core.checks import count, positive
from l2o.core.optimizer import AbstractCoordinatewise, AbstractFlat
from l2o.optimizers._cell import Cell, average_first

PRESETS = {
    "paper": {"preprocessing": 10.0, "output_scale": 0.1},  # section 3.2 and appendix A
    "code": {"preprocessing": 5.0, "output_scale": 0.01},  # defaults of the authors' public code
    "raw": {"preprocessing": None, "output_scale": 1.0},  # the paper's quadratics, section 3.1
}


def preprocess(gradient: Float[Array, "*steps num"], p: float) -> Float[Array, "*steps 2 num"]:
    r"""Gradients of any magnitude as two inputs of order one (appendix A).

    $(\log|\nabla| / p,\ \mathrm{sign}\,\nabla)$ if $|\nabla| \ge e^{-p}$, else $(-1,\ e^p \nabla)$.
    """
    magnitude = jnp.abs(gradient)
    large = magnitude >= math.exp(-p)
    log = jnp.log(jnp.where(large, magnitude, 1.0)) / p
    sign = jnp.where(large, jnp.sign(gradient), math.exp(p) * gradient)
    return jnp.stack([jnp.where(large, log, -1.0), sign], axis=-2)


def check_preprocessing(p: float | None) -> float | None:
    """`p` as a float, if it is None or a number that `preprocess` can take: a `ValueError` if not."""
    if p is not None and positive("preprocessing", p) > 80:
        raise ValueError(f"`preprocessing` must be at most 80, so that e^p is finite in single precision, got {p!r}.")
    return None if p is None else float(p)


class _AbstractLSTM(AbstractFlat):
    """The network of both: meta-parameters, their start, and the step."""

    cells: list[Cell]
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
        num_layers, num_units = count("num_layers", num_layers), count("num_units", num_units)
        *cell_keys, readout_key = jax.random.split(key, num_layers + 1)
        sizes = [1 if preprocessing is None else 2] + [num_units] * num_layers
        self.cells = [Cell(sizes[i], num_units, key=cell_keys[i]) for i in range(num_layers)]
        self.readout = jax.random.truncated_normal(readout_key, -2.0, 2.0, (num_units,)) / math.sqrt(num_units)
        self.bias = jnp.zeros(())
        self.num_layers = num_layers
        self.num_units = num_units
        self.preprocessing = check_preprocessing(preprocessing)
        self.output_scale = positive("output_scale", output_scale)

    @abc.abstractmethod
    def outgoing(self, h: Float[Array, "units num"]) -> Float[Array, "units num"]:
        """What a layer hands on, to the next and to its own next step, of its activations."""

    def init_coordinates(self, num):
        shape, dtype = (self.num_units, num), self.bias.dtype
        return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in self.cells]

    def _inputs(self, gradients):
        return gradients[..., None, :] if self.preprocessing is None else preprocess(gradients, self.preprocessing)

    def update_coordinates(self, gradients, state, params=None):
        x = self._inputs(gradients.astype(self.bias.dtype))
        new_state = []
        for cell, (h, c) in zip(self.cells, state, strict=True):
            h, c = cell(x, h, c)
            x = self.outgoing(h)
            new_state.append((x, c))
        return self.output_scale * (self.readout @ x + self.bias), new_state


class LSTM(_AbstractLSTM, AbstractCoordinatewise):
    r"""Coordinatewise LSTM optimizer.

    **Arguments:**

    - `num_layers`, `num_units`: 2 and 20 in the paper.
    - `preprocessing`: the paper's $p$, or `None` to feed the gradient itself.
    - `output_scale`: the constant $s$ that multiplies the output.

    **Raises:** `ValueError` for sizes that are no positive whole numbers, and a $p$ or $s$ that is not positive and finite.

    State: $2 \cdot$ `num_layers` $\cdot$ `num_units` numbers a parameter (80 by default).
    """

    @classmethod
    def paper(cls, *, key: PRNGKeyArray, **arguments: Any) -> "LSTM":
        """With the constants of the paper's section 3.2: gradients as logarithm and sign. For networks."""
        return cls(**{**PRESETS["paper"], **arguments, "key": key})

    @classmethod
    def raw(cls, *, key: PRNGKeyArray, **arguments: Any) -> "LSTM":
        """With those of the paper's quadratics, section 3.1: the gradient as it is, and steps as large as the outputs."""
        return cls(**{**PRESETS["raw"], **arguments, "key": key})

    def outgoing(self, h):
        return h

    def run_coordinates(self, gradients, state, params):
        xs = self._inputs(gradients.astype(self.bias.dtype))
        new_state = []
        for cell, (h, c) in zip(self.cells, state, strict=True):
            xs, h, c = cell.run(xs, h, c)
            new_state.append((h, c))
        readouts = jnp.broadcast_to(self.readout, (len(xs), 1, self.num_units))  # a product for each step
        return self.output_scale * ((readouts @ xs)[:, 0] + self.bias), new_state


class GlobalLSTM(_AbstractLSTM):
    r"""LSTM optimizer with global averaging cells, $h_{j,i} \leftarrow \frac{1}{n} \sum_k h_{j,k}$ for $j \le$ `num_global`.

    In every layer the outgoing activations of the first `num_global` units are averaged over all $n$ coordinates at each step
    (appendix B.1), which lets coordinates share, say, the gradient's norm. The cells' own memories are not averaged. The rule
    does not depend on the order of the coordinates; but as each depends on all others, it is not an
    `l2o.AbstractCoordinatewise`: `l2o.Blocks` and `l2o.Sampled` do not apply. All that one optimizer is given is averaged.

    **Arguments:** `num_global`: units averaged in each layer, from 1 to `num_units`. The others are those of `LSTM`, as are
    state and meta-parameters.
    """

    num_global: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        num_global: int,
        num_layers: int = 2,
        num_units: int = 20,
        preprocessing: float | None = 10.0,
        output_scale: float = 0.1,
        key: PRNGKeyArray,
    ):
        super().__init__(
            num_layers=num_layers,
            num_units=num_units,
            preprocessing=preprocessing,
            output_scale=output_scale,
            key=key,
        )
        if count("num_global", num_global) > num_units:
            raise ValueError(
                f"`num_global` must be from 0 to `num_units`, got num_global={num_global} and num_units={num_units}."
            )
        self.num_global = int(num_global)

    def outgoing(self, h):
        return average_first(h, self.num_global)


def build(key: PRNGKeyArray, *, preset: str = "paper", num_global: int = 0, **arguments) -> LSTM | GlobalLSTM:
    """An `LSTM` with a preset's constants ("paper", "code" or "raw"), any of which `arguments` override.

    With `num_global` above 0, a `GlobalLSTM`: that many units of each layer are averaged over all coordinates.
    """
    if preset not in PRESETS:
        raise ValueError(f"No preset named {preset!r}. Presets of lstm: {', '.join(PRESETS)}.")
    arguments = {**PRESETS[preset], **arguments, "key": key}
    num_global = count("num_global", num_global, at_least=0)
    return GlobalLSTM(num_global=num_global, **arguments) if num_global else LSTM(**arguments)


def chrono(optimizer: LSTM | GlobalLSTM, num_steps: int, *, key: PRNGKeyArray) -> LSTM | GlobalLSTM:
    r"""The optimizer with gates that start open for up to about `num_steps` steps, for rules that depend on the step.

    In every layer the forget gates' biases are drawn from $U(\tfrac12, \log \text{num\_steps})$, and the input gates' biases
    are their negatives: a unit with bias $b$ forgets within some $e^b$ steps. (Chrono initialization, Tallec & Ollivier 2018,
    section 2.2, but with times uniform in the logarithm, so that some units stay quick.)

    **Raises:** `ValueError` if `num_steps` is not above 2.
    """
    if count("num_steps", num_steps) <= 2:
        raise ValueError(f"`num_steps` must be above 2, the steps that gates stay open for anyway, got {num_steps}.")
    num_units = optimizer.num_units
    biases = []
    for cell, cell_key in zip(optimizer.cells, jax.random.split(key, optimizer.num_layers), strict=True):
        forget = jax.random.uniform(cell_key, (num_units,), cell.bias.dtype, 0.5, math.log(num_steps))
        biases.append(cell.bias.at[: 2 * num_units].set(jnp.concatenate([-forget, forget])))
    return eqx.tree_at(lambda o: [cell.bias for cell in o.cells], optimizer, biases)
