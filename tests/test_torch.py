"""The PyTorch optimizer: the same numbers as in JAX, and all that a `torch.optim.Optimizer` promises."""

import copy
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_nets
from fakes import tiny_lstm
from torch_nets import SHIPPED, both, drift, in_jax, in_torch, parameter, unflatten

import l2o
from l2o.optimizers import pretrained

torch = pytest.importorskip("torch")

import l2o.torch as l2o_torch  # noqa: E402 (after the check that there is one)
from l2o.torch import LearnedOptimizer, _optimizer  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*was meta-trained on gradients"),  # these tests' are of any size
]


PRECISIONS = pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 1e-6), (np.float32, 1e-2)])


@SHIPPED
@PRECISIONS
def test_200_steps_on_the_same_gradients(name, dtype, limit):
    """Those of the run in JAX: far below the limit."""
    with jax.enable_x64(dtype == np.float64):
        optimizer, weights = both(name, dtype)
        x, y = torch_nets.data(dtype)
        expected, _ = in_jax(optimizer, 200, dtype)
        before = np.concatenate(
            [[np.concatenate([a.ravel() for a in torch_nets.start(dtype=dtype).values()])], expected]
        )
        gradients = jax.jit(jax.vmap(jax.grad(lambda p: torch_nets.jax_loss(unflatten(p), x, y))))(before[:-1])
    p = torch.nn.Parameter(torch.tensor(before[0]))
    learned = LearnedOptimizer([p], weights)
    actual = []
    for gradient in np.asarray(gradients):
        p.grad = torch.tensor(gradient)
        learned.step()
        actual.append(p.detach().numpy().copy())
    assert np.linalg.norm(expected[-1] - expected[0]) > 0.1  # it went somewhere
    assert actual[0].dtype == expected.dtype == dtype
    assert drift(np.stack(actual), expected).max() < limit / 1000


@pytest.mark.parametrize("name", pretrained.names())
@PRECISIONS
def test_200_steps_or_fewer_on_its_own_gradients(name, dtype, limit):
    """Of a partitioned optimizer one part has the features, the other the output layer: alone on all it need not be stable."""
    # All they were trained for. After that they oscillate on this net, which makes rounding errors of 1e-16 larger than 1e-6.
    # `lstm-cifar` makes those of single precision 1 % in 200 steps.
    num_steps = {"lstm-style": 128, "momentum-mnist": 100, "lstm-cifar": 150}.get(name, 200)
    kinds = {"conv": 0, "gain": 0, "dense": 1, "bias": 1}
    params = torch_nets.torch_params(torch_nets.start(dtype=dtype))
    groups = list(params.values())
    with jax.enable_x64(dtype == np.float64):
        optimizer = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), l2o.load(name, beyond=None))
        if isinstance(optimizer, l2o.Partitioned):
            parts = sorted(optimizer.parts)
            optimizer = l2o.Partitioned(optimizer.parts, lambda path, leaf: parts[kinds[path[0].key]])
            groups = [{"params": [p], "part": parts[kinds[leaf]]} for leaf, p in params.items()]
        expected, _ = in_jax(optimizer, num_steps, dtype)
    assert np.linalg.norm(expected[-1] - expected[0]) > 0.1
    weights = l2o_torch.load_weights(name, dtype=params["conv"].dtype)
    actual = in_torch(LearnedOptimizer(groups, weights, beyond=None), params, num_steps)
    assert drift(actual, expected).max() < limit


def from_the_start(weights, num_steps, dtype):
    params = torch_nets.torch_params(torch_nets.start(dtype=dtype))
    return in_torch(LearnedOptimizer(params.values(), weights), params, num_steps)


def tiny_weights(**arguments):
    return pretrained.as_dict(tiny_lstm(**arguments))


@pytest.mark.parametrize("arguments", [{"num_layers": 1}, {"num_layers": 3}, {"preset": "raw"}], ids=str)
def test_other_sizes_than_those_that_ship(arguments):
    optimizer = tiny_lstm(**arguments)
    actual = from_the_start(pretrained.as_dict(optimizer), 3, np.float32)
    np.testing.assert_allclose(actual, in_jax(optimizer, 3, np.float32)[0], rtol=1e-4, atol=1e-5)


def test_blocks_of_coordinates_are_all_at_once(monkeypatch):
    weights = l2o_torch.load_weights("lstm-mnist", dtype=torch.float64)
    whole = from_the_start(weights, 3, np.float64)
    monkeypatch.setattr(_optimizer, "_BLOCK", 7)
    np.testing.assert_allclose(from_the_start(weights, 3, np.float64), whole, rtol=1e-10)


