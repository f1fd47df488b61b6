"""Random scaling (Lv et al. 2017): the same problems in other coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import Affine, Descent, assert_trees_close, assert_trees_equal, bowl
from fakes import regression as regression_task

import l2o
from l2o.tasks import mlp, quadratic

KEY = jax.random.key(0)


def regression(key):
    return regression_task()


def is_output(path, leaf):
    return path[0].key == "out"


def scales(family, num=1000):
    """c of many tasks."""
    return jax.jit(jax.vmap(lambda key: family(key).scale))(jax.random.split(KEY, num))


def test_descent_is_descent_with_a_rate_for_every_coordinate(x64):
    """theta' -= a c grad f(c theta') is theta -= a c^2 grad f(theta)."""
    task = l2o.RandomScaling(quadratic.family(), signs=True, log_range=1.0)(KEY)
    start_key, batch_key = jax.random.split(KEY)
    state = l2o.start(task, Descent(jnp.log(0.01)), start_key)
    state, losses = l2o.unroll(task, Descent(jnp.log(0.01)), state, batch_key, length=5)

    params = task.task.init(start_key)
    expected = []
    for _ in range(5):
        value, gradient = jax.value_and_grad(task.task.loss)(params, batch_key)
        expected.append(value)
        params = jax.tree.map(lambda x, c, g: x - 0.01 * c**2 * g, params, task.scale, gradient)
    np.testing.assert_allclose(losses, expected, rtol=1e-10)
    assert_trees_close(jax.tree.map(jnp.multiply, state.params, task.scale), params, rtol=1e-10)


def test_scales_are_uniform_in_the_logarithm_and_signs_fair():
    drawn = scales(l2o.RandomScaling(regression, log_range=2.0, signs=True))
    c = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(drawn)])
    assert np.abs(np.log(np.abs(c))).max() <= 2.0
    # of n draws: a mean of 0 within 4 standard errors, a mean square of r^2 / 3
    assert abs(np.log(np.abs(c)).mean()) < 4 * 2 / np.sqrt(3 * c.size)
    np.testing.assert_allclose(np.mean(np.log(np.abs(c)) ** 2), 4 / 3, rtol=0.05)
    assert abs(np.sign(c).mean()) < 4 / np.sqrt(c.size)
    assert len(np.unique(c)) > 0.99 * c.size  # a scale for every coordinate of every task

    positive = scales(l2o.RandomScaling(regression))
    assert all(jnp.all(leaf > 0) for leaf in jax.tree.leaves(positive))


def test_only_what_is_asked_for_is_scaled():
    drawn = scales(l2o.RandomScaling(regression, log_range=0.0, signs=True, where=is_output, probability=0.25))
    assert_trees_equal(drawn["hidden"], jax.tree.map(jnp.ones_like, drawn["hidden"]))
    signed = np.any(np.asarray(drawn["out"]) != 1, axis=1)
    # three fair coins show a tail with probability 7/8
    assert abs(signed.mean() - 0.25 * 7 / 8) < 4 * np.sqrt(0.22 * 0.78 / 1000)
    assert set(np.unique(drawn["out"])) == {-1.0, 1.0}


@pytest.mark.slowest
@pytest.mark.slow
def test_a_scaled_task_tells_of_the_original():
    family = l2o.RandomScaling(mlp.family(data="mnist_sample", hidden=(3,)))
    l2o.check_family(family, KEY)
    scaled = family(KEY)
    original, params = scaled.task, scaled.init(KEY)
    theta = original.init(KEY)
    np.testing.assert_allclose(scaled.loss(params, KEY), original.loss(theta, KEY), rtol=1e-5)
    assert_trees_close(scaled.metrics(params, KEY), original.metrics(theta, KEY), atol=1e-6)
    assert scaled.image(params) is None


def test_with_signs_no_constant_step_can_pay():
    """x^2 from 1 with u = b: the second loss grows by 2 b to first order, with signs by 2 c b: on average not at all."""

    def slopes(family, num=400):
        def losses(b, key):
            task, rule = family(key), Affine(jnp.zeros(()), b)
            return jnp.sum(l2o.unroll(task, rule, l2o.start(task, rule, key), key, length=2)[1])

        return jax.vmap(jax.grad(losses), (None, 0))(jnp.zeros(()), jax.random.split(KEY, num))

    np.testing.assert_allclose(slopes(bowl), 2.0)
    signed = slopes(l2o.RandomScaling(bowl, log_range=0.0, signs=True))
    np.testing.assert_allclose(jnp.abs(signed), 2.0)
    assert abs(jnp.mean(signed)) < 4 * 2.0 / np.sqrt(signed.size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_range": -1.0}, "`log_range` must be finite and not negative, got -1.0"),
        ({"log_range": float("nan")}, "got nan"),
        ({"log_range": 0.0}, "nothing would be scaled"),
        ({"probability": 0.0}, "`probability` must be above 0 and at most 1, got 0.0"),
    ],
)
def test_helpful_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        l2o.RandomScaling(regression, **arguments)


def test_where_that_is_true_of_nothing_names_the_leaves():
    family = l2o.RandomScaling(regression, where=lambda path, leaf: path[0].key == "output")
    with pytest.raises(ValueError, match=r"none of the params' leaves: .*\['out'\]"):
        family(KEY)
