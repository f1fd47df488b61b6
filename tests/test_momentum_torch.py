"""The PyTorch twin of `l2o.Momentum`: the same path as in JAX, at Adam's price, and all that an optimizer of PyTorch promises."""

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch_nets
from torch_nets import drift, in_jax, in_torch, parameter, torch_params
from torch_runs import through_a_file

import l2o
from l2o.optimizers import momentum, pretrained, states

torch = pytest.importorskip("torch")

import l2o.torch as l2o_torch  # noqa: E402 (after the check that there is one)
from l2o.torch import LearnedOptimizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

HORIZON = 12
RULES = {
    "sgd": {"preset": "sgd"},
    "nag": {"preset": "nag", "decay": "linear", "least": 0.1},
    "rmsprop": {"preset": "rmsprop", "decay": "cosine"},
    "adam": {"preset": "adam", "warmup": 0.5},
    "nadam": {"rate_curve": [0.5, -0.5], "b1_curve": [1.0, -1.0]},
    "a quarter": {"power": 0.25, "eps": 1e-4},
    "whole": {"power": 1.0, "eps": 1e-3},
    "learned": {"power": 0.37, "learn_power": True, "bias_correction": False},
    "learned to be nothing": {"power": 0.0, "learn_power": True},
    "no eps": {"eps": 0.0, "nesterov": False},
}


def rule_of(name, **arguments):
    return momentum.build(horizon=HORIZON, **{"rate": 0.02, **RULES[name], **arguments})


def in_steps(optimizer, p, gradients):
    """Where one parameter goes."""
    path = []
    for gradient in gradients:
        p.grad = None if gradient is None else torch.tensor(gradient).to(p.dtype)
        optimizer.step()
        path.append(p.detach().clone())
    return path


@pytest.mark.parametrize("name", RULES)
def test_the_path_is_that_of_jax(name):
    rule = rule_of(name)
    expected, _ = in_jax(rule, HORIZON + 3, np.float32)
    params = torch_params(torch_nets.start(dtype=np.float32))
    actual = in_torch(LearnedOptimizer(params.values(), pretrained.as_dict(rule)), params, HORIZON + 3)
    assert np.linalg.norm(expected[-1] - expected[0]) > 0.01  # it went somewhere
    assert drift(actual, expected).max() < 1e-5


def test_it_is_read_from_a_file_and_its_rate_and_decay_multiply(tmp_path):
    l2o.save(tmp_path / "rule.safetensors", rule_of("nadam"), recipe={"horizon": HORIZON})
    values, gradient = [1.0, -2.0, 3.0], [0.1, -1e-6, 0.0]
    plain, other = parameter(*values, gradient=gradient), parameter(*values, gradient=gradient)
    LearnedOptimizer([plain], tmp_path / "rule.safetensors").step()
    LearnedOptimizer([other], tmp_path / "rule.safetensors", lr=0.5, weight_decay=0.2).step()
    start = torch.tensor(values)
    torch.testing.assert_close(other.detach(), (1 - 0.5 * 0.2) * start + 0.5 * (plain.detach() - start))


@pytest.mark.parametrize("name", ["nag", "nadam", "learned", "no eps"])
@pytest.mark.parametrize("dtype", ["complex64", "bfloat16", "float64"])
def test_other_dtypes_are_as_in_jax(name, dtype):
    """A complex number has one mean square, of its magnitude; a bfloat16's averages are in single precision."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(6, 4)) + (1j * rng.normal(size=(6, 4)) if dtype == "complex64" else 0)
    with jax.enable_x64(dtype == "float64"):
        rule = rule_of(name)
        params = jnp.zeros(4, dtype)
        state, expected = rule.init(params), []
        for gradient in gradients:
            updates, state = rule.update(jnp.asarray(gradient, dtype), state, params)
            params = optax.apply_updates(params, updates)
            expected.append(np.asarray(params.astype(jnp.float32) if dtype == "bfloat16" else params))
    p = torch.nn.Parameter(torch.zeros(4, dtype=getattr(torch, dtype)))
    optimizer = LearnedOptimizer([p], pretrained.as_dict(rule))
    # JAX rounds the update, and then the sum; PyTorch the sum alone.
    tolerance = {"rtol": 2**-6, "atol": 1e-4} if dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-7}
    for ours, theirs in zip(in_steps(optimizer, p, gradients), expected, strict=True):
        np.testing.assert_allclose(ours.float() if dtype == "bfloat16" else ours, theirs, **tolerance)
    entry = optimizer.state[p]
    assert entry["m"].dtype == {"bfloat16": torch.float32}.get(dtype, p.dtype)
    if "v" in entry:
        assert not entry["v"].is_complex()


def test_parameters_without_gradients_are_skipped_and_so_are_their_steps():
    """One that misses steps goes on from where it was: the schedule is each parameter's own, as in torch.optim."""
    a, b, alone = parameter(1.0, 2.0), parameter(3.0), parameter(3.0)
    weights = pretrained.as_dict(rule_of("adam"))
    optimizer, reference = LearnedOptimizer([a, b], weights), LearnedOptimizer([alone], weights)
    for step in range(5):
        a.grad = torch.tensor([0.1, 0.2])
        b.grad = None if step in (0, 2) else torch.tensor([0.3 * (step - 2)])
        before = b.detach().clone()
        optimizer.step()
        if b.grad is None:
            assert torch.equal(b, before)
        else:
            alone.grad = b.grad.clone()
            reference.step()
    assert torch.equal(b, alone)
    assert (optimizer.state[a]["step"], optimizer.state[b]["step"]) == (5, 3)
    assert not LearnedOptimizer([parameter(1.0)], weights).state_dict()["state"]


