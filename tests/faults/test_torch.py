"""PyTorch: state dicts are checked whole and hold plain tensors, steps are whole, complex parameters are pairs of reals."""

import copy
import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import tiny_lstm
from torch_nets import parameter

import l2o
from l2o.optimizers import pretrained

torch = pytest.importorskip("torch")

import l2o.torch as l2o_torch  # noqa: E402 (after the check that there is one)
from l2o.torch import LearnedOptimizer, Recorder  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*was meta-trained on gradients"),  # these tests' are of any size
]


@pytest.fixture
def weights():
    return pretrained.as_dict(tiny_lstm())


def zeros(*shapes, **options):
    return [torch.nn.Parameter(torch.zeros(shape, **options)) for shape in shapes]


def bowl(optimizer, num_steps=1):
    """Steps on sum |p - 1|^2 of all parameters; where they end."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(num_steps):
        optimizer.zero_grad()
        sum((p - 1).abs().square().sum() for p in params).backward()
        optimizer.step()
    return [p.detach().clone() for p in params]


def through_a_file(saved):
    """By torch's defaults."""
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file)


def assert_equal(some, others):
    assert len(some) == len(others)
    assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


# What a state_dict must be.


def of_shapes(*shapes):
    def saved(weights):
        optimizer = LearnedOptimizer(zeros(*shapes), weights)
        bowl(optimizer, 2)
        return optimizer.state_dict()

    return saved


def changed(change):
    def saved(weights):
        state_dict = copy.deepcopy(of_shapes((3,), (2, 4))(weights))
        change(state_dict)
        return state_dict

    return saved


def of_adam(weights):
    optimizer = torch.optim.Adam(zeros((3,), (2, 4)))
    bowl(optimizer)
    return optimizer.state_dict()


def with_other_arrays(weights):
    saved = of_shapes((3,), (2, 4))(weights)
    other = LearnedOptimizer(zeros(1), pretrained.as_dict(tiny_lstm(num_layers=3)))
    saved["param_groups"][0]["weights"] = other.param_groups[0]["weights"]
    return saved


def in_groups(*groups):
    def saved(weights):
        return LearnedOptimizer([{"params": zeros(*shapes)} for shapes in groups], weights).state_dict()

    return saved


