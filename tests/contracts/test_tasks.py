"""What every family of `l2o.tasks` must do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.core import plugins

KEY = jax.random.key(0)


# Programs that take seconds to compile; the families have tests of their own as well.
SLOW = {"char_rnn", "convnet", "resnet", "style", "transformer"}
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in plugins.names("tasks")]


@pytest.fixture(params=NAMES, scope="module")
def module(request):
    return plugins.get("tasks", request.param)


@pytest.fixture(scope="module")
def family(module):
    return module.family()


def drawn(family, key):
    """A task, params at its start, and a key for minibatches."""
    task_key, init_key, batch_key = jax.random.split(key, 3)
    task = family(task_key)
    return task, task.init(init_key), batch_key


def test_there_are_some():
    assert {"quadratic", "logistic", "rosenbrock", "mlp"} <= set(plugins.names("tasks"))


def test_it_passes_the_check_and_has_a_usual_horizon(module, family):
    l2o.check_family(family, KEY)
    assert isinstance(module.HORIZON, int)
    assert module.HORIZON > 0


def test_every_task_starts_with_params_of_one_structure(family):
    (_, first, _), (_, second, _) = drawn(family, KEY), drawn(family, jax.random.key(1))
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), params) for params in (first, second)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("split", ["train", "outer", "test"])
def test_the_loss_is_a_finite_scalar_and_its_gradient_is_not_zero(family, split):
    @eqx.filter_jit
    def start(family):
        task, params, key = drawn(family, KEY)
        return jax.value_and_grad(lambda params: task.loss(params, key, split=split))(params)

    loss, gradient = start(family)
    assert loss.shape == ()
    assert np.isfinite(loss)
    assert 0 < optax.tree.norm(gradient) < np.inf


def test_tasks_are_drawn_side_by_side(family):
    """Under `vmap`, and the same ones as alone."""

    def start(family, key):
        task, params, key = drawn(family, key)
        return task.loss(jax.tree.map(lambda x: x + 0.3, params), key)  # some starts are alike

    keys = jax.random.split(KEY, 3)
    together = eqx.filter_jit(lambda family: jax.vmap(lambda key: start(family, key))(keys))(family)
    alone = jnp.stack([eqx.filter_jit(start)(family, key) for key in keys])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert np.unique(alone).size > 1  # keys matter: to the task, its start or its minibatch


def test_adam_reduces_the_loss_and_metrics_are_finite(family):
    curves = l2o.evaluate(optax.adam(0.03), family, horizon=20, num_tasks=2, key=KEY)
    assert np.mean(curves.losses[:, -1]) < 0.9 * np.mean(curves.losses[:, 0])
    assert all(np.isfinite(values).all() for values in curves.metrics.values())


def test_its_name_is_known_and_others_are_refused_by_name():
    with pytest.raises(ValueError, match=r"No task named 'nope'\. Tasks: .*quadratic.*; or pass module:attribute\."):
        plugins.get("tasks", "nope")
