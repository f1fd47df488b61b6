"""States of the PyTorch optimizer: saved, loaded, handed from one framework to the other, refused."""

import copy
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_nets
from fakes import tiny_lstm
from torch_nets import SHIPPED, both, in_torch, parameter

import l2o
from l2o.optimizers import pretrained, states

torch = pytest.importorskip("torch")

import l2o.torch as l2o_torch  # noqa: E402 (after the check that there is one)
from l2o.torch import LearnedOptimizer  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*was meta-trained on gradients"),  # these tests' are of any size
]


@pytest.mark.parametrize("way", ["state_dict", "torch.save", "deepcopy", "file"])
def test_a_run_goes_on_where_it_was_interrupted(way, tmp_path):
    """Bit for bit, after every way of saving; the rate and its schedule go along."""
    params = torch_nets.torch_params(torch_nets.start(dtype=np.float32))
    optimizer = LearnedOptimizer(params.values(), "lstm-mnist", lr=0.7, weight_decay=0.01)
    in_torch(optimizer, params, 3)
    arrays = {name: p.detach().numpy().copy() for name, p in params.items()}
    if way == "deepcopy":
        kept, (optimizer, params) = (optimizer, params), copy.deepcopy((optimizer, params))
        expected = in_torch(*kept, 4)
    else:
        if way == "file":
            l2o_torch.save_state(tmp_path / "state.safetensors", optimizer)
        saved = copy.deepcopy(optimizer.state_dict())
        expected = in_torch(optimizer, params, 4)
        params = torch_nets.torch_params(arrays)
        optimizer = LearnedOptimizer(params.values(), "lstm-mnist")
        if way == "torch.save":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        if way == "file":
            l2o_torch.load_state(tmp_path / "state.safetensors", optimizer)
        else:
            optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.7
    np.testing.assert_array_equal(in_torch(optimizer, params, 4), expected)


def test_a_loaded_state_dict_brings_its_weights():
    p = parameter(1.0, gradient=[0.1])
    saved = LearnedOptimizer([p], "lstm-quadratic").state_dict()
    q, r = parameter(1.0, gradient=[0.1]), parameter(1.0, gradient=[0.1])
    loaded = LearnedOptimizer([q], "lstm-mnist")
    loaded.step()
    loaded.load_state_dict(saved)
    with torch.no_grad():
        q.fill_(1.0)
    loaded.step()
    LearnedOptimizer([r], "lstm-quadratic").step()
    assert torch.equal(q, r)


@SHIPPED
def test_interrupted_in_one_framework_and_continued_in_the_other(name, tmp_path):
    """After a random number of steps, both directions."""
    path, cut = tmp_path / "state.safetensors", int(np.random.default_rng(5).integers(2, 9))
    with jax.enable_x64(True):
        rule, weights = both(name, np.float64)
        torch_nets.assert_it_goes_on_in_the_other(rule, weights, path, cut, 12)


def test_a_state_file_and_back_is_the_identity_through_both(tmp_path):
    """torch -> file -> JAX -> file -> torch, bit for bit."""
    params = torch_nets.torch_params(torch_nets.start(dtype=np.float32))
    optimizer = LearnedOptimizer(params.values(), "lstm-mnist")
    in_torch(optimizer, params, 3)
    before = [optimizer.state[p]["state"].clone() for p in params.values()]
    l2o_torch.save_state(tmp_path / "a.safetensors", optimizer)
    arrays = {k: jnp.asarray(p.detach().numpy()) for k, p in params.items()}
    state = states.load(tmp_path / "a.safetensors", l2o.load("lstm-mnist"), arrays)
    states.save(tmp_path / "b.safetensors", l2o.load("lstm-mnist"), state, arrays)
    l2o_torch.load_state(tmp_path / "b.safetensors", optimizer)
    for p, expected in zip(params.values(), before, strict=True):
        assert torch.equal(optimizer.state[p]["state"], expected)


def test_states_of_others_are_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    optimizer = LearnedOptimizer([parameter(1.0, 2.0, gradient=[0.1, 0.1])], "lstm-mnist")
    optimizer.step()
    l2o_torch.save_state(path, optimizer)
    with pytest.raises(ValueError, match=r"Group 0 in .* has arguments .*, the optimizer's"):
        l2o_torch.load_state(path, LearnedOptimizer([parameter(1.0, 2.0)], "lstm-quadratic"))
    with pytest.raises(ValueError, match=r"has shapes \[\[2\]\], the optimizer's \[\[3\]\]"):
        l2o_torch.load_state(path, LearnedOptimizer([parameter(1.0, 2.0, 3.0)], "lstm-mnist"))
    groups = [{"params": [parameter(1.0)]}, {"params": [parameter(2.0)]}]
    with pytest.raises(ValueError, match="holds 1 parameter groups, the optimizer has 2"):
        l2o_torch.load_state(path, LearnedOptimizer(groups, "lstm-mnist"))
    with pytest.raises(ValueError, match=r"has shapes \[\[2\]\], the optimizer and params \[\[3\]\]"):
        states.load(path, l2o.load("lstm-mnist"), jnp.zeros(3))
    with pytest.raises(ValueError, match="holds 1 parameter groups, and so no group 1"):
        states.load(path, l2o.load("lstm-mnist"), jnp.zeros(2), group=1)
    pretrained.save(path, tiny_lstm())
    with pytest.raises(ValueError, match=r"not of an optimizer's state saved by l2o \(format 'l2o-1'\)"):
        l2o_torch.load_state(path, optimizer)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        states.load(path, l2o.load("lstm-mnist"), jnp.zeros(2))