FOREIGN = {
    "another order": (of_shapes((2, 4), (3,)), r"parameter 0 of group 0, of shape \(3,\): its state has shape"),
    "a transposed shape": (of_shapes((3,), (4, 2)), r"parameter 1 of group 0.*is of a parameter of shape \(4, 2\)"),
    "more parameters": (
        of_shapes((3,), (2, 4), (1,)),
        "Group 0 of the state_dict is of 3 parameters, the optimizer's of 2",
    ),
    "more groups": (in_groups([(3,)], [(2, 4)]), "holds 2 parameter groups, the optimizer has 1"),
    "Adam's": (of_adam, "Group 0 of the state_dict has no 'weights'.*not of a LearnedOptimizer.*'betas'"),
    "a model's": (lambda _: torch.nn.Linear(1, 1).state_dict(), r'has "state" and "param_groups", got'),
    "another rule's states": (with_other_arrays, "parameter 0 of group 0.*its state has shape"),
    "another dtype": (
        changed(lambda s: s["state"][1].update(state=s["state"][1]["state"].half())),
        "parameter 1 of group 0.*its state is of torch.float16, the saved weights of torch.float32",
    ),
    "no tensor": (
        changed(lambda s: s["state"].update({1: {"exp_avg": torch.zeros(8)}})),
        'parameter 1 of group 0.*no tensor named "state".*exp_avg',
    ),
    "no rate": (changed(lambda s: s["param_groups"][0].pop("lr")), "Group 0 of the state_dict has no 'lr'"),
    "nan as a rate": (changed(lambda s: s["param_groups"][0].update(lr=float("nan"))), "`lr` of group 0 is nan"),
    "a part that is none": (
        changed(lambda s: s["param_groups"][0].update(part="x")),
        "Group 0 .*without parts: part='x'",
    ),
    "a name of nothing": (
        changed(lambda s: s["param_groups"][0].update(weights="gone.safetensors")),
        "Group 0 of the state_dict has weights that cannot be used. No weights file at gone.safetensors",
    ),
    "states of nobody": (changed(lambda s: s["state"].update({7: s["state"][0]})), "none of its groups has: 7"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_w10_a_state_dict_of_others_is_refused_and_changes_nothing(kind, weights):
    saved, message = FOREIGN[kind]
    ours, untouched = (LearnedOptimizer(zeros((3,), (2, 4)), weights, lr=0.5) for _ in range(2))
    bowl(ours, 2), bowl(untouched, 2)
    with pytest.raises(ValueError, match=message):
        ours.load_state_dict(saved(weights))
    assert_equal(bowl(ours, 3), bowl(untouched, 3))


def test_w10_states_of_the_same_shapes_are_told_apart_by_names(weights):
    def named(*names):
        return LearnedOptimizer([(name, torch.nn.Parameter(torch.zeros(2))) for name in names], weights)

    optimizer = named("a", "b")
    bowl(optimizer)
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"parameter 0 of group 0 is 'a', the optimizer's 'b'.*in the order"):
        named("b", "a").load_state_dict(saved)
    named("a", "b").load_state_dict(saved)
    named("module.a", "module.b").load_state_dict(saved)  # the same model, distributed or compiled
    named("_orig_mod.a", "_orig_mod.b").load_state_dict(saved)
    LearnedOptimizer(zeros(2, 2), weights).load_state_dict(saved)  # there is nothing to compare with
    wrong = copy.deepcopy(saved)
    wrong["state"][1]["state"] = wrong["state"][1]["state"][:, :1]
    with pytest.raises(ValueError, match=r"parameter 1 of group 0 \('b'\), of shape \(2,\)"):
        named("a", "b").load_state_dict(wrong)


def test_w10_hooks_may_adapt_a_state_dict_and_see_what_was_loaded(weights):
    """The way that PyTorch documents: what is checked is what the hooks return."""
    optimizer = LearnedOptimizer(zeros(3, 5), weights)
    bowl(optimizer)
    swapped = LearnedOptimizer(zeros(5, 3, dtype=torch.bfloat16), weights)

    def swap(optimizer, state_dict):
        return {**state_dict, "state": {0: state_dict["state"][1], 1: state_dict["state"][0]}}

    seen = []
    swapped.register_load_state_dict_pre_hook(swap)
    swapped.register_load_state_dict_post_hook(
        lambda o: seen.extend(o.state[p]["state"] for p in o.param_groups[0]["params"])
    )
    swapped.load_state_dict(optimizer.state_dict())
    first, second = (optimizer.state[p]["state"] for p in optimizer.param_groups[0]["params"])
    assert_equal(seen, [second, first])


def test_w10_a_loaded_state_is_not_the_one_it_was_loaded_from(weights):
    optimizer, twin = (LearnedOptimizer(zeros(3), weights) for _ in range(2))
    bowl(optimizer, 2)
    expected = optimizer.state[optimizer.param_groups[0]["params"][0]]["state"].clone()
    twin.load_state_dict(optimizer.state_dict())
    bowl(optimizer, 2)
    assert torch.equal(twin.state[twin.param_groups[0]["params"][0]]["state"], expected)


# A step is taken whole or not at all.


def sparse(p):
    p.grad = torch.ones(4, 2).to_sparse()


def shrunk(p):
    p.grad = torch.ones(4, 2)
    p.data = torch.zeros(3)


def resized(p):
    p.data = torch.zeros(4, 3)
    p.grad = torch.ones(4, 3)


def integral(p):
    p.grad_dtype = None
    p.grad = torch.ones(4, 2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (sparse, "does not take sparse gradients.*parameter 1 of group 1"),
        (shrunk, r"parameter 1 of group 1 has shape \(4, 2\).*the parameter has shape \(3,\)"),
        (resized, "state of parameter 1 of group 1 has shape"),
        (integral, "gradient of torch.int32 for parameter 1 of group 1, of torch.float32"),
    ],
)
@pytest.mark.parametrize("by_closure", [False, True])
def test_w10_a_gradient_that_is_refused_leaves_all_as_it_was(spoil, message, by_closure, weights):
    def optimizer():
        (a, b, c) = zeros((2,), (3,), (4, 2))
        optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b, c]}], weights)
        bowl(optimizer, 2)
        return optimizer, [a, b], c

    (ours, healthy, spoilt), (other, _, _) = optimizer(), optimizer()

    def closure():
        for p in healthy:
            p.grad = torch.ones_like(p)
        spoil(spoilt)

    before, kept = [p.detach().clone() for p in healthy], spoilt.data.clone()
    if not by_closure:
        closure()
    with pytest.raises((RuntimeError, ValueError), match=message):
        ours.step(closure if by_closure else None)
    assert_equal([p.detach() for p in healthy], before)
    spoilt.grad, spoilt.data = None, kept
    assert_equal(bowl(ours, 2), bowl(other, 2))


