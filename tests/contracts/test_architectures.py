"""What every update rule of `l2o.optimizers` must do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_close, assert_trees_equal, bowls, regression

import l2o
from l2o.core import plugins
from l2o.meta.estimators.bptt import BPTT

KEY = jax.random.key(0)


# A rate to start from, for a rule whose default is for larger problems.
STARTS = {"hand_designed": {"rate": 0.02}, "momentum": {"rate": 0.02}}
# Of those that have more than one form.
OTHERS = [
    ("hand_designed", {"name": "schedule_free_adam", "rate": 0.02, "schedule": "warmup_cosine"}),
    ("lstm", {"num_global": 5}),
    ("momentum", {"rate": 0.02, "preset": "nag", "rate_curve": [0.0, 0.0], "b1_curve": [0.0]}),
    ("momentum", {"rate": 0.02, "learn_power": True, "decay": "cosine", "least": 0.1}),
    ("ntm_bfgs", {"memory_pairs": 5}),
    ("ntm_bfgs", {"preset": "paper"}),
]
EACH = [(name, STARTS.get(name, {})) for name in plugins.names("optimizers")]


@pytest.fixture(params=[*EACH, *OTHERS], ids=str, scope="module")
def optimizer(request):
    name, arguments = request.param
    return plugins.get("optimizers", name).build(KEY, **arguments)


@pytest.fixture(scope="module")
def params():
    return {
        "scalar": jnp.asarray(0.5, jnp.float32),
        "empty": jnp.zeros((0, 3)),
        "nested": {"matrix": jnp.ones((2, 3)), "half": jnp.ones(4, jnp.bfloat16)},
        "list": [jnp.linspace(-1.0, 1.0, 5)],
    }


def like(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def gradients_like(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)


def final_loss(optimizer, horizon=20):
    """Mean loss of held-out bowls after `horizon` steps, over that at the start."""
    curves = l2o.loss_curves(optimizer, bowls, horizon=horizon, num_tasks=8, key=jax.random.key(99))
    return np.mean(curves[:, -1]) / np.mean(curves[:, 0])


def test_there_are_some():
    assert "lstm" in plugins.names("optimizers")


def test_updates_have_the_structure_shapes_and_dtypes_of_the_params(optimizer, params):
    updates, _ = eqx.filter_jit(optimizer.update)(gradients_like(params), optimizer.init(params), params)
    assert like(updates) == like(params)
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(updates))
    assert like(optax.apply_updates(params, updates)) == like(params)


def test_the_second_step_does_not_recompile(optimizer, params):
    traces = []

    @jax.jit
    def step(gradients, state, params):
        traces.append(None)
        updates, state = optimizer.update(gradients, state, params)
        return state, optax.apply_updates(params, updates)

    state, stepped = optimizer.init(params), params
    for seed in range(3):
        state, stepped = step(gradients_like(params, seed), state, stepped)
    assert len(traces) == 1


def test_side_by_side_is_one_by_one(optimizer, params):
    """Under `vmap`."""
    each = [jax.tree.map(lambda p, f=f: f * p, params) for f in (1, 2)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def step(params):
        return optimizer.update(params, optimizer.init(params), params)[0]

    updates = jax.jit(jax.vmap(step))(together)
    for i, one in enumerate(each):
        # bfloat16 keeps 8 bits
        expected = jax.tree.map(lambda x: np.asarray(x, np.float32), jax.jit(step)(one))
        actual = jax.tree.map(lambda x, i=i: np.asarray(x[i], np.float32), updates)
        assert_trees_close(actual, expected, rtol=1e-2, atol=1e-5)


@pytest.mark.slow
@pytest.mark.slowest
def test_a_short_meta_training_makes_it_better_and_the_loss_fall(optimizer):
    problem = l2o.InnerTraining(bowls, horizon=20, truncation=10)
    estimator = BPTT(problem, num_tasks=8)
    result = l2o.meta_train(optimizer, estimator, optax.adam(3e-3), num_steps=60, key=KEY)
    assert result.num_skipped == 0
    assert final_loss(result.optimizer) < 0.5
    assert final_loss(result.optimizer) < final_loss(optimizer)


def test_save_then_load_is_the_identity(optimizer, tmp_path):
    moved = jax.tree.map(lambda x: 1.1 * x + 0.01 if eqx.is_inexact_array(x) else x, optimizer)  # not as built
    l2o.pretrained.save(tmp_path / "it.safetensors", moved)
    loaded = l2o.load(tmp_path / "it.safetensors", like=optimizer)
    assert_trees_equal(loaded, moved)
    assert_trees_equal(l2o.load(tmp_path / "it.safetensors"), moved)
    curves = [l2o.loss_curves(o, bowls, horizon=5, num_tasks=2, key=KEY) for o in (moved, loaded)]
    np.testing.assert_array_equal(*curves)


@pytest.mark.slow
def test_it_goes_into_an_optax_chain(optimizer):
    """A clip before it: gradients of norm ten are seen as gradients of norm one."""
    params = jnp.zeros(4)
    gradients = jnp.asarray([6.0, 0.0, -8.0, 0.0])
    chain = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    clipped, _ = chain.update(gradients, chain.init(params), params)
    expected, _ = optimizer.update(gradients / 10, optimizer.init(params), params)
    np.testing.assert_allclose(clipped, expected, rtol=1e-5)
    curves = l2o.loss_curves(chain, bowls, horizon=3, num_tasks=2, key=KEY)
    assert np.isfinite(curves).all()


@pytest.mark.slow
def test_replaying_blocks_of_coordinates_gives_the_same_meta_gradient(optimizer):
    if not isinstance(optimizer, l2o.AbstractCoordinatewise):
        pytest.skip("couples coordinates")
    task = regression()

    def gradient(form):
        def meta_loss(optimizer):
            state = l2o.start(task, optimizer, KEY)
            return jnp.sum(l2o.unroll(task, optimizer, state, KEY, length=5, meta_gradient=form)[1])

        return eqx.filter_jit(eqx.filter_grad(meta_loss))(optimizer)

    stored = gradient(l2o.Stored())
    scale = optax.tree.norm(stored)
    assert_trees_close(gradient(l2o.Blocks(5)), stored, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.slow
def test_all_steps_at_once_are_the_steps_one_by_one(optimizer):
    """`run_coordinates`, its derivative by meta-parameters and state included, against `update_coordinates` in a loop."""
    if not isinstance(optimizer, l2o.AbstractCoordinatewise):
        pytest.skip("couples coordinates")
    gradients, wanted = jax.random.normal(KEY, (2, 6, 5))
    gradients = gradients.at[:, 2].set(0.0)
    params = jnp.linspace(-1.0, 1.0, 5)
    state = jax.tree.map(lambda x: 0.1 * jax.random.normal(KEY, x.shape, x.dtype), optimizer.init_coordinates(5))

    def at_once(optimizer, state):
        return optimizer.run_coordinates(gradients, state, params)

    def one_by_one(optimizer, state):
        current, updates = params, []
        for gradient in gradients:
            update, state = optimizer.update_coordinates(gradient, state, current)
            current = current + update
            updates.append(update)
        return jnp.stack(updates), state

    def value(run, arguments):
        updates, state = run(*arguments)
        return jnp.sum(updates * wanted) + sum(jnp.sum(x**2) for x in jax.tree.leaves(state))

    assert_trees_close(at_once(optimizer, state), one_by_one(optimizer, state), rtol=1e-5, atol=1e-6)
    ours, plain = (
        eqx.filter_grad(lambda a, run=run: value(run, a))((optimizer, state)) for run in (at_once, one_by_one)
    )
    assert_trees_close(ours, plain, rtol=1e-4, atol=1e-5 * optax.tree.norm(plain))