def test_rate_and_decoupled_weight_decay():
    values, gradient = [1.0, -2.0, 3.0], [0.1, -1e-6, 0.0]
    plain, other = parameter(*values, gradient=gradient), parameter(*values, gradient=gradient)
    LearnedOptimizer([plain], "lstm-mnist").step()
    LearnedOptimizer([other], "lstm-mnist", lr=0.5, weight_decay=0.2).step()
    start = torch.tensor(values)
    torch.testing.assert_close(other.detach(), (1 - 0.5 * 0.2) * start + 0.5 * (plain.detach() - start))


def test_groups_have_weights_and_rates_of_their_own():
    def params():
        return parameter(1.0, 2.0, gradient=[0.1, 0.2]), parameter(3.0, gradient=[-0.3])

    (a, b), (c, d) = params(), params()
    groups = [{"params": [a]}, {"params": [b], "weights": "lstm-quadratic", "lr": 0.1}]
    together = LearnedOptimizer(groups, "lstm-mnist", weight_decay=0.1)
    apart = [
        LearnedOptimizer([c], "lstm-mnist", weight_decay=0.1),
        LearnedOptimizer([d], "lstm-quadratic", lr=0.1, weight_decay=0.1),
    ]
    for _ in range(3):
        for optimizer in (together, *apart):
            optimizer.step()
    assert torch.equal(a, c)
    assert torch.equal(b, d)


def test_parameters_without_gradients_are_skipped_and_so_is_their_state():
    """One that misses a step goes on from where it was, as if the step had not been."""
    a, b = parameter(1.0, 2.0), parameter(3.0)
    alone = parameter(3.0)
    optimizer, reference = LearnedOptimizer([a, b], "lstm-mnist"), LearnedOptimizer([alone], "lstm-mnist")
    for step in range(5):
        a.grad = torch.tensor([0.1, 0.2])
        b.grad = None if step in (0, 2) else torch.tensor([0.3])
        before = b.detach().clone()
        optimizer.step()
        if b.grad is None:
            assert torch.equal(b, before)
        else:
            alone.grad = b.grad.clone()
            reference.step()
    torch.testing.assert_close(b, alone)
    never = LearnedOptimizer([parameter(1.0)], "lstm-mnist")
    never.step()
    assert not never.state_dict()["state"]