def test_w10_a_warning_that_is_an_error_comes_before_any_step():
    a, b = parameter(1.0, gradient=[0.01]), parameter(1.0, gradient=[1e6])
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b]}], "lstm-mnist")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="was meta-trained on gradients"):
            optimizer.step()
    assert a.item() == b.item() == 1.0


def test_w10_not_a_number_is_a_gradient_like_any_other(weights):
    """Divergence is data."""
    p = parameter(1.0, 2.0, gradient=[float("nan"), 1.0])
    LearnedOptimizer([p], weights).step()
    assert torch.isnan(p).tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": float("nan")}, "`lr` must be finite"),
        ({"lr": True}, "`lr` must be a number, got True"),
        ({"weight_decay": False}, "`weight_decay` must be a number, got False"),
        ({"lr": float("inf")}, "`lr` must be finite"),
        ({"lr": torch.tensor([1.0, 2.0])}, r"`lr` must be one number, got a tensor of shape \(2,\)"),
        ({"lr": "fast"}, "`lr` must be a number, got 'fast'"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be finite"),
        ({"weight_decay": -1.0}, "`weight_decay` must not be negative"),
        ({"part": "conv"}, "without parts"),
        ({"weights": "nope"}, "No pretrained optimizer named 'nope'"),
        ({"weights": {"arrays": {}}}, "lack 'architecture', 'arguments'"),
    ],
    ids=str,
)
def test_w10_a_group_that_is_refused_leaves_the_optimizer_as_it_was(options, message, weights):
    ours, other = (LearnedOptimizer(zeros(2), weights) for _ in range(2))
    bowl(ours), bowl(other)
    with pytest.raises(ValueError, match=message):
        ours.add_param_group({"params": zeros(3), **options})
    with pytest.raises(ValueError, match=message):
        LearnedOptimizer([{"params": zeros(2), **options}], weights)
    assert len(ours.param_groups) == 1
    assert_equal(bowl(ours, 2), bowl(other, 2))


def test_w10_a_parameter_is_given_once(weights):
    p, q = zeros(2, 3)
    with pytest.raises(ValueError, match="Parameters 0 and 2 of group 0 are one tensor"):
        LearnedOptimizer([p, q, p], weights)
    optimizer = LearnedOptimizer([p], weights)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1


def test_w10_a_schedule_that_leaves_the_numbers_is_stopped_before_the_step(weights):
    a, b = zeros(2, 3)
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b]}], weights)
    bowl(optimizer)
    before = a.detach().clone()
    optimizer.param_groups[1]["lr"] = float("nan")
    with pytest.raises(ValueError, match="`lr` of group 1 is nan, and must be finite"):
        bowl(optimizer)
    assert torch.equal(a, before)


