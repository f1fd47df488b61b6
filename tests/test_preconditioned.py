"""`l2o.Preconditioned`: a rate for each coordinate, in JAX and in PyTorch, on disk, and as optax code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_equal

import l2o
from l2o.optimizers import pretrained

KEY = jax.random.key(0)
FACTORS = {"a": jnp.array([1.0, 10.0, 0.1]), "b": jnp.array([[2.0, 3.0]])}
PARAMS = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([[0.3, 4.0]])}


def rule(**options):
    return l2o.Preconditioned(l2o.Momentum(10, rate=0.1, warmup=0.2, decay="linear", **options), FACTORS)


def steps(optimizer, num=3):
    """Params after some steps of |x|² / 2."""
    params = PARAMS
    state = optimizer.init(params)
    for _ in range(num):
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_each_update_is_multiplied_by_its_factor():
    wrapped = rule()
    updates, state = wrapped.update(PARAMS, wrapped.init(PARAMS), PARAMS)
    expected, inner = wrapped.optimizer.update(PARAMS, wrapped.optimizer.init(PARAMS), PARAMS)
    jax.tree.map(lambda u, f, v: np.testing.assert_allclose(u, f * v, rtol=1e-6), updates, FACTORS, expected)
    assert_trees_equal(state, inner)
    # Integers among the params have no coordinates, and no factors.
    counted = {**PARAMS, "n": jnp.array(3)}
    updates, _ = wrapped.update({**PARAMS, "n": None}, wrapped.init(counted), counted)
    assert updates["n"] is None


def test_on_a_stretched_bowl_it_is_the_rule_on_a_round_one():
    """Plain momentum on curvatures h with factors 1 / h: after z = x h^(1/2), what it would do on curvatures 1."""
    curvatures = jnp.array([1.0, 100.0, 1e4])
    inner = l2o.Momentum(20, rate=0.3, power=0.0)
    stretched = l2o.FunctionTask(lambda key: curvatures**-0.5, lambda x, key: 0.5 * jnp.sum(curvatures * x**2))
    round_one = l2o.FunctionTask(lambda key: jnp.ones(3), lambda z, key: 0.5 * jnp.sum(z**2))
    losses = []
    for task, optimizer in ((stretched, l2o.Preconditioned(inner, 1 / curvatures)), (round_one, inner)):
        start, state, key = l2o.begin(lambda key, task=task: task, optimizer, KEY)
        losses.append(l2o.unroll(start, optimizer, state, key, length=20)[1])
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_it_is_saved_and_loaded(tmp_path):
    path = tmp_path / "rule.safetensors"
    pretrained.save(path, rule(power=0.25))
    assert_trees_equal(l2o.load(path, beyond=None), rule(power=0.25))


@pytest.mark.parametrize("power", [0.5, 0.3, 0.0])
def test_its_code_is_the_rule(power):
    there = {}
    exec(rule(power=power).optax_code(), there)
    expected = steps(rule(power=power))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), steps(there["optimizer"]), expected)
    assert "multiplied by" in rule().formula()


def test_pytorch_moves_as_jax_does(tmp_path):
    torch = pytest.importorskip("torch")
    import l2o.torch

    path = tmp_path / "rule.safetensors"
    pretrained.save(path, rule(), recipe={"horizon": 10})
    params = [torch.nn.Parameter(torch.tensor(np.asarray(PARAMS[name]))) for name in ("a", "b")]
    optimizer = l2o.torch.LearnedOptimizer(params, path)
    for _ in range(3):
        for p in params:
            p.grad = p.detach().clone()
        optimizer.step()
    expected = steps(rule())
    for p, name in zip(params, ("a", "b"), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=1e-5)
    params[0].grad = None
    before = params[1].detach().clone()
    with pytest.raises(ValueError, match="shapes"):
        optimizer.step()
    assert torch.equal(params[1], before)


def test_what_makes_no_sense_is_refused():
    for wrong in (
        {"a": jnp.zeros(2)},
        {"a": jnp.array([1.0, -1.0])},
        {"a": jnp.array([jnp.inf])},
        {"n": jnp.array(3)},
        {},
    ):
        with pytest.raises(ValueError, match="factors"):
            l2o.Preconditioned(l2o.Momentum(10), wrong)
    with pytest.raises(ValueError, match=r"Guarded\(Preconditioned"):
        l2o.Preconditioned(l2o.Guarded(l2o.Momentum(10)), FACTORS)
    with pytest.raises(ValueError, match="shapes"):
        rule().init({"a": jnp.ones(4), "b": jnp.ones((1, 2))})


def test_it_is_meta_trained_with_its_factors():
    problem = l2o.InnerTraining(lambda key: l2o.FunctionTask(lambda key: PARAMS, loss), 10, 5)
    result = l2o.meta_train(rule(), l2o.BPTT(problem, num_tasks=2), num_steps=2, key=KEY)
    moved = [np.abs(a - b).min() for a, b in zip(result.optimizer.log_factors, rule().log_factors, strict=True)]
    assert min(moved) > 0


def loss(params, key):
    return sum(jnp.sum(x**2) for x in params.values())
