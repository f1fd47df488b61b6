r"""Random quadratics, $f(\theta) = \lVert W\theta - y \rVert^2$ (Andrychowicz et al. 2016, section 3.1)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o._task import AbstractTask, TaskFamily

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


def family(*, dim: int = 10, preset: str = "paper", init_std: float = 0.01) -> TaskFamily:
    """Draws $W$ (dim x dim) and $y$ with i.i.d. entries.

    **Arguments:** `preset`: "paper" draws from N(0, 1); "code", the authors' public code, from the uniform distribution
    on [0, 1]. `init_std`: the paper does not say how it starts; 0.01 is the code's.
    """
    draws = {"paper": jax.random.normal, "code": jax.random.uniform}
    if preset not in draws:
        raise ValueError(f"No preset named {preset!r}. Presets of quadratic: {', '.join(draws)}.")
    draw = draws[preset]

    def quadratic(key):
        w_key, y_key = jax.random.split(key)
        return Quadratic(draw(w_key, (dim, dim)), draw(y_key, (dim,)), init_std)

    return quadratic
