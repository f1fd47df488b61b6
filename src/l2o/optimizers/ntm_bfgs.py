r"""NTM-BFGS: an LSTM with an external memory in the place of an inverse Hessian (Andrychowicz et al. 2016, appendix B.2).

All $n$ coordinates share a memory $M \in \mathbb{R}^{n \times n}$, $M_0 = I$. A controller, an LSTM with global averaging
cells, runs on every coordinate; besides its update it emits one component of the vector $r_j$ of each read head, and of the
vectors $a_k$, $b_k$ of each write head. Per inner step, with $i$ what the heads read at the last:

$$h = \mathrm{LSTM}(\nabla, i), \quad (u, r, a, b) = R h + c, \quad
M \leftarrow M + \sum_k a_k b_k^\top, \quad i_j = M r_j$$

That is preset "paper" (where the paper is silent: $M_0$, and that the write comes before the read). Its writes can express
BFGS, but have to find it, on gradients of any magnitude. Preset "guided" gives that its best chance by three additions of
ours, each an argument of `NTMBFGS`:

- `normalised`: gradients and params scaled together scale the updates alike. With $\gamma$ the root mean square of the
  gradient the rule sees $\hat\nabla = \nabla / \gamma$ and proposes $\gamma s$ times its output; writes are divided by $n$. What
  runs away is held: steps grow fivefold at most, and where $\gamma$ exceeds a hundred times its smallest so far the rule goes
  back to where that was, with $M = I$ again, and tries half the step.
- `differences`: inputs are also the last step $\hat s = s_t / (s\kappa)$, the gradient's change $\hat y = y_t / \kappa$ and
  $M \hat y$, with $\kappa^2 = \mathrm{mean}(s_t y_t) / s$, so that $\mathrm{mean}(\hat s \hat y) = 1$; and for all coordinates
  what none of them can know, $q = \mathrm{mean}(\hat y\, M \hat y)$ and $\log \gamma_t / \gamma_{t-1}$. A pair whose curvature is
  not positive, or lost in rounding, counts as zero.
- `skips`: the gradient is added to the first head's $r$, whose read is subtracted from the update, times a gate; and
  $\hat s$ and $M \hat y$ (without `differences` the gradient), times gates, are added to $a$ and $b$. Gates are read out as
  $a$ and $b$ are, of $h$ and of $q$, so two write heads can hold BFGS exactly:
  $a_1 = (1 + q) \hat s - M \hat y,\ b_1 = \hat s;\ a_2 = -\hat s,\ b_2 = M \hat y$. All but $b$ and its gates start at zero: as
  built, the rule is steepest descent at rate $s$.

**NTM-L-BFGS** (`memory_pairs`) keeps only the last $k$ pairs $(a, b)$ and reads $i = r + \sum_k a_k (b_k^\top r)$: memory
$O(kn)$, for $n$ too large for $n \times n$. Until the first pair is dropped it is the same rule.
"""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from l2o.core.checks import count, flags, positive
from l2o.core.optimizer import AbstractFlat
from l2o.optimizers._cell import Cell, average_first
from l2o.optimizers.lstm import check_preprocessing, preprocess

PRESETS = {
    "guided": {"normalised": True, "differences": True, "skips": True, "output_scale": 0.01},
    "paper": {"normalised": False, "differences": False, "skips": False, "output_scale": 1.0},
}

# A full memory may take this many bytes: 16,384 coordinates in single precision.
MEMORY_LIMIT = 2**30


class _Matrix(eqx.Module):
    """M itself."""

    matrix: Float[Array, "num num"]

    def read(self, r: Float[Array, "heads num"]) -> Float[Array, "heads num"]:
        return r @ self.matrix.T

    def write(self, a: Float[Array, "heads num"], b: Float[Array, "heads num"]) -> "_Matrix":
        return _Matrix(self.matrix + a.T @ b)


class _Pairs(eqx.Module):
    """M = I + sum of the last pairs, the newest last. Pairs not written yet are zero."""

    left: Float[Array, "pairs num"]
    right: Float[Array, "pairs num"]

    def read(self, r: Float[Array, "heads num"]) -> Float[Array, "heads num"]:
        return r + (r @ self.right.T) @ self.left

    def write(self, a: Float[Array, "heads num"], b: Float[Array, "heads num"]) -> "_Pairs":
        # Shifting moves as much as a read touches: a circular buffer would save nothing.
        keep = len(self.left)
        return _Pairs(jnp.concatenate([self.left, a])[-keep:], jnp.concatenate([self.right, b])[-keep:])


