"""PyTorch: state dicts are checked whole and hold plain tensors, and a run goes on from them."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import tiny_lstm

from l2o.optimizers import pretrained

torch = pytest.importorskip("torch")

from torch_runs import assert_equal, bowl, through_a_file, zeros  # noqa: E402 (after the check that there is one)

import l2o.torch as l2o_torch  # noqa: E402 (after the check that there is one)
from l2o.torch import LearnedOptimizer  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*was meta-trained on gradients"),  # these tests' are of any size
]


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