def test_schedulers_set_the_rate():
    p = parameter(1.0, gradient=[0.1])
    optimizer = LearnedOptimizer([p], "lstm-mnist", lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.0)
    optimizer.step()
    scheduler.step()
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned():
    p = parameter(2.0)
    optimizer = LearnedOptimizer([p], "lstm-mnist")

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() != 2.0


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"does not take sparse gradients, .* of shape \(4, 2\)\. Make it dense"):
        LearnedOptimizer(table.parameters(), "lstm-mnist").step()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`lr` must not be negative, got -1"):
        LearnedOptimizer([parameter(1.0)], "lstm-mnist", lr=-1.0)
    with pytest.raises(ValueError, match=r"`weight_decay` must not be negative, got -0\.1"):
        LearnedOptimizer([parameter(1.0)], "lstm-mnist", weight_decay=-0.1)
    with pytest.raises(ValueError, match=r"No pretrained optimizer named 'nope'\. Shipped: .*lstm-mnist"):
        LearnedOptimizer([parameter(1.0)], "nope")
    with pytest.raises(ValueError, match=r"No PyTorch twin of the architecture 'abacus'\. Twins: .*lstm"):
        LearnedOptimizer([parameter(1.0)], {**tiny_weights(), "architecture": "abacus"})
    broken = tiny_weights()
    broken["arrays"].pop(".readout")
    with pytest.raises(ValueError, match=r"do not fit their arguments \(leaf \.readout: nothing vs \(3,\)\)"):
        LearnedOptimizer([parameter(1.0)], broken)
    optimizer = LearnedOptimizer([parameter(1.0)], "lstm-mnist")
    with pytest.raises(ValueError, match="`lr` must not be negative"):
        optimizer.add_param_group({"params": [parameter(2.0)], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


def test_a_group_for_each_part_of_a_partitioned_optimizer(tmp_path):
    """The same numbers as in JAX; and a state that is saved and loaded by part."""
    partitioned = l2o.Partitioned({"a": tiny_lstm(), "b": tiny_lstm(1, num_layers=2, preset="raw")})
    path = tmp_path / "pair.safetensors"
    pretrained.save(path, partitioned)
    gradients = {"a": [0.3, -1e-6], "b": [0.1, 0.2, -2.0]}
    optimizer, params = torch_nets.assert_parts_go_as_in_jax(partitioned, path, gradients, 2)
    l2o_torch.save_state(tmp_path / "state.safetensors", optimizer)
    again = LearnedOptimizer([{"params": [p], "part": name} for name, p in params.items()], path)
    l2o_torch.load_state(tmp_path / "state.safetensors", again)
    for p in params.values():
        assert torch.equal(again.state[p]["state"], optimizer.state[p]["state"])
    with pytest.raises(ValueError, match=r"every group must name its own, got part=None.*\"part\": \"a\""):
        LearnedOptimizer([parameter(1.0)], path)
    with pytest.raises(ValueError, match=r"of one lstm, without parts: part='a' names none"):
        LearnedOptimizer([parameter(1.0)], tiny_weights(), part="a")


def steps_warned_of(optimizer, p, gradients):
    """At which steps the scale is warned of."""
    found = []
    for step, gradient in enumerate(gradients):
        p.grad = torch.tensor(gradient)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        found += [step] * len(caught)
    return found


@pytest.mark.parametrize("way", ["name", "file", "in memory"])
def test_a_first_gradient_far_from_those_of_its_training_is_warned_of(way, tmp_path):
    header = pretrained.header("lstm-mnist")
    low, middle, high = header["scale"]["start"]
    weights = {"name": "lstm-mnist", "in memory": l2o_torch.load_weights("lstm-mnist")}.get(way)
    if way == "file":
        weights = str(pretrained._weights.shipped("lstm-mnist"))

    def optimizer():
        p = parameter(1.0, 2.0)
        return LearnedOptimizer([p], weights), p

    home = [middle, -middle]
    for far in ([200 * high, -200 * high], [low / 200, low / 200]):
        assert steps_warned_of(*optimizer(), [far, far]) == [0]  # once
        assert steps_warned_of(*optimizer(), [home, far]) == []  # later gradients may be of any size
    assert steps_warned_of(*optimizer(), [[0.0, 0.0]]) == []
    assert steps_warned_of(*optimizer(), [[float("nan"), 1.0]]) == []
    rule, p = optimizer()
    p.grad = torch.tensor([1e3 * high, 1e3 * high])
    name = "This lstm optimizer" if way == "in memory" else ".*lstm-mnist.*"
    match = rf"{name} was meta-trained on gradients with a root mean square of {low:.2g} to {high:.2g} .* Multiply the loss by"
    with pytest.warns(UserWarning, match=match):
        rule.step()
    # A run that goes on is not at its start.
    resumed, q = optimizer()
    q.grad = p.grad.clone()
    resumed.load_state_dict(rule.state_dict())
    assert steps_warned_of(resumed, q, [[1e3 * high, 1.0]]) == []


def test_weights_from_a_file(tmp_path):
    pretrained.save(tmp_path / "tiny.safetensors", tiny_lstm())
    from_file = from_the_start(tmp_path / "tiny.safetensors", 2, np.float32)
    np.testing.assert_array_equal(from_file, from_the_start(tiny_weights(), 2, np.float32))


def test_bfloat16_parameters_keep_a_state_in_single_precision():
    """An update far smaller than the parameter's spacing is lost, but the state is that of single precision."""
    rough, fine = (parameter(1.0, 0.5, dtype=d, gradient=[0.5, -0.25]) for d in (torch.bfloat16, torch.float32))
    optimizers = [LearnedOptimizer([p], "lstm-mnist") for p in (rough, fine)]
    for _ in range(2):
        for optimizer in optimizers:
            optimizer.step()
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), fine, rtol=2**-7, atol=0)
    assert torch.equal(optimizers[0].state[rough]["state"], optimizers[1].state[fine]["state"])
    # torch's own `load_state_dict` would round it.
    resumed = LearnedOptimizer([rough], "lstm-mnist")
    resumed.load_state_dict(optimizers[0].state_dict())
    assert torch.equal(resumed.state[rough]["state"], optimizers[1].state[fine]["state"])


def test_mixed_precision_with_a_gradient_scaler():
    model = torch.nn.Linear(3, 1)
    optimizer = LearnedOptimizer(model.parameters(), "lstm-mnist")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plain = copy.deepcopy(model)
    reference = LearnedOptimizer(plain.parameters(), "lstm-mnist")
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    for _ in range(3):
        for net, rule in ((model, optimizer), (plain, reference)):
            rule.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = net(x).float().square().mean()
            if rule is optimizer:
                scaler.scale(loss).backward()
                scaler.step(rule)
                scaler.update()
            else:
                loss.backward()
                rule.step()
    torch.testing.assert_close(model.weight, plain.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.slowest])])
def test_a_compiled_step_is_the_step(backend, tmp_path, monkeypatch):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    p, q = (parameter(1.0, -2.0, gradient=[0.1, 0.2]) for _ in range(2))
    plain, compiled = LearnedOptimizer([p], "lstm-mnist"), LearnedOptimizer([q], "lstm-mnist")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own tracing
        step = torch.compile(compiled.step, backend=backend)
        for _ in range(3):
            plain.step()
            step()
    torch.testing.assert_close(p, q)