class _State(NamedTuple):
    cells: list  # (h, c) of every layer, [units, num]
    reads: Array  # [num_read, num]
    memory: _Matrix | _Pairs
    params: Array  # of the last step, as the gradient [num]
    gradient: Array  # zero before the first
    best: Array  # the params where the gradient was smallest
    smallest: Array  # its root mean square there, []
    reach: Array  # root mean square of the last step, less after one that failed, []


class NTMBFGS(AbstractFlat):
    r"""LSTM with global averaging cells and a memory that it reads and writes; equations in the module's docstring.

    **Arguments:**

    - `num_read`, `num_write`: heads. The paper's construction of BFGS has one and three.
    - `num_global`: units averaged over coordinates in each layer; two suffice in that construction.
    - `memory_pairs`: `None` for the full $n \times n$ memory, or the number $k$ of pairs kept (NTM-L-BFGS). Every step writes
        `num_write` of them.
    - `preprocessing`: the paper's $p$, or `None` to feed the (normalised) gradient itself.
    - `output_scale`: the constant $s$ that multiplies the output.
    - `normalised`, `differences`, `skips`: ours, see the module.

    State: $2 \cdot$ `num_layers` $\cdot$ `num_units` + `num_read` + 2 numbers a parameter, and the memory, $n^2$ or $2kn$.

    **Raises:** `ValueError` for sizes and constants that make no sense; from `init` if a full memory would exceed
    `MEMORY_LIMIT`; from `update` without params, which `differences` needs.
    """

    cells: list[Cell]
    readout: Float[Array, "outputs features"]
    bias: Float[Array, " outputs"]
    num_layers: int = eqx.field(static=True)
    num_units: int = eqx.field(static=True)
    num_global: int = eqx.field(static=True)
    num_read: int = eqx.field(static=True)
    num_write: int = eqx.field(static=True)
    memory_pairs: int | None = eqx.field(static=True)
    preprocessing: float | None = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)
    normalised: bool = eqx.field(static=True)
    differences: bool = eqx.field(static=True)
    skips: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        num_layers: int = 2,
        num_units: int = 20,
        num_global: int = 5,
        num_read: int = 1,
        num_write: int = 3,
        memory_pairs: int | None = None,
        preprocessing: float | None = None,
        output_scale: float = 0.01,
        normalised: bool = True,
        differences: bool = True,
        skips: bool = True,
        key: PRNGKeyArray,
    ):
        num_layers, num_units = count("num_layers", num_layers), count("num_units", num_units)
        num_read, num_write = count("num_read", num_read), count("num_write", num_write)
        num_global = count("num_global", num_global, at_least=0)
        memory_pairs = None if memory_pairs is None else count("memory_pairs", memory_pairs)
        preprocessing = check_preprocessing(preprocessing)
        output_scale = positive("output_scale", output_scale)
        flags(normalised=normalised, differences=differences, skips=skips)
        if num_global > num_units:
            raise ValueError(
                f"`num_global` must be from 0 to `num_units`, got num_global={num_global} and num_units={num_units}."
            )
        self.num_layers = num_layers
        self.num_units = num_units
        self.num_global = num_global
        self.num_read = num_read
        self.num_write = num_write
        self.memory_pairs = memory_pairs
        self.preprocessing = preprocessing
        self.output_scale = output_scale
        self.normalised = normalised
        self.differences = differences
        self.skips = skips

        *cell_keys, readout_key, bias_key = jax.random.split(key, num_layers + 2)
        num_scalars = 2 if differences else 0
        num_inputs = (1 if preprocessing is None else 2) + num_read + (3 if differences else 0) + num_scalars
        inputs = [num_inputs] + [num_units] * (num_layers - 1)
        self.cells = [Cell(size, num_units, key=k) for size, k in zip(inputs, cell_keys, strict=True)]
        num_outputs, num_features = sum(self._rows.values()), num_units + num_scalars
        readout = jax.random.truncated_normal(readout_key, -2.0, 2.0, (num_outputs, num_features)) / jnp.sqrt(num_units)
        bias = jnp.zeros(num_outputs)
        if skips:
            # Steepest descent. b must not start at zero where a does: neither would have a gradient.
            drawn = self._heads(readout)
            readout = self._assembled({name: drawn[name] for name in ("b", "b_gates")}, readout)
            gates = self._heads(jax.random.normal(bias_key, (num_outputs,)))
            bias = self._assembled({"b_gates": gates["b_gates"], "read_gate": jnp.ones(1)}, bias)
        self.readout, self.bias = readout, bias

    @property
    def _num_vectors(self):
        """That are skipped to the write heads."""
        return 2 if self.differences else 1

    @property
    def _rows(self):
        """How many outputs every head has, in the order of the readout."""
        rows = {"update": 1, "r": self.num_read, "a": self.num_write, "b": self.num_write}
        gates = self.num_write * self._num_vectors
        return {**rows, "read_gate": 1, "a_gates": gates, "b_gates": gates} if self.skips else rows

    def _heads(self, outputs: Array) -> dict[str, Array]:
        """Outputs, on the first axis, by head; those of the gates of all write heads and vectors, heads first."""
        ends = [int(end) for end in np.cumsum(list(self._rows.values()))]
        return dict(zip(self._rows, jnp.split(outputs, ends[:-1]), strict=True))

    def _assembled(self, heads: dict[str, Array], like: Array) -> Array:
        """The inverse of `_heads`; zeros for heads that are not given."""
        return jnp.concatenate([heads.get(name, jnp.zeros_like(rows)) for name, rows in self._heads(like).items()])

    def init_coordinates(self, num):
        dtype = self.bias.dtype
        zeros = functools.partial(jnp.zeros, dtype=dtype)
        cells = [(zeros((self.num_units, num)), zeros((self.num_units, num))) for _ in self.cells]
        params, gradient, best = zeros(num), zeros(num), zeros(num)
        smallest, reach = jnp.full((), jnp.inf, dtype), zeros(())
        reads, memory = zeros((self.num_read, num)), self._fresh_memory(num)
        return _State(cells, reads, memory, params, gradient, best, smallest, reach)

    def _fresh_memory(self, num):
        dtype = self.bias.dtype
        if self.memory_pairs is not None:
            return _Pairs(*jnp.zeros((2, self.memory_pairs, num), dtype))
        size = num * num * dtype.itemsize
        if size > MEMORY_LIMIT:
            raise ValueError(
                f"A full memory of {num:,} x {num:,} coordinates takes {size:,} bytes, more than the {MEMORY_LIMIT:,} "
                "allowed. Keep only the last pairs (NTM-L-BFGS): build ntm_bfgs with, say, memory_pairs=30."
            )
        return _Matrix(jnp.eye(num, dtype=dtype))

    def update_coordinates(self, gradients, state, params=None):
        gradient = gradients.astype(self.bias.dtype)
        num = gradient.shape[-1]
        scale = _root_mean_square(gradient) if self.normalised else jnp.ones((), gradient.dtype)
        seen = gradient / scale
        lost = jnp.asarray(self.normalised) & (scale > _MAX_RISE * state.smallest)
        memory = jax.tree.map(lambda old, new: jnp.where(lost, new, old), state.memory, self._fresh_memory(num))
        inputs = [seen[None] if self.preprocessing is None else preprocess(seen, self.preprocessing), state.reads]
        scalars, vectors = jnp.zeros((0, num), gradient.dtype), seen[None]
        if self.differences:
            if params is None:
                raise ValueError("NTM-BFGS with `differences` needs the params: call update(gradients, state, params).")
            params = params.astype(gradient.dtype)
            s, y = self._pair(gradient, params, state)
            p = memory.read(y[None])[0]
            if self.normalised:  # or a write of p p^T would square a memory that is already too large, step by step
                p = _at_most(p, _MAX_READ * _root_mean_square(s))
            q = jnp.mean(y * p)
            started = jnp.any(state.gradient != 0)
            progress = jnp.where(started, jnp.log(_root_mean_square(gradient) / _root_mean_square(state.gradient)), 0.0)
            scalars = jnp.stack([q, progress])
            if self.normalised:
                scalars = jnp.clip(scalars, -_MAX_SCALAR, _MAX_SCALAR)
            scalars = jnp.broadcast_to(scalars[:, None], (2, num))
            vectors = jnp.stack([s, p])
            inputs += [jnp.stack([s, y, p]), scalars]
        # Entries of M grow with its condition: logarithms of large inputs, as preprocessing takes them.
        x = jnp.arcsinh(jnp.concatenate(inputs)) if self.normalised else jnp.concatenate(inputs)
        cells = []
        for cell, (h, c) in zip(self.cells, state.cells, strict=True):
            h, c = cell(x, h, c)
            x = average_first(h, self.num_global)
            cells.append((x, c))
        heads = self._heads(self.readout @ jnp.concatenate([x, scalars]) + self.bias[:, None])
        r, a, b = heads["r"], heads["a"], heads["b"]
        if self.skips:
            r = r.at[0].add(seen)
            a += _gated(heads["a_gates"], vectors)
            b += _gated(heads["b_gates"], vectors)
        memory = memory.write(a / num if self.normalised else a, b)
        reads = memory.read(r)
        update = heads["update"][0]
        if self.skips:
            update -= heads["read_gate"][0] * reads[0]
        update *= self.output_scale * scale
        if self.normalised:
            update = _at_most(update, _MAX_GROWTH * jnp.maximum(self.output_scale * scale, state.reach))
        if params is None:
            return update, state._replace(cells=cells, reads=reads, memory=memory, gradient=gradient)
        params = params.astype(gradient.dtype)
        update = jnp.where(lost, state.best - params, update)
        best = jnp.where(scale < state.smallest, params, state.best)
        smallest = jnp.minimum(state.smallest, scale)
        # From there the next step may be half as long as the one that failed.
        reach = jnp.where(lost, 0.5 / _MAX_GROWTH * state.reach, _root_mean_square(update))
        return update, _State(cells, reads, memory, params, gradient, best, smallest, reach)

    def _pair(self, gradient, params, state):
        """The last step and the gradient's change along it; zero before there are any."""
        s, y = params - state.params, gradient - state.gradient
        valid = jnp.any(state.gradient != 0)
        if not self.normalised:
            return jnp.where(valid, s, 0.0), jnp.where(valid, y, 0.0)
        curvature, length = jnp.mean(s * y), jnp.mean(s * s)
        valid &= (curvature > 0) & (curvature**2 > _MIN_COSINE**2 * length * jnp.mean(y * y))
        valid &= length > (_MIN_STEP * jnp.finfo(params.dtype).eps) ** 2 * jnp.mean(params * params)
        kappa = jnp.sqrt(jnp.where(valid, curvature, 1.0) / self.output_scale)
        return jnp.where(valid, s / (self.output_scale * kappa), 0.0), jnp.where(valid, y / kappa, 0.0)