def test_w10_groups_may_be_empty_removed_and_of_any_layout(weights, tmp_path):
    def params():
        # Of size 0, a scalar, transposed in memory.
        return [*zeros((0, 3), ()), torch.nn.Parameter(torch.zeros(3, 2).T), *zeros((1, 2, 2, 2))]

    ours, dense = params(), params()
    ours[3].data = ours[3].data.to(memory_format=torch.channels_last)
    optimizer = LearnedOptimizer([{"params": ours}, {"params": []}], weights)
    reference = LearnedOptimizer([torch.nn.Parameter(p.detach().contiguous()) for p in dense], weights)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for p, q in zip(ours, reference.param_groups[0]["params"], strict=True):
            q.grad = torch.randn(q.shape, generator=generator)
            p.grad = torch.empty_like(p).copy_(q.grad)  # in the parameter's layout
        optimizer.step()
        reference.step()
    assert_equal(ours, reference.param_groups[0]["params"])
    l2o_torch.save_state(tmp_path / "state.safetensors", optimizer)
    l2o_torch.load_state(tmp_path / "state.safetensors", optimizer)
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    del optimizer.param_groups[1]
    ours[0].grad = None
    optimizer.step()


def test_w10_a_group_that_is_gone_does_not_leave_its_rule_behind(tmp_path):
    """Two groups share weights and differ in their part: the second becomes the first."""
    path = tmp_path / "pair.safetensors"
    pretrained.save(path, l2o.Partitioned({"a": tiny_lstm(), "b": tiny_lstm(1)}))
    p, q, alone = parameter(1.0), parameter(1.0), parameter(1.0)
    optimizer = LearnedOptimizer([{"params": [p], "part": "a"}, {"params": [q], "part": "b"}], path)
    for parameters in ([p, q], [alone]):
        for each in parameters:
            each.grad = torch.tensor([0.3])
    optimizer.step()
    reference = LearnedOptimizer([alone], path, part="b")
    reference.step()
    del optimizer.param_groups[0]
    optimizer.step()
    reference.step()
    assert torch.equal(q, alone)


# What is saved.


def of(optimizer, make):
    """The run goes on, in an optimizer made anew, as it would have."""
    kept = copy.deepcopy(optimizer)
    again = make()
    for theirs, ours in zip(kept.param_groups, again.param_groups, strict=True):
        for p, q in zip(theirs["params"], ours["params"], strict=True):
            q.data.copy_(p)
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    assert_equal(bowl(again, 3), bowl(kept, 3))


def in_numpy(weights):
    return weights


def in_jax(weights):
    return {**weights, "arrays": {path: jnp.asarray(array) for path, array in weights["arrays"].items()}}


def in_parameters(weights):
    arrays = {path: torch.nn.Parameter(torch.tensor(array)) for path, array in weights["arrays"].items()}
    return {**weights, "arrays": arrays}


def with_numbers_of_numpy(weights):
    arguments = {**weights["arguments"], "output_scale": np.float32(0.5), "num_units": np.int64(3)}
    return {**weights, "arguments": arguments, "scale": {"start": np.array([0.1, 1.0, 10.0])}}


@pytest.mark.parametrize("form", [in_numpy, in_jax, in_parameters, with_numbers_of_numpy])
def test_b6_a_state_dict_with_weights_in_memory_loads_by_torchs_default(form, weights):
    def make():
        groups = [{"params": zeros(2, 3), "lr": np.float32(0.5), "weight_decay": np.float64(0.1)}]
        return LearnedOptimizer(groups, form(weights))

    optimizer = make()
    bowl(optimizer, 2)
    of(optimizer, make)
    assert through_a_file(optimizer.state_dict())["param_groups"][0]["lr"] == 0.5


