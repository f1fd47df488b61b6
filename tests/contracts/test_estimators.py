"""What every estimator of `l2o.meta.estimators` must do."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import bowl, bowls, tiny_lstm

import l2o
from l2o.core import plugins

KEY = jax.random.key(0)


def estimators(name):
    module = plugins.get("estimators", name)
    classes = {c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__}
    return [c for c in classes if issubclass(c, l2o.AbstractGradientEstimator) and not inspect.isabstract(c)]


@pytest.fixture(params=plugins.names("estimators"), scope="module")
def make(request):
    (cls,) = estimators(request.param)  # one a module
    return cls


@pytest.fixture(scope="module")
def problem():
    return l2o.InnerTraining(bowls, horizon=6, truncation=3)


def like(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_there_are_some():
    assert {"bptt", "pes"} <= set(plugins.names("estimators"))


def test_the_gradient_is_of_the_optimizers_arrays(make, problem):
    estimator, optimizer = make(problem, num_tasks=2), tiny_lstm()
    traces = []

    @eqx.filter_jit
    def estimate(optimizer, state, key):
        traces.append(None)
        return estimator.estimate(optimizer, state, key)

    state = eqx.filter_jit(estimator.init)(optimizer, KEY)
    for i in range(3):  # past the horizon
        before = like(state)
        result, state = estimate(optimizer, state, jax.random.fold_in(KEY, i))
        assert like(state) == before
        arrays = eqx.filter(optimizer, eqx.is_inexact_array)
        assert jax.tree.structure(result.gradient) == jax.tree.structure(arrays)
        assert like(result.gradient) == like(arrays)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((result.gradient, result.meta_loss)))
        assert result.num_diverged == 0
    assert len(traces) == 1


def test_its_state_survives_a_trip_to_disk(make, problem):
    """Leaves taken apart as numpy arrays, keys as their data, and put together again: the same estimate, bit for bit."""
    estimator, optimizer = make(problem, num_tasks=2), tiny_lstm()
    state = eqx.filter_jit(estimator.init)(optimizer, KEY)

    def is_key(x):
        return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

    leaves, treedef = jax.tree.flatten(state)
    raw = [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in leaves]
    back = [jax.random.wrap_key_data(r) if is_key(x) else jnp.asarray(r) for r, x in zip(raw, leaves, strict=True)]
    estimate = eqx.filter_jit(estimator.estimate)
    first = estimate(optimizer, state, KEY)[0]
    second = estimate(optimizer, jax.tree.unflatten(treedef, back), KEY)[0]
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_points_uphill(make):
    """x^2 from 1 with a rate far too small: every estimate of d meta-loss / d log rate must be negative on average."""
    from fakes import Descent

    estimator = make(l2o.InnerTraining(bowl, horizon=5, truncation=5), num_tasks=32)
    optimizer = Descent(jnp.log(0.02))
    state = eqx.filter_jit(estimator.init)(optimizer, KEY)
    estimate, _ = eqx.filter_jit(estimator.estimate)(optimizer, state, KEY)
    assert estimate.gradient.log_rate < 0
    # Losses (1 - 2 r)^(2 t), t < 5: smoothing and first order leave the mean loss where it is, to a percent.
    np.testing.assert_allclose(estimate.meta_loss, np.mean(0.96 ** (2 * np.arange(5))), rtol=1e-2)