# Of a pair that is used: cosine of the angle between step and change, and the step in units of the params' rounding.
_MIN_COSINE = 1e-4
_MIN_STEP = 32
# A wrong memory would run away within a few steps, and leave meta-training nothing finite to learn from. So there are limits
# (with `normalised`): on the root mean square of M y in units of that of s; on the scalars; on that of a step in units of the
# last, or of steepest descent's; and on how far the gradient's may rise above its smallest before the rule goes back there.
_MAX_READ = 4.0
_MAX_SCALAR = 4.0
_MAX_GROWTH = 5.0
_MAX_RISE = 100.0


def _root_mean_square(x):
    return jnp.sqrt(jnp.mean(x * x) + jnp.finfo(x.dtype).tiny)


def _at_most(x, limit):
    """x, shortened to a root mean square of `limit` if that is more."""
    return x * jnp.minimum(1.0, limit / _root_mean_square(x))


def _gated(gates, vectors):
    """Sum over vectors of gate x vector, for every head: [heads * vectors, num], [vectors, num] -> [heads, num]."""
    return jnp.sum(gates.reshape(-1, *vectors.shape) * vectors[None], axis=1)


def build(key: PRNGKeyArray, *, preset: str = "guided", **arguments) -> NTMBFGS:
    """An `NTMBFGS` with a preset's constants ("guided" or "paper"), any of which `arguments` override."""
    if preset not in PRESETS:
        raise ValueError(f"No preset named {preset!r}. Presets of ntm_bfgs: {', '.join(PRESETS)}.")
    return NTMBFGS(**{**PRESETS[preset], **arguments}, key=key)