def test_b6_a_state_dict_brings_weights_to_whoever_has_others(weights):
    optimizer = LearnedOptimizer(zeros(2), weights)
    bowl(optimizer, 2)
    of(optimizer, lambda: LearnedOptimizer(zeros(2), "lstm-quadratic"))


def test_b6_weights_of_half_precision_go_through_memory_and_files():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny_lstm())
    optimizer = LearnedOptimizer(zeros(2), pretrained.as_dict(half))
    bowl(optimizer, 2)
    assert optimizer.state[optimizer.param_groups[0]["params"][0]]["state"].dtype == torch.bfloat16
    of(optimizer, lambda: LearnedOptimizer(zeros(2), pretrained.as_dict(half)))


def test_b6_a_schedule_of_numpys_numbers_is_saved_as_plain_ones(weights):
    optimizer = LearnedOptimizer(zeros(2), weights)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: np.cos(0.1 * step))
    bowl(optimizer)
    schedule.step()
    assert through_a_file(optimizer.state_dict())["param_groups"][0]["lr"] == np.cos(0.1)


@pytest.mark.parametrize("way", ["deleted", "elsewhere"])
def test_b6_a_file_is_read_once(way, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretrained.save(tmp_path / "rule.safetensors", tiny_lstm())
    ours, other = LearnedOptimizer(zeros(2), "rule.safetensors"), LearnedOptimizer(zeros(2), weights)
    if way == "deleted":
        (tmp_path / "rule.safetensors").unlink()
    else:
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path / "folder")
    assert_equal(bowl(ours, 3), bowl(other, 3))
    of(ours, lambda: LearnedOptimizer(zeros(2), "lstm-mnist"))
    ours.add_param_group({"params": zeros(4)})
    bowl(ours)
    l2o_torch.save_state(tmp_path / "state.safetensors", ours)
    copied = copy.deepcopy(ours)
    assert_equal(bowl(copied, 2), bowl(ours, 2))


def test_b6_a_state_dict_of_before_that_held_a_name_still_loads(tmp_path):
    pretrained.save(tmp_path / "rule.safetensors", tiny_lstm())
    optimizer = LearnedOptimizer(zeros(2), tmp_path / "rule.safetensors")
    bowl(optimizer, 2)
    old = copy.deepcopy(optimizer.state_dict())
    old["param_groups"][0]["weights"] = str(tmp_path / "rule.safetensors")
    del old["param_groups"][0]["part"], old["state"][0]["shape"]
    reader, maker = LearnedOptimizer(zeros(2), "lstm-mnist"), LearnedOptimizer(zeros(2), tmp_path / "rule.safetensors")
    reader.load_state_dict(old)
    (tmp_path / "rule.safetensors").unlink()
    maker.load_state_dict(old)  # it read that very file when there was one
    for resumed in (reader, maker):
        resumed.param_groups[0]["params"][0].data.copy_(optimizer.param_groups[0]["params"][0])
    expected = bowl(optimizer, 2)
    assert_equal(bowl(reader, 2), expected)
    assert_equal(bowl(maker, 2), expected)


def test_b6_the_whole_optimizer_is_saved_and_shown(tmp_path):
    optimizer = LearnedOptimizer(zeros(2), "lstm-quadratic", lr=torch.tensor(0.5))
    bowl(optimizer, 2)
    torch.save(optimizer, tmp_path / "optimizer.pt")
    again = torch.load(tmp_path / "optimizer.pt", weights_only=False)
    assert_equal(bowl(again, 2), bowl(optimizer, 2))
    assert "weights: lstm-quadratic" in repr(optimizer)
    assert "tensor(" not in repr(LearnedOptimizer(zeros(2), pretrained.as_dict(tiny_lstm())))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_b6_parameters_of_any_precision_go_on_from_a_state_dict(dtype, weights):
    optimizer = LearnedOptimizer(zeros(2, dtype=dtype), weights)
    bowl(optimizer, 2)
    of(optimizer, lambda: LearnedOptimizer(zeros(2, dtype=dtype), weights))


# Complex parameters.