@pytest.mark.parametrize("way", ["state_dict", "torch.save", "deepcopy", "file"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_a_run_goes_on_where_it_was_interrupted(way, dtype, tmp_path):
    """Bit for bit, after every way of saving; also of parameters that have taken different numbers of steps."""
    weights = {**pretrained.as_dict(rule_of("nadam")), "horizon": 2 * HORIZON}
    gradients = torch.randn(8, 3, 2, dtype=getattr(torch, dtype), generator=torch.Generator().manual_seed(0))

    def advance(optimizer, params, steps):
        for step in steps:
            for p in params:
                p.grad = None if step == 1 and p is params[0] else gradients[step].clone()
            optimizer.step()

    params = [torch.nn.Parameter(torch.ones(3, 2, dtype=gradients.dtype)) for _ in range(2)]
    optimizer = LearnedOptimizer(params, weights, lr=0.7, weight_decay=0.01)
    advance(optimizer, params, range(4))
    again = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = LearnedOptimizer(again, weights)
    if way == "deepcopy":
        resumed, again = copy.deepcopy((optimizer, params))
    elif way == "file":
        l2o_torch.save_state(tmp_path / "state.safetensors", optimizer)
        l2o_torch.load_state(tmp_path / "state.safetensors", resumed)
    else:
        saved = copy.deepcopy(optimizer.state_dict())
        resumed.load_state_dict(through_a_file(saved) if way == "torch.save" else saved)
    for run in ((optimizer, params), (resumed, again)):
        advance(*run, range(4, 8))
    assert all(torch.equal(p, q) for p, q in zip(params, again, strict=True))
    assert not torch.equal(params[0], params[1])


@pytest.mark.parametrize("name", ["nag", "nadam"])
@pytest.mark.parametrize("held", [False, True])
def test_interrupted_in_one_framework_and_continued_in_the_other(name, held, tmp_path):
    path, cut = tmp_path / "state.safetensors", 5
    with jax.enable_x64(True):
        rule = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float64), rule_of(name))
        rule = l2o.beyond(rule, 8) if held else rule
        weights = pretrained.as_dict(rule)
        told = pytest.warns(UserWarning, match="meta-trained on runs of 8 steps") if held else None
        torch_nets.assert_it_goes_on_in_the_other(rule, weights, path, cut, 10, told)


@pytest.mark.parametrize("name", ["nag", "nadam"])
def test_a_state_file_and_back_is_the_identity_in_jax(name, tmp_path):
    params = {
        "a": {"z": jnp.ones(2, jnp.complex64), "half": jnp.ones((2, 2), jnp.bfloat16)},
        "b": {"w": jnp.ones(3), "none": None, "empty": jnp.ones((0, 2)), "scalar": jnp.ones(())},
    }
    rule = l2o.Partitioned({"a": rule_of(name), "b": l2o.beyond(rule_of("adam"), 3)})
    state = rule.init(params)
    for _ in range(2):
        _, state = rule.update(jax.tree.map(lambda p: 0.3 * p, params), state, params)
    states.save(tmp_path / "state.safetensors", rule, state, params)
    loaded = states.load(tmp_path / "state.safetensors", rule, params)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_group_for_each_part_whatever_kind_it_is():
    parts = {"a": l2o.LSTM(num_layers=1, num_units=3, key=jax.random.key(0)), "b": rule_of("adam"), "c": rule_of("nag")}
    partitioned = l2o.Partitioned(parts)
    gradients = {"a": [0.3, -1e-6], "b": [0.1, 0.2, -2.0], "c": [1.0]}
    weights = pretrained.as_dict(partitioned)
    optimizer, params = torch_nets.assert_parts_go_as_in_jax(partitioned, weights, gradients, 3)
    again = LearnedOptimizer([{"params": [p], "part": n} for n, p in params.items()], weights)
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    assert torch.equal(again.state[params["b"]]["m"], optimizer.state[params["b"]]["m"])


