r"""Random quadratics, $f(\theta) = \lVert W\theta - y \rVert^2$ (Andrychowicz et al. 2016, section 3.1)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o.core.checks import count, not_negative, real
from l2o.core.task import AbstractTask, TaskFamily

HORIZON = 100


class Quadratic(AbstractTask):
    r"""$f(\theta) = \lVert W\theta - y \rVert^2$, started at $\theta_0 \sim N(0, \sigma_0^2 I)$."""

    W: Float[Array, "rows dim"]
    y: Float[Array, " rows"]
    init_std: float = eqx.field(static=True, default=0.01)

    def init(self, key):
        return self.init_std * jax.random.normal(key, self.W.shape[1:])

    def loss(self, params, key, *, split="train"):
        return jnp.sum((self.W @ params - self.y) ** 2)


def family(
    *, dim: int = 10, preset: str = "paper", init_std: float = 0.01, condition: float | None = None
) -> TaskFamily:
    r"""Draws $W$ (dim x dim) and $y$ with i.i.d. entries, or $W$ of a given condition number.

    **Arguments:**

    - `preset`: "paper" draws from N(0, 1); "code", the authors' public code, from the uniform distribution on [0, 1].
    - `init_std`: the paper does not say how it starts; 0.01 is the code's.
    - `condition`: the condition number $\kappa$ of the Hessian $2 W^\top W$. Then $W = \mathrm{diag}(s) Q$ with $Q$ a random
        rotation and $s_i^2$ evenly spaced in the logarithm from 1 to $1/\kappa$; $y$ is as before. From $\theta = 0$ every
        eigendirection has the same share of the loss, so the slow ones matter. Default: $W$ of i.i.d. entries.

    **Raises:** `ValueError` for a `dim` that is not a positive whole number, a negative `init_std`, an unknown preset, a
    condition number below 1 or infinite, or one with the preset "code".
    """
    count("dim", dim)
    not_negative("init_std", init_std)
    draws = {"paper": jax.random.normal, "code": jax.random.uniform}
    if preset not in draws:
        raise ValueError(f"No preset named {preset!r}. Presets of quadratic: {', '.join(draws)}.")
    draw = draws[preset]
    if condition is not None and (not 1 <= real("condition", condition) < float("inf") or preset != "paper"):
        raise ValueError(
            "`condition` must be at least 1, and comes with the preset 'paper' only, "
            f"got condition={condition} and preset={preset!r}."
        )

    def matrix(key):
        if condition is None:
            return draw(key, (dim, dim))
        scales = jnp.logspace(0, -0.5, dim, base=condition)
        return scales[:, None] * jax.random.orthogonal(key, dim)

    def quadratic(key):
        w_key, y_key = jax.random.split(key)
        return Quadratic(matrix(w_key), draw(y_key, (dim,)), init_std)

    return quadratic