def quadratic(z, matrix, centre):
    return (matrix @ (z - centre)).abs().square().sum()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_w8_a_complex_parameter_is_two_real_ones(dtype, weights, tmp_path):
    """On |M (z - c)|^2, whose minimum is where both parts are right; beside a real parameter, with weight decay."""
    generator = torch.Generator().manual_seed(0)
    matrix, centre = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((3, 3), (3,)))
    start = torch.tensor([1 + 2j, -3j, 0.5], dtype=dtype)
    z, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.ones(2))
    parts, c = torch.nn.Parameter(torch.view_as_real(start).clone()), torch.nn.Parameter(torch.ones(2))
    as_complex = LearnedOptimizer([z, b], weights, weight_decay=0.1)
    as_reals = LearnedOptimizer([parts, c], weights, weight_decay=0.1)
    for step in range(6):
        for optimizer, value, other in (
            (as_complex, lambda: z, b),
            (as_reals, lambda: torch.view_as_complex(parts), c),
        ):
            optimizer.zero_grad()
            (quadratic(value(), matrix, centre) + other.square().sum()).backward()
            optimizer.step()
        if step == 2:
            saved = through_a_file(as_complex.state_dict())
            assert saved["state"][0]["state"].shape[1] == 6
            as_complex = LearnedOptimizer([z, b], weights)
            as_complex.load_state_dict(saved)
        if step == 3:
            l2o_torch.save_state(tmp_path / "state.safetensors", as_complex)
            as_complex = LearnedOptimizer([z, b], weights)
            l2o_torch.load_state(tmp_path / "state.safetensors", as_complex)
    assert torch.equal(torch.view_as_real(z.detach()), parts.detach())
    assert not torch.equal(z.detach().imag, start.imag)
    with pytest.raises(ValueError, match=r"parameter 0 of group 0, of shape \(6,\)"):
        LearnedOptimizer(zeros(6, 2), weights).load_state_dict(saved)


def test_w8_the_steps_are_jaxs_on_the_two_parts(weights):
    start, gradient = np.array([[1.0, 2.0], [0.0, -3.0]]), np.array([[0.3, -1e-6], [2.0, 0.1]])
    z = torch.nn.Parameter(torch.view_as_complex(torch.tensor(start, dtype=torch.float32)))
    optimizer, rule = LearnedOptimizer([z], weights), tiny_lstm()
    params = jnp.asarray(start, jnp.float32)
    state = rule.init(params)
    for _ in range(3):
        z.grad = torch.view_as_complex(torch.tensor(gradient, dtype=torch.float32))
        optimizer.step()
        updates, state = rule.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(torch.view_as_real(z.detach()).numpy(), params, rtol=1e-5, atol=1e-7)


def test_w8_complex_gradients_that_are_views_or_sparse(weights):
    def stepped(gradient):
        z = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        z.grad = gradient
        LearnedOptimizer([z], weights).step()
        return z.detach()

    gradient = torch.tensor([1 + 2j, -3j])
    assert torch.equal(stepped(gradient.conj()), stepped(gradient.conj().resolve_conj()))
    with pytest.raises(RuntimeError, match="does not take sparse gradients"):
        stepped(gradient.to_sparse())
    conjugated = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64).conj())
    conjugated.grad = gradient
    with pytest.raises(RuntimeError, match=r"parameter 0 of group 0.*conjugated view"):
        LearnedOptimizer([conjugated], weights).step()


def test_w8_a_recording_of_complex_parameters_is_of_their_parts(weights):
    z = torch.nn.Parameter(torch.tensor([1 + 2j]))
    with Recorder() as recorder:
        bowl(LearnedOptimizer([z], weights), 2)
    (recording,) = recorder.recordings()
    assert recording.params.tolist() == [1.0, 2.0]
    assert recording.gradients[0].tolist() == [0.0, 4.0]  # of |z - 1|^2


# Recorders.


