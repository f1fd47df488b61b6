"""Test functions: 0 and flat at their known minimum, and equal to their textbook formulas elsewhere."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.tasks import landscape

KEY = jax.random.key(0)

# As printed in Jamil and Yang 2013, without the rearrangements.
TEXTBOOK = {
    "rastrigin": lambda x: 10 * len(x) + sum(a**2 - 10 * math.cos(2 * math.pi * a) for a in x),
    "ackley": lambda x: (
        20
        + math.e
        - 20 * math.exp(-0.2 * math.sqrt(sum(a**2 for a in x) / len(x)))
        - math.exp(sum(math.cos(2 * math.pi * a) for a in x) / len(x))
    ),
    "griewank": lambda x: (
        1 + sum(a**2 for a in x) / 4000 - math.prod(math.cos(a / math.sqrt(i + 1)) for i, a in enumerate(x))
    ),
    "levy": lambda x: _levy([1 + (a - 1) / 4 for a in x]),
    "styblinski_tang": lambda x: sum(a**4 - 16 * a**2 + 5 * a for a in x) / 2 + 39.16616570377142 * len(x),
    "beale": lambda x: sum((c - x[0] * (1 - x[1] ** (i + 1))) ** 2 for i, c in enumerate((1.5, 2.25, 2.625))),
    "booth": lambda x: (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2,
    "himmelblau": lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
}


def _levy(w):
    middle = sum((a - 1) ** 2 * (1 + 10 * math.sin(math.pi * a + 1) ** 2) for a in w[:-1])
    last = (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)
    return math.sin(math.pi * w[0]) ** 2 + middle + last


def dim_of(name):
    return 2 if isinstance(landscape.FUNCTIONS[name].minimizer, tuple) else 3


@pytest.fixture(params=landscape.FUNCTIONS)
def name(request):
    return request.param


def test_minimum_is_zero_and_flat(name):
    """In float32, in which optimizers run."""
    f, minimizer, _, _ = landscape.FUNCTIONS[name]
    value, gradient = jax.value_and_grad(f)(jnp.broadcast_to(jnp.array(minimizer), dim_of(name)))
    assert value == 0
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_it_is_the_textbook_formula_and_never_negative(name, x64):
    f, minimizer, low, high = landscape.FUNCTIONS[name]
    box = jax.random.uniform(KEY, (50, dim_of(name)), minval=low, maxval=high)
    near = np.broadcast_to(minimizer, box.shape) + 0.01 * jax.random.normal(KEY, (50, dim_of(name)))
    points = jnp.concatenate([box, near])
    values = np.asarray(jax.vmap(f)(points))
    np.testing.assert_allclose(values, [TEXTBOOK[name](x) for x in points.tolist()], rtol=1e-9, atol=1e-10)
    assert (values > 0).all()


def test_all_four_minima_of_himmelblau():
    known = [[3, 2], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]]
    np.testing.assert_allclose(jax.vmap(landscape.himmelblau)(jnp.array(known)), 0, atol=1e-8)


def test_shift_moves_the_function_and_not_the_starts():
    still, moved = (landscape.family(name="beale", max_shift=shift)(KEY) for shift in (0.0, 1.0))
    np.testing.assert_array_equal(still.init(KEY), moved.init(KEY))
    np.testing.assert_array_equal(still.shift, 0)
    assert 0 < np.abs(moved.shift).max() <= 1
    assert moved.loss(jnp.array([3.0, 0.5]) + moved.shift, KEY) == pytest.approx(0, abs=1e-10)
    assert moved.loss(jnp.array([3.0, 0.5]), KEY) > 1e-4


def test_starts_fill_the_box():
    starts = jax.vmap(landscape.family(name="griewank", dim=3)(KEY).init)(jax.random.split(KEY, 200))
    assert starts.shape == (200, 3)
    assert (np.abs(starts) <= 600).all()
    assert (starts.min(axis=0) < -550).all()
    assert (starts.max(axis=0) > 550).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "nope"}, r"No landscape named 'nope'\. Landscapes: rastrigin, ackley, .*himmelblau\."),
        ({"name": "beale", "dim": 3}, r"beale is a function of 2 variables, got dim=3\."),
        ({"name": "ackley", "dim": 0}, r"ackley is a function of 1 or more variables, got dim=0\."),
    ],
)
def test_what_does_not_exist_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        landscape.family(**settings)
