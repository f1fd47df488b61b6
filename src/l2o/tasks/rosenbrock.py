r"""Rosenbrock's valley, $f(\theta) = \sum_i b\,(\theta_{i+1} - \theta_i^2)^2 + (a - \theta_i)^2$ (Rosenbrock 1960)."""

import equinox as eqx
import jax
import jax.numpy as jnp

from l2o.core.checks import count, not_negative
from l2o.core.task import AbstractTask, TaskFamily

HORIZON = 200


class Rosenbrock(AbstractTask):
    r"""The `dim`-dimensional chained form, started from $N(0, \sigma_0^2 I)$; minimum 0 at $\theta = (1, \dots, 1)$ for $a=1$."""

    dim: int = eqx.field(static=True, default=2)
    a: float = eqx.field(static=True, default=1.0)
    b: float = eqx.field(static=True, default=100.0)
    init_std: float = eqx.field(static=True, default=1.0)

    def init(self, key):
        return self.init_std * jax.random.normal(key, (self.dim,))

    def loss(self, params, key, *, split="train"):
        return jnp.sum(self.b * (params[1:] - params[:-1] ** 2) ** 2 + (self.a - params[:-1]) ** 2)


def family(*, dim: int = 2, a: float = 1.0, b: float = 100.0, init_std: float = 1.0) -> TaskFamily:
    """A family of one function; only the starting point is random."""
    not_negative("init_std", init_std)
    count("dim", dim, at_least=-(2**31))
    if dim < 2:
        raise ValueError(f"Rosenbrock's function needs `dim` of at least 2, got {dim}.")
    return lambda key: Rosenbrock(dim, a, b, init_std)