def test_w10_a_recorder_leaves_nothing_behind_and_counts_every_step_once(weights):
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    recorder, inner = Recorder(), Recorder()
    with recorder:
        optimizer = LearnedOptimizer(zeros(2), weights)
        for _ in range(3):
            with recorder, inner:
                bowl(optimizer)
    for seen in (recorder, inner):
        (recording,) = seen.recordings()
        assert len(recording.gradients) == len(recording.losses) == 3
        assert recording.losses[0] == 2.0  # |0 - 1|^2 of two coordinates
    with pytest.raises(KeyError), Recorder():
        raise KeyError
    assert not _global_optimizer_pre_hooks
    assert not _global_optimizer_post_hooks


def test_w10_a_recording_with_a_step_missing_does_not_go_on(weights):
    a, b = zeros(2, 3)
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b]}], weights)
    recorder = Recorder()
    with recorder:
        bowl(optimizer, 2)
        optimizer.zero_grad()
        a.sum().backward()
        with pytest.raises(ValueError, match="Other parameters have gradients"):
            optimizer.step()
        with pytest.raises(ValueError, match="A step is missing from this recording"):
            bowl(optimizer)
    assert [len(r.gradients) for r in recorder.recordings()] == [2, 2]
    assert len(recorder.recordings()[0].losses) == 2


def test_b6_groups_with_equal_weights_are_recorded_as_one_rule(weights, tmp_path):
    """Whether they were read from one file or two, before and after a state_dict."""
    pretrained.save(tmp_path / "rule.safetensors", tiny_lstm())
    a, b = zeros(2, 3)
    groups = [{"params": [a], "weights": tmp_path / "rule.safetensors"}, {"params": [b]}]
    optimizer = LearnedOptimizer(groups, weights)
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    optimizer.add_param_group({"params": zeros(1)})
    with Recorder() as recorder:
        bowl(optimizer)
    assert len(recorder.recordings()) == 3


# What PyTorch's own tools do with it.


SCHEDULERS = {
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=5, cycle_momentum=False),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o, total_iters=2), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
}


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_b6_schedules_go_on_from_a_state_dict(kind, tensor, weights):
    def make():
        optimizer = LearnedOptimizer(zeros(2), weights, lr=torch.tensor(0.5) if tensor else 0.5)
        return optimizer, SCHEDULERS[kind](optimizer)

    def run(optimizer, scheduler, num_steps):
        rates = []
        for _ in range(num_steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            bowl(optimizer)
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)
            scheduler.step()
        return rates

    optimizer, scheduler = make()
    run(optimizer, scheduler, 2)
    again, resumed = make()
    resumed.load_state_dict(through_a_file(scheduler.state_dict()))
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    again.param_groups[0]["params"][0].data.copy_(optimizer.param_groups[0]["params"][0])
    rates = run(optimizer, scheduler, 2)
    assert run(again, resumed, 2) == rates
    assert_equal(again.param_groups[0]["params"], optimizer.param_groups[0]["params"])


def test_b6_a_plateau_and_a_scaler_that_skips(weights):
    optimizer = LearnedOptimizer(zeros(2), weights)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(2):
        bowl(optimizer)
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.5
    (p,) = optimizer.param_groups[0]["params"]
    before, state = p.detach().clone(), optimizer.state[p]["state"].clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((p * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, before)
    assert torch.equal(optimizer.state[p]["state"], state)


def test_b6_a_parameter_that_joins_later_starts_its_own_state(weights):
    a, b, alone = parameter(1.0), parameter(2.0), parameter(2.0)
    optimizer, reference = LearnedOptimizer([a, b], weights), LearnedOptimizer([alone], weights)
    a.grad = torch.tensor([0.1])
    optimizer.step()
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))  # with one state of two
    for _ in range(2):
        b.grad, alone.grad = torch.tensor([0.2]), torch.tensor([0.2])
        optimizer.step()
        reference.step()
    torch.testing.assert_close(b, alone)
