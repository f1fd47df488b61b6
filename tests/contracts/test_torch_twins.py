"""What every PyTorch twin of an architecture must do: what the architecture does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.core import plugins
from l2o.optimizers import pretrained

torch = pytest.importorskip("torch")

from l2o.torch import _build  # noqa: E402 (after the check that there is one)

NUM = 7


# Rules on lists of tensors have other states, and tests of their own.
LISTWISE = {"momentum"}


@pytest.fixture(params=sorted(set(_build.names()) - LISTWISE))
def both(request):
    """An architecture as built by default, and the twin on its weights."""
    optimizer = plugins.get("optimizers", request.param).build(jax.random.key(0))
    weights = pretrained.as_dict(optimizer)
    arrays = {path: torch.tensor(array) for path, array in weights["arrays"].items()}
    return optimizer, _build.build({**weights, "arrays": arrays})


def test_every_architecture_that_ships_has_a_twin():
    def architectures(weights):  # a wrapper has those of what it wraps
        arguments = weights["arguments"]
        inside = [arguments["optimizer"]] if "optimizer" in arguments else [*arguments.get("parts", {}).values()]
        return set().union(*map(architectures, inside)) if inside else {weights["architecture"]}

    shipped = set().union(*(architectures(pretrained.header(name)) for name in pretrained.names()))
    assert shipped <= set(_build.names()) <= set(plugins.names("optimizers"))


def test_the_state_has_the_parts_of_the_architectures(both):
    optimizer, rule = both
    leaves = jax.tree_util.tree_leaves_with_path(optimizer.init_coordinates(NUM))
    expected = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    actual = rule.unpack(rule.init(NUM, torch.device("cpu")))
    assert set(actual) == set(expected)
    for path, part in actual.items():
        np.testing.assert_array_equal(part.numpy(), expected[path])
    packed = torch.arange(NUM * len(rule.init(1, torch.device("cpu"))), dtype=rule.dtype).reshape(-1, NUM)
    assert torch.equal(rule.pack(rule.unpack(packed)), packed)


def test_steps_and_states_are_the_architectures(both):
    optimizer, rule = both
    state, ours = optimizer.init_coordinates(NUM), rule.init(NUM, torch.device("cpu"))
    rng = np.random.default_rng(0)
    params = rng.normal(size=NUM).astype(np.float32)
    for magnitude in (1.0, 1e-3, 1e-6, 0.0, 1e3):  # all branches of any preprocessing
        gradient = (magnitude * rng.normal(size=NUM)).astype(np.float32)
        expected, state = optimizer.update_coordinates(jnp.asarray(gradient), state, jnp.asarray(params))
        actual = rule.update_(torch.tensor(gradient), ours, torch.tensor(params))
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-6)
    parts = rule.unpack(ours)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        np.testing.assert_allclose(parts[jax.tree_util.keystr(path)].numpy(), leaf, rtol=1e-4, atol=1e-6)


def test_it_does_not_change_what_it_is_given(both):
    _, rule = both
    gradient, params = torch.linspace(-1, 1, NUM), torch.ones(NUM)
    rule.update_(gradient, rule.init(NUM, torch.device("cpu")), params)
    assert torch.equal(gradient, torch.linspace(-1, 1, NUM))
    assert torch.equal(params, torch.ones(NUM))
