"""The inner loop: what it computes, in closed form and against a loop of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, assert_trees_close, bowl, regression
from unrolls import obvious, rule

import l2o

KEY = jax.random.key(0)


def test_unroll_of_gradient_descent_on_x_squared_is_a_geometric_series():
    task, optimizer = bowl(), Descent(jnp.log(0.1))
    state, losses = l2o.unroll(task, optimizer, l2o.start(task, optimizer, KEY), KEY, length=6)
    np.testing.assert_allclose(losses, 0.8 ** (2 * np.arange(6)), rtol=1e-5)
    np.testing.assert_allclose(state.params, 0.8**6, rtol=1e-5)
    assert state.step == 6


@pytest.mark.parametrize("cut", [1, 7])
@pytest.mark.parametrize("split", ["train", "outer"])
def test_unroll_can_be_cut_anywhere(cut, split):
    task, optimizer = regression(), rule("momentum")
    start = l2o.start(task, optimizer, KEY)
    whole, losses = l2o.unroll(task, optimizer, start, KEY, length=10, split=split)
    half, first = l2o.unroll(task, optimizer, start, KEY, length=cut, split=split)
    again, rest = l2o.unroll(task, optimizer, half, KEY, length=10 - cut, split=split)
    assert_trees_close(again, whole, rtol=1e-6)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), losses, rtol=1e-6)
    assert np.unique(losses).size == 10  # every step has its own minibatch


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere memory is stored for longer")
def test_on_a_cpu_states_beyond_the_cache_are_replayed_unless_asked_otherwise():
    """Of a momentum of 4 bytes a coordinate, 50 steps of 40,000 coordinates fit (8 MB), and 50 of 100,000 do not (20 MB)."""

    def temporaries(num, form):
        task = l2o.FunctionTask(lambda key: jnp.ones(num), lambda x, key: jnp.sum(x**2))

        def meta_loss(optimizer, state):
            return jnp.sum(l2o.unroll(task, optimizer, state, KEY, length=50, meta_gradient=form)[1])

        optimizer = rule("momentum")
        compiled = jax.jit(jax.grad(meta_loss)).lower(optimizer, l2o.start(task, optimizer, KEY)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(40_000, None) == temporaries(40_000, l2o.Stored()) != temporaries(40_000, l2o.Blocks())
    assert temporaries(100_000, None) == temporaries(100_000, l2o.Blocks()) < temporaries(100_000, l2o.Stored())


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.1), optax.adam(0.1), optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9))],
    ids=["sgd", "adam", "chain"],
)
def test_optax_transformations_unroll_as_in_a_loop_of_ones_own(optimizer):
    task = regression()
    state = l2o.start(task, optimizer, KEY)
    final, losses = l2o.unroll(task, optimizer, state, KEY, length=3)
    expected, expected_losses = obvious(task, optimizer, state, KEY, length=3)
    assert_trees_close(final.params, expected.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)


def test_lbfgs_is_given_what_its_line_search_needs():
    """On a quadratic of 3 dimensions it is at the minimum within a few steps."""
    scale = jnp.asarray([1.0, 10.0, 100.0])
    task = l2o.FunctionTask(lambda key: jnp.ones(3), lambda x, key: jnp.sum(scale * x**2))
    optimizer = optax.lbfgs()
    _, losses = jax.jit(lambda: l2o.unroll(task, optimizer, l2o.start(task, optimizer, KEY), KEY, length=15))()
    assert losses[0] == 111.0
    assert losses[-1] < 1e-6


def test_begin_depends_on_the_key_alone():
    """Optimizers are compared on the same tasks, starts and minibatches."""

    def family(key):
        return l2o.FunctionTask(
            lambda init_key: jax.random.normal(init_key, (2,)),
            lambda x, batch_key: jnp.sum((x - jax.random.normal(key, (2,)) - jax.random.normal(batch_key, (2,))) ** 2),
        )

    first = [l2o.begin(family, optimizer, KEY) for optimizer in (optax.adam(0.1), rule("momentum"))]
    (task_a, state_a, key_a), (task_b, state_b, key_b) = first
    assert_trees_close(state_a.params, state_b.params, rtol=0)
    assert task_a.loss(state_a.params, key_a) == task_b.loss(state_b.params, key_b)
    assert not np.allclose(state_a.params, l2o.begin(family, optax.adam(0.1), jax.random.key(1))[1].params)


@pytest.mark.parametrize(("horizon", "truncation"), [(10, 4), (10, 0), (4, 8)])
def test_truncation_must_divide_horizon(horizon, truncation):
    message = rf"`truncation` must divide `horizon`, got truncation={truncation} and horizon={horizon}\."
    with pytest.raises(ValueError, match=message):
        l2o.InnerTraining(bowl, horizon, truncation)


def test_step_weights_must_be_as_many_as_steps():
    with pytest.raises(ValueError, match=r"one weight per step of the horizon, got shape \(3,\) and horizon=4"):
        l2o.InnerTraining(bowl, 4, 2, step_weights=jnp.ones(3))
