"""`Rescaled`: the same steps whatever the loss's scale; saved, loaded, and the same in PyTorch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import Momentum, tiny_lstm

import l2o
from l2o.core import scale
from l2o.optimizers import pretrained, states

KEY = jax.random.key(0)
PARAMS = {"w": jnp.array([0.3, -2.0]), "b": jnp.array([1.0])}
GRADIENTS = [
    {"w": jnp.array([3.0, -1.0]), "b": jnp.array([2.0])},
    {"w": jnp.array([0.1, 0.5]), "b": jnp.array([-0.3])},
]


def rule():
    return Momentum(jnp.asarray(0.1), jnp.asarray(0.5))


def steps(optimizer, gradients):
    state, found = optimizer.init(PARAMS), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, PARAMS)
        found.append(updates)
    return found, state


def times(factor, gradients):
    return jax.tree.map(lambda g: factor * g, gradients)


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_steps_are_those_of_the_rule_on_a_first_gradient_of_that_size(factor):
    # ||(3, -1, 2)|| / sqrt(3) = sqrt(14 / 3)
    found, (_, c) = steps(l2o.Rescaled(rule(), 0.5), times(factor, GRADIENTS))
    expected, _ = steps(rule(), times(0.5 / np.sqrt(14 / 3), GRADIENTS))
    assert_close(found, expected)
    np.testing.assert_allclose(c, 0.5 / np.sqrt(14 / 3) / factor, rtol=1e-5)


@pytest.mark.parametrize("useless", [0.0, jnp.nan, jnp.inf])
def test_a_first_gradient_without_a_size_is_passed_on_and_the_next_one_counts(useless):
    first = jax.tree.map(lambda g: jnp.full_like(g, useless), PARAMS)
    (passed, _), (_, c) = steps(l2o.Rescaled(rule(), 0.5), [first, GRADIENTS[0]])
    assert_close(passed, steps(rule(), [first])[0][0])
    np.testing.assert_allclose(c, 0.5 / np.sqrt(14 / 3), rtol=1e-6)


def test_runs_under_jit_and_inside_other_optimizers():
    """A part has a scale of its own; what is guarded is run as it is."""
    parts = l2o.Partitioned({"w": l2o.Rescaled(rule(), 0.5), "b": rule()})
    found, _ = steps(parts, GRADIENTS)
    alone, _ = steps(rule(), times(0.5 / np.sqrt(5), GRADIENTS))
    assert_close([u["w"] for u in found], [u["w"] for u in alone])
    task = l2o.FunctionTask(lambda key: jnp.ones(3), lambda x, key: 1e6 * jnp.sum(x**2))
    curves = [
        l2o.loss_curves(o, lambda key: task, horizon=20, num_tasks=1, key=KEY)
        for o in (l2o.Rescaled(rule(), 1.0), l2o.Guarded(l2o.Rescaled(rule(), 1.0)), rule())
    ]
    assert curves[0][0, -1] < 0.1 * curves[0][0, 0]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    assert curves[2][0, -1] != pytest.approx(curves[0][0, -1], rel=0.1)


def test_its_rule_can_be_meta_trained_through_it():
    """The meta-gradient is that of the rule on the rescaled problem."""
    task = l2o.FunctionTask(
        lambda key: jnp.array([1.0, -0.5]), lambda x, key: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * x**2)
    )
    rms = 1e-2 * float(scale.rms(jax.grad(task.loss)(task.init(KEY), KEY)))
    dimmed = l2o.FunctionTask(task.init, lambda x, key: 1e-2 * task.loss(x, key))

    @eqx.filter_grad
    def meta_gradient(optimizer, task):
        return l2o.unroll(task, optimizer, l2o.start(task, optimizer, KEY), KEY, length=5)[1].sum()

    found, expected = meta_gradient(l2o.Rescaled(rule(), rms), task), meta_gradient(rule(), dimmed)
    assert float(found.optimizer.rate) == pytest.approx(100 * float(expected.rate), rel=1e-4)
    assert float(found.optimizer.decay) == pytest.approx(100 * float(expected.decay), rel=1e-4)


def test_save_and_load(tmp_path):
    path = tmp_path / "rescaled.safetensors"
    optimizer = l2o.Rescaled(tiny_lstm(), 0.05)
    task = l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, key: jnp.sum(x**2))
    pretrained.save(path, optimizer, recipe={"horizon": 3}, family=lambda key: task)
    loaded = l2o.load(path, like=optimizer, gradients=jnp.full(2, 1e9))  # of no scale, so no warning
    assert_close(steps(loaded, GRADIENTS)[0], steps(optimizer, GRADIENTS)[0])
    header = pretrained.header(path)
    assert header["architecture"] == "rescaled"
    assert "scale" not in header
    with pytest.raises(ValueError, match=r"\(rms: 0\.05 vs 0\.1\)"):
        l2o.load(path, like=l2o.Rescaled(tiny_lstm(), 0.1))
    pair = l2o.Partitioned({"w": optimizer, "b": tiny_lstm(1)})
    pretrained.save(tmp_path / "pair.safetensors", pair)
    assert_close(steps(l2o.load(tmp_path / "pair.safetensors"), GRADIENTS)[0], steps(pair, GRADIENTS)[0])


def test_in_torch(tmp_path):
    """The same numbers, first gradients of zero included; and a state that goes from one framework to the other."""
    torch = pytest.importorskip("torch")
    import l2o.torch as l2o_torch

    optimizer = l2o.Rescaled(tiny_lstm(), 0.05)
    path, state_path = tmp_path / "rescaled.safetensors", tmp_path / "state.safetensors"
    pretrained.save(path, optimizer)
    params = [torch.zeros(1, requires_grad=True), torch.zeros(2, requires_grad=True)]  # as JAX orders them
    theirs = l2o_torch.LearnedOptimizer(params, path)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    total, state = zeros, optimizer.init(zeros)
    for gradient in (zeros, *times(1e3, GRADIENTS)):
        for p, name in zip(params, ("b", "w"), strict=True):
            p.grad = torch.tensor(np.asarray(gradient[name]))
        theirs.step()
        updates, state = optimizer.update(gradient, state, zeros)
        total = jax.tree.map(jnp.add, total, updates)
    np.testing.assert_allclose(params[0].detach(), total["b"], rtol=1e-5)
    np.testing.assert_allclose(params[1].detach(), total["w"], rtol=1e-5)
    l2o_torch.save_state(state_path, theirs)
    assert_close(states.load(state_path, optimizer, zeros), state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: l2o.Rescaled(rule(), 0.0), "`rms` must be positive and finite, got 0.0"),
        (lambda: l2o.Rescaled(rule(), jnp.inf), "`rms` must be positive and finite, got inf"),
        (lambda: l2o.Rescaled(l2o.Partitioned({"w": rule()}), 1.0), "got a Partitioned. Rescale the parts"),
        (lambda: l2o.Rescaled(l2o.Guarded(rule()), 1.0), "got a Guarded. Rescale the parts"),
    ],
)
def test_what_cannot_be_rescaled(make, message):
    with pytest.raises(ValueError, match=message):
        make()
