r"""LASSO, convex and not smooth (Tibshirani 1996; a benchmark in Chen et al. 2021, "Learning to Optimize: A Primer").

$$f(x) = \tfrac12 \lVert Ax - b \rVert^2 + \lambda \lVert x \rVert_1$$

Each task draws its own $A$ with i.i.d. Gaussian columns scaled to length 1, and $b \sim N(0, I)$. Optimizers get the subgradient
$A^\top(Ax - b) + \lambda\,\mathrm{sign}(x)$ with $\mathrm{sign}(0) = 0$. `fista` computes the minimum to compare with.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o.core.checks import counts, real
from l2o.core.task import AbstractTask, TaskFamily

HORIZON = 100


class Lasso(AbstractTask):
    r"""$\tfrac12 \lVert Ax - b \rVert^2 + \lambda \lVert x \rVert_1$ with $\lambda$ = `l1`, started at 0."""

    A: Float[Array, "rows dim"]
    b: Float[Array, " rows"]
    l1: float = eqx.field(static=True)

    def init(self, key):
        return jnp.zeros_like(self.A[0])

    def loss(self, params, key, *, split="train"):
        return objective(params, self.A, self.b, self.l1)

    def metrics(self, params, key, *, split="test"):
        r"""`relative_gap`: $(f(x) - f^*) / f^*$, comparable between tasks, with $f^*$ by `fista`."""
        lowest = objective(fista(self.A, self.b, self.l1), self.A, self.b, self.l1)
        return {"relative_gap": self.loss(params, key) / lowest - 1}


def objective(
    x: Float[Array, " dim"], A: Float[Array, "rows dim"], b: Float[Array, " rows"], l1: float
) -> Float[Array, ""]:
    r"""$\tfrac12 \lVert Ax - b \rVert^2 + \lambda \lVert x \rVert_1$."""
    return 0.5 * jnp.sum((A @ x - b) ** 2) + l1 * jnp.sum(jnp.abs(x))


def fista(
    A: Float[Array, "rows dim"],
    b: Float[Array, " rows"],
    l1: float,
    *,
    tolerance: float = 1e-4,
    max_steps: int = 10_000,
) -> Float[Array, " dim"]:
    r"""The minimiser of the LASSO, by the accelerated proximal gradient method.

    From $x_0 = z_0 = 0$ and $t_0 = 1$,

    $$x_{k+1} = S_{\lambda/L}\big(z_k - \tfrac1L A^\top(Az_k - b)\big), \quad t_{k+1} = \tfrac12\big(1 + \sqrt{1 + 4t_k^2}\big),
    \quad z_{k+1} = x_{k+1} + \tfrac{t_k - 1}{t_{k+1}}(x_{k+1} - x_k),$$

    with $L = \lVert A \rVert_2^2$ and $S_a(v) = \mathrm{sign}(v)\max(|v| - a, 0)$. Where a step turns against the momentum,
    $\langle z_k - x_{k+1}, x_{k+1} - x_k \rangle > 0$, $t$ starts again from 1, which makes the end of the way fast.

    Stops where no entry of the generalised gradient $L(z_k - x_{k+1})$ exceeds `tolerance` times $\lambda$, or after `max_steps`.
    It can be jitted and vmapped.

    FISTA: Beck and Teboulle 2009, section 4. Restarts: O'Donoghue and Candès 2015, section 3.2 (gradient scheme).
    """
    lipschitz = jnp.linalg.norm(A, 2) ** 2

    def step(carry):
        count, x, z, t, _ = carry
        v = z - A.T @ (A @ z - b) / lipschitz
        following = jnp.sign(v) * jnp.maximum(jnp.abs(v) - l1 / lipschitz, 0)
        residual = lipschitz * jnp.max(jnp.abs(z - following))
        t = jnp.where(jnp.dot(z - following, following - x) > 0, 1, t)
        t_next = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return count + 1, following, following + (t - 1) / t_next * (following - x), t_next, residual

    def unfinished(carry):
        count, *_, residual = carry
        return (count < max_steps) & (residual > tolerance * l1)

    zeros, one = jnp.zeros_like(A[0]), jnp.ones((), A.dtype)
    return jax.lax.while_loop(unfinished, step, (0, zeros, zeros, one, one * jnp.inf))[1]


def family(*, rows: int = 25, dim: int = 50, l1: float = 0.1) -> TaskFamily:
    r"""Draws $A$ (`rows` x `dim`) and $b$; `l1` is $\lambda$.

    **Raises:** `ValueError` if a size is not a positive whole number, or `l1` not positive:
    there may be many minimisers then, and the relative gap has no scale.
    """
    counts(rows=rows, dim=dim)
    if not 0 < real("l1", l1) < float("inf"):
        raise ValueError(f"`l1` must be positive, got {l1}. Without it, use the task quadratic.")

    def lasso(key):
        a_key, b_key = jax.random.split(key)
        A = jax.random.normal(a_key, (rows, dim))
        return Lasso(A / jnp.linalg.norm(A, axis=0, keepdims=True), jax.random.normal(b_key, (rows,)), l1)

    return lasso
