"""Weights know their horizon, in JAX and PyTorch alike, and a run that passes it is told once."""

import warnings

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import assert_trees_equal, bowls, tiny_lstm
from unrolls import run

import l2o
from l2o.optimizers.wrappers.beyond import horizon_of

HOWS = ("hold", "anneal", "fallback")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("num_global", [0, 1])
def test_torch_does_the_same(how, num_global, one_thread):
    import torch

    from l2o.torch import _beyond, _build

    rule = tiny_lstm(num_global=num_global)
    gradients = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    expected = np.diff(run(l2o.beyond(rule, 6, how), 24, jnp.zeros(5), lambda p, t: gradients[t]), axis=0)
    contents = l2o.pretrained.as_dict(rule)
    arrays = {path: torch.tensor(array) for path, array in contents["arrays"].items()}
    twin = _beyond.beyond(_build.build({**contents, "arrays": arrays}), 6, how)
    state = twin.init(5, torch.device("cpu"))
    found = np.stack([twin.update_(torch.tensor(g), state, torch.zeros(5)).numpy() for g in gradients])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    paths = jax.tree_util.tree_leaves_with_path(l2o.beyond(rule, 6, how).init_coordinates(5))
    assert {jax.tree_util.keystr(path): leaf.shape for path, leaf in paths} == {
        path: (*shape, 5) for path, shape in twin.state_shapes.items()
    }


# ---- weights files


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "it.safetensors"
    l2o.pretrained.save(path, tiny_lstm(), recipe={"horizon": 4}, family=bowls)
    return path


def test_w11_weights_carry_their_horizon_and_what_was_measured_beyond_it(saved):
    told = l2o.pretrained.header(saved)
    assert told["horizon"] == 4
    assert told["beyond"]["multiples"] == [2, 10]
    assert len(told["beyond"]["ratios"]) == len(told["beyond"]["worst"]) == 2


@pytest.mark.parametrize("name", l2o.pretrained.names())
def test_w11_every_shipped_optimizer_knows_its_horizon(name):
    told = l2o.pretrained.header(name)
    assert told["horizon"] == told["recipe"]["horizon"]
    assert told["beyond"]["multiples"] == [2, 10]
    assert "## Beyond its horizon" in l2o.pretrained.describe(name)
    assert horizon_of(l2o.load(name)) == told["horizon"]


def test_w11_a_loaded_rule_is_held_at_its_horizon_and_warns(saved):
    optimizer = l2o.load(saved)
    with pytest.warns(UserWarning, match=r"it\.safetensors was meta-trained on runs of 4 steps"):
        path = run(optimizer, 10)
    np.testing.assert_array_equal(path[:5], run(tiny_lstm(), 4))
    np.testing.assert_array_equal(path[4:], jnp.broadcast_to(path[4], (7, 2)))
    assert_trees_equal(l2o.load(saved, beyond=None), tiny_lstm())
    assert l2o.load(saved, beyond="anneal").how == "anneal"
    with pytest.raises(ValueError, match="got 'stop'"):
        l2o.load(saved, beyond="stop")


def test_w11_who_says_for_how_long_is_warned_at_once(saved, recwarn):
    l2o.load(saved, horizon=4)
    l2o.pretrained.check(saved, horizon=4)
    assert not recwarn.list
    with pytest.warns(
        UserWarning, match="runs of 4 steps, and this run goes on beyond them. From here on the params are held"
    ):
        optimizer = l2o.load(saved, horizon=5)
    assert optimizer.name is None  # and not again
    with pytest.warns(UserWarning, match="Nothing is done about that"):
        l2o.load(saved, horizon=5, beyond=None)


def test_w11_what_is_saved_is_the_rule_and_its_horizon(saved, tmp_path):
    again = tmp_path / "again.safetensors"
    l2o.pretrained.save(again, l2o.load(saved))
    assert_trees_equal(l2o.load(again, beyond=None), tiny_lstm())
    assert horizon_of(l2o.load(again, like=l2o.load(saved))) == 4
    assert l2o.pretrained.as_dict(l2o.load(saved))["horizon"] == 4


# ---- in PyTorch


