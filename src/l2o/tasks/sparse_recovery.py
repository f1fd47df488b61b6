r"""Sparse recovery: find a sparse $x^*$ from few noisy measurements $b = Ax^* + \varepsilon$ by minimising the LASSO.

$$f(x) = \tfrac12 \lVert Ax - b \rVert^2 + \lambda \lVert x \rVert_1, \qquad
\mathrm{NMSE} = 10 \log_{10} \frac{\lVert x - x^* \rVert^2}{\lVert x^* \rVert^2}\ \mathrm{dB}.$$

The signals and measurements of Borgerding, Schniter and Rangan 2017 and Chen et al. 2018, section 4 ("Theoretical
linear convergence of unfolded ISTA"), who have $A$ of 250 x 500: i.i.d. Gaussian columns scaled to length 1, one $A$ for all
signals; each entry of $x^*$ is N(0, 1) with probability 0.1, else 0.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o.core.checks import counts, not_negative, real
from l2o.core.task import AbstractTask
from l2o.tasks.lasso import objective

HORIZON = 100


class SparseRecovery(AbstractTask):
    r"""The LASSO objective with $\lambda$ = `l1` of one signal's measurements, started at 0."""

    A: Float[Array, "rows dim"]
    b: Float[Array, " rows"]
    x_true: Float[Array, " dim"]
    l1: float = eqx.field(static=True)

    def init(self, key):
        return jnp.zeros_like(self.x_true)

    def loss(self, params, key, *, split="train"):
        return objective(params, self.A, self.b, self.l1)

    def metrics(self, params, key, *, split="test"):
        """`nmse_db`: the error of the recovered signal in decibels; 0 at the start, lower is better."""
        error = jnp.sum((params - self.x_true) ** 2) / jnp.sum(self.x_true**2)
        return {"nmse_db": 10 * jnp.log10(error)}


class _Family(eqx.Module):
    A: Float[Array, "rows dim"]
    density: float = eqx.field(static=True)
    snr_db: float = eqx.field(static=True)
    l1: float = eqx.field(static=True)

    def __call__(self, key):
        support_key, value_key, one_key, noise_key = jax.random.split(key, 4)
        rows, dim = self.A.shape
        support = jax.random.bernoulli(support_key, self.density, (dim,))
        # A signal of zeros, which only short ones are now and then, has no NMSE: it gets one entry.
        one = jnp.arange(dim) == jax.random.randint(one_key, (), 0, dim)
        support = jnp.where(jnp.any(support), support, one)
        x_true = support * jax.random.normal(value_key, (dim,))
        clean = self.A @ x_true
        noise_std = jnp.sqrt(jnp.mean(clean**2)) * 10 ** (-self.snr_db / 20)
        return SparseRecovery(self.A, clean + noise_std * jax.random.normal(noise_key, (rows,)), x_true, self.l1)


def family(
    *,
    rows: int = 25,
    dim: int = 50,
    density: float = 0.1,
    snr_db: float = 40.0,
    l1: float = 0.02,
    matrix_seed: int = 0,
) -> _Family:
    r"""Draws signals and noise; $A$ is the same for all tasks.

    **Arguments:**

    - `rows`, `dim`: measurements and entries of the signal (the papers: 250 and 500). - `density`: share of non-zero entries.
    - `snr_db`: $10 \log_{10}$ of $\lVert Ax^* \rVert^2$ over the expected $\lVert\varepsilon\rVert^2$; `inf`: no noise.
    - `l1`: $\lambda$. Larger finds the support sooner and biases the signal more.
    - `matrix_seed`: of $A$. Train on one and test on another to see whether an optimizer depends on it.

    **Raises:** `ValueError` if a size is not a positive whole number, `density` not in (0, 1], or `l1` negative.
    """
    counts(rows=rows, dim=dim)
    not_negative("l1", l1)
    real("snr_db", snr_db)
    if not 0 < density <= 1:
        raise ValueError(f"`density` must be more than 0 and at most 1, got {density}.")
    A = jax.random.normal(jax.random.key(matrix_seed), (rows, dim))
    return _Family(A / jnp.linalg.norm(A, axis=0, keepdims=True), density, snr_db, l1)
