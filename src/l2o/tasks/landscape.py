r"""Test functions of global optimization, each shifted so that its minimum is 0, started at random in its usual box.

Formulas and boxes follow Jamil and Yang 2013, "A literature survey of benchmark functions for global optimization problems";
the docstring of each function has its formula, its minimiser and its origin. In some the formula is rearranged so that float32
keeps its digits near the minimum, where sums of large terms would cancel. Rosenbrock's function is in `rosenbrock`.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from l2o.core.checks import count, not_negative
from l2o.core.task import AbstractTask, TaskFamily

HORIZON = 200

Point = Float[Array, " dim"]


def rastrigin(x: Point) -> Float[Array, ""]:
    r"""$10n + \sum_i x_i^2 - 10 \cos 2\pi x_i = \sum_i x_i^2 + 20 \sin^2 \pi x_i$; 0 at 0. Mühlenbein et al. 1991."""
    return jnp.sum(x**2 + 20 * jnp.sin(jnp.pi * x) ** 2)


def ackley(x: Point) -> Float[Array, ""]:
    r"""$20 + e - 20 e^{-0.2 r} - e^{\frac1n \sum_i \cos 2\pi x_i}$, $r^2 = \frac1n \sum_i x_i^2$; 0 at 0, a kink. Ackley 1987."""
    mean_square = jnp.mean(x**2)
    at_kink = mean_square == 0  # the square root has no derivative there: 0 is taken, a subgradient
    r = jnp.where(at_kink, 0, jnp.sqrt(jnp.where(at_kink, 1, mean_square)))
    cosines = jnp.mean(-2 * jnp.sin(jnp.pi * x) ** 2)  # mean of cos - 1
    return -20 * jnp.expm1(-0.2 * r) - jnp.e * jnp.expm1(cosines)


def griewank(x: Point) -> Float[Array, ""]:
    r"""$1 + \sum_i x_i^2 / 4000 - \prod_i \cos(x_i / \sqrt{i})$; 0 at 0. Griewank 1981."""
    return jnp.sum(x**2) / 4000 + 1 - jnp.prod(jnp.cos(x / jnp.sqrt(jnp.arange(1, len(x) + 1))))


def levy(x: Point) -> Float[Array, ""]:
    r"""$\sin^2 \pi w_1 + \sum_{i<n} (w_i - 1)^2 (1 + 10 \sin^2(\pi w_i + 1)) + (w_n - 1)^2 (1 + \sin^2 2\pi w_n)$.

    With $w_i = 1 + (x_i - 1) / 4$; 0 at $(1, \dots, 1)$. Levy and Montalvo 1985.
    """
    v = (x - 1) / 4  # w - 1; the sines of w and of v differ in their sign at most
    middle = v[:-1] ** 2 * (1 + 10 * jnp.sin(jnp.pi * v[:-1] + 1) ** 2)
    return jnp.sin(jnp.pi * v[0]) ** 2 + jnp.sum(middle) + v[-1] ** 2 * (1 + jnp.sin(2 * jnp.pi * v[-1]) ** 2)


_STYBLINSKI_TANG = float(min(np.roots([4, 0, -32, 5]).real))  # where 2x³ - 16x + 2.5 = 0: -2.9035


def styblinski_tang(x: Point) -> Float[Array, ""]:
    r"""$\frac12 \sum_i (x_i^4 - 16 x_i^2 + 5 x_i) - n c$ with $c = -39.166$; 0 at $(m, \dots, m)$, $m = -2.9035$.

    Computed as its Taylor series at $m$, $\frac12 \sum_i d_i^2 (d_i^2 + 4 m d_i + 6 m^2 - 16)$ with $d = x - m$. Styblinski and
    Tang 1990.
    """
    m = _STYBLINSKI_TANG
    d = x - m
    return 0.5 * jnp.sum(d**2 * (d**2 + 4 * m * d + 6 * m**2 - 16))


def beale(x: Point) -> Float[Array, ""]:
    r"""$(1.5 - x_1 + x_1 x_2)^2 + (2.25 - x_1 + x_1 x_2^2)^2 + (2.625 - x_1 + x_1 x_2^3)^2$; 0 at $(3, \frac12)$. Beale 1958."""
    a, b = x
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def booth(x: Point) -> Float[Array, ""]:
    r"""$(x_1 + 2 x_2 - 7)^2 + (2 x_1 + x_2 - 5)^2$, a quadratic; 0 at $(1, 3)$. Booth, in Jamil and Yang 2013, function 17."""
    a, b = x
    return (a + 2 * b - 7) ** 2 + (2 * a + b - 5) ** 2


def himmelblau(x: Point) -> Float[Array, ""]:
    r"""$(x_1^2 + x_2 - 11)^2 + (x_1 + x_2^2 - 7)^2$; 0 at $(3, 2)$ and three more points. Himmelblau 1972."""
    a, b = x
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


class Function(NamedTuple):
    """A test function, one of its minimisers, and the box it is searched in."""

    f: Callable[[Point], Float[Array, ""]]
    minimizer: float | tuple[float, float]  # a float: the same in every coordinate, for any dimension
    low: float
    high: float


FUNCTIONS = {
    "rastrigin": Function(rastrigin, 0.0, -5.12, 5.12),
    "ackley": Function(ackley, 0.0, -32.768, 32.768),
    "griewank": Function(griewank, 0.0, -600.0, 600.0),
    "levy": Function(levy, 1.0, -10.0, 10.0),
    "styblinski_tang": Function(styblinski_tang, _STYBLINSKI_TANG, -5.0, 5.0),
    "beale": Function(beale, (3.0, 0.5), -4.5, 4.5),
    "booth": Function(booth, (1.0, 3.0), -10.0, 10.0),
    "himmelblau": Function(himmelblau, (3.0, 2.0), -5.0, 5.0),
}


class Landscape(AbstractTask):
    r"""$f(\theta - s)$ for the function called `name`, started uniformly in its box."""

    shift: Float[Array, " dim"]  # s
    name: str = eqx.field(static=True)

    def init(self, key):
        _, _, low, high = FUNCTIONS[self.name]
        return jax.random.uniform(key, self.shift.shape, minval=low, maxval=high)

    def loss(self, params, key, *, split="train"):
        return FUNCTIONS[self.name].f(params - self.shift)


def family(*, name: str = "rastrigin", dim: int = 2, max_shift: float = 0.0) -> TaskFamily:
    """Starts one function from random points, and moves it if asked to.

    **Arguments:**

    - `name`: one of `FUNCTIONS`. - `dim`: 2 for beale, booth and himmelblau; any for the others.
    - `max_shift`: each task moves the function by a vector drawn uniformly from [-`max_shift`, `max_shift`] in every
        coordinate, so that an optimizer cannot learn where the minimum is. The box of starting points stays.

    **Raises:** `ValueError` for a name or a dimension that does not exist, or a `max_shift` that is negative or not finite.
    """
    if name not in FUNCTIONS:
        raise ValueError(f"No landscape named {name!r}. Landscapes: {', '.join(FUNCTIONS)}.")
    not_negative("max_shift", max_shift)
    count("dim", dim, at_least=0)
    if dim < 1 or (isinstance(FUNCTIONS[name].minimizer, tuple) and dim != 2):
        raise ValueError(f"{name} is a function of {'2' if dim > 0 else '1 or more'} variables, got dim={dim}.")

    def landscape(key):
        return Landscape(jax.random.uniform(key, (dim,), minval=-max_shift, maxval=max_shift), name)

    return landscape