@pytest.mark.parametrize("how", ["hold", "anneal", None])
def test_beyond_its_horizon_as_in_jax(how):
    """Held, annealed, or with the rate that it has at the end. Gradients that are not finite then do no harm to what is held."""
    rule, horizon = rule_of("nag"), 4
    wrapped = rule if how is None else l2o.beyond(rule, horizon, how)
    gradients = [[0.3, -0.1 * t] for t in range(10)]
    params = jnp.ones(2)
    state, expected = wrapped.init(params), []
    for gradient in gradients:
        updates, state = wrapped.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        expected.append(params)
    weights = {**pretrained.as_dict(rule), "horizon": horizon}
    p = parameter(1.0, 1.0)
    optimizer = LearnedOptimizer([p], weights, beyond=how)
    in_steps(optimizer, p, gradients[:horizon])
    if how is None:
        rest = in_steps(optimizer, p, gradients[horizon:])
    else:
        with pytest.warns(UserWarning, match="meta-trained on runs of 4 steps") as told:
            rest = in_steps(optimizer, p, gradients[horizon:])
        assert len(told) == 1
    for ours, theirs in zip(rest, expected[horizon:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    if how == "hold":
        assert torch.equal(in_steps(optimizer, p, [[np.nan, np.inf]])[0], rest[-1])
        with pytest.raises(ValueError, match=r"beyond='fallback' .* got a Momentum"):
            LearnedOptimizer([parameter(1.0)], weights, beyond="fallback")


def test_a_compiled_step_is_the_step():
    p, q = (parameter(1.0, -2.0, gradient=[0.1, 0.2]) for _ in range(2))
    weights = pretrained.as_dict(rule_of("nadam"))
    plain, compiled = LearnedOptimizer([p], weights), LearnedOptimizer([q], weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own tracing
        step = torch.compile(compiled.step, backend="eager")
        for _ in range(12):  # more than torch compiles one function anew for other numbers
            plain.step()
            step()
    torch.testing.assert_close(p, q)


def test_what_does_not_fit_is_refused(tmp_path):
    rule = rule_of("nadam")
    weights = pretrained.as_dict(rule)
    p = parameter(1.0, 2.0, gradient=[0.1, 0.1])
    optimizer = LearnedOptimizer([p], weights)
    optimizer.step()
    saved = optimizer.state_dict()
    with pytest.raises(
        ValueError, match=r"does not fit parameter 0 .* its 'm' is of torch.float32, \(2,\), and must be of"
    ):
        LearnedOptimizer([parameter(1.0, 2.0, 3.0)], weights).load_state_dict(saved)
    of_lstm = LearnedOptimizer([parameter(1.0, 2.0)], "lstm-mnist").state_dict()
    wrong = {**of_lstm, "state": saved["state"]}
    with pytest.raises(ValueError, match=r'its state has no tensor named "state"'):
        LearnedOptimizer([parameter(1.0, 2.0)], "lstm-mnist").load_state_dict(wrong)
    wrong = {**saved, "state": {0: {**saved["state"][0], "step": "many"}}}
    with pytest.raises(ValueError, match="its 'step' is 'many', and must be a number"):
        LearnedOptimizer([parameter(1.0, 2.0)], weights).load_state_dict(wrong)
    wrong = {**saved, "state": {0: {"state": torch.zeros(2)}}}
    with pytest.raises(ValueError, match="it has no 'step', and so is of another optimizer"):
        LearnedOptimizer([parameter(1.0, 2.0)], weights).load_state_dict(wrong)
    p.data = torch.ones(3)
    p.grad = torch.ones(3)
    with pytest.raises(
        ValueError, match=r"state of parameter 0 of group 0 does not fit: its 'm' is .* make a new optimizer"
    ):
        optimizer.step()
    a, b = parameter(1.0, gradient=[0.1]), parameter(1.0)
    uneven = LearnedOptimizer([a, b], weights)
    uneven.step()
    l2o_torch.save_state(tmp_path / "state.safetensors", uneven)
    with pytest.raises(ValueError, match=r"have taken different numbers of steps"):
        states.load(tmp_path / "state.safetensors", rule, [jnp.ones(1), jnp.ones(1)])
    with pytest.raises(ValueError, match="momentum does not take"), l2o_torch.Recorder():
        LearnedOptimizer([parameter(1.0, gradient=[0.1])], weights).step()