def torch_run(num, *, weights, **options):
    """Loss-free steps on |x|² from (1, -2), and what was warned of."""
    import torch

    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch_optimizer(p, weights, **options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(num):
            p.grad = 2 * p.detach()
            optimizer.step()
    return p.detach().numpy(), [str(w.message) for w in told], optimizer


def torch_optimizer(p, weights, **options):
    from l2o.torch import LearnedOptimizer

    return LearnedOptimizer([p], weights, **options)


def test_w11_pytorch_holds_and_warns_once(saved, one_thread):
    at, told, _ = torch_run(4, weights=saved)
    assert not told
    later, told, _ = torch_run(40, weights=saved)
    np.testing.assert_array_equal(later, at)
    assert len(told) == 1
    assert "it.safetensors was meta-trained on runs of 4 steps" in told[0]
    assert "From here on the params are held" in told[0]
    bare_later, told, _ = torch_run(5, weights=saved, beyond=None)
    assert not told
    assert np.abs(bare_later - at).max() > 0
    with pytest.raises(ValueError, match="got 'stop'"):
        torch_run(1, weights=saved, beyond="stop")


@pytest.mark.parametrize("how", HOWS)
def test_w11_pytorch_is_jax_beyond_the_horizon_too(saved, how, one_thread):
    found, _, _ = torch_run(20, weights=saved, beyond=how)
    np.testing.assert_allclose(found, run(bare_and(saved, how), 20)[-1], atol=2e-6)
    found, _, _ = torch_run(20, weights=l2o.pretrained.as_dict(l2o.load(saved)), beyond=how)  # in memory
    np.testing.assert_allclose(found, run(bare_and(saved, how), 20)[-1], atol=2e-6)


def bare_and(saved, how):
    return l2o.beyond(l2o.load(saved, beyond=None), 4, how)


def test_w11_a_resumed_pytorch_run_knows_how_far_it_is(saved, one_thread):
    import torch

    _, _, optimizer = torch_run(3, weights=saved)
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    again = torch_optimizer(p, saved)
    again.load_state_dict(optimizer.state_dict())
    told = []
    for _ in range(3):
        p.grad = 2 * p.detach()
        with warnings.catch_warnings(record=True) as now:
            warnings.simplefilter("always")
            again.step()
        told.append(len(now))
    assert told == [0, 1, 0]
    with pytest.raises(ValueError, match="shape"):
        torch_optimizer(p, saved, beyond="fallback").load_state_dict(
            torch_optimizer(p, saved, beyond=None).state_dict() | {"state": {0: {"state": torch.zeros(3, 2)}}}
        )


def test_w11_two_parts_warn_once(tmp_path, one_thread):
    import torch

    from l2o.torch import LearnedOptimizer

    path = tmp_path / "pair.safetensors"
    l2o.pretrained.save(path, l2o.Partitioned({"a": tiny_lstm(), "b": tiny_lstm(1)}), recipe={"horizon": 2})
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [p], "part": part} for p, part in zip(params, "ab", strict=True)]
    optimizer = LearnedOptimizer(groups, path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(5):
            for p in params:
                p.grad = torch.ones(2)
            optimizer.step()
    assert len(told) == 1


def test_half_precision_cannot_count_so_far(one_thread):
    import torch

    from l2o.torch import load_weights

    weights = load_weights("lstm-mnist", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="can count to 256, and the horizon is 200"):
        torch_run(1, weights=weights)
    torch_run(1, weights=weights, beyond=None)


def test_what_was_loaded_for_so_many_steps_can_be_exported(saved):
    optimizer, params = l2o.load(saved, horizon=4), jnp.ones(2)
    exported = jax.export.export(jax.jit(lambda g, s: optimizer.update(g, s)))(params, optimizer.init(params))
    updates, _ = exported.call(params, optimizer.init(params))
    np.testing.assert_allclose(updates, tiny_lstm().update(params, tiny_lstm().init(params))[0], rtol=1e-6)


def test_of_parts_the_least_horizon_is_saved(tmp_path):
    parts = {"a": l2o.beyond(tiny_lstm(), 9), "b": l2o.beyond(tiny_lstm(1), 2)}
    l2o.pretrained.save(tmp_path / "it.safetensors", l2o.Partitioned(parts))
    assert l2o.pretrained.header(tmp_path / "it.safetensors")["horizon"] == 2
