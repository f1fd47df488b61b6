"""Saved weights: what goes into the file, and what is said of files that are not ours."""

import json
import socket
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from fakes import Descent, assert_trees_equal, bowl, bowls, tiny_lstm

import l2o
from l2o.core import scale
from l2o.evaluation import comparison
from l2o.optimizers import pretrained
from l2o.tasks import mlp, quadratic


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tiny.safetensors"
    pretrained.save(path, tiny_lstm(), recipe={"task": "quadratic", "seed": 3}, licence="MIT")
    return path


def test_the_header_has_the_whole_provenance(saved):
    header = pretrained.header(saved)
    assert header["architecture"] == "lstm"
    assert header["arguments"] == {"num_layers": 1, "num_units": 3, "preprocessing": 10.0, "output_scale": 0.1}
    assert header["recipe"] == {"task": "quadratic", "seed": 3}
    assert header["licence"] == "MIT"
    assert header["versions"]["jax"] == jax.__version__


def test_numpys_numbers_in_a_recipe_are_numbers(tmp_path):
    recipe = {"horizon": np.int64(5), "loss": np.float32(0.5), "scales": np.arange(2), "rate": jnp.asarray(2.0)}
    pretrained.save(tmp_path / "mine.safetensors", tiny_lstm(), recipe=recipe)
    header = pretrained.header(tmp_path / "mine.safetensors")
    assert header["recipe"] == {"horizon": 5, "loss": 0.5, "scales": [0, 1], "rate": 2.0}
    assert header["horizon"] == 5


def test_any_safetensors_reader_sees_arrays_by_their_path(saved):
    leaves = safetensors.numpy.load_file(saved)
    assert set(leaves) == {".cells[0].weight", ".cells[0].bias", ".readout", ".bias"}
    np.testing.assert_array_equal(leaves[".readout"], tiny_lstm().readout)


def test_arguments_that_are_not_the_defaults_come_back(tmp_path):
    optimizer = tiny_lstm(preset="raw", num_layers=2)
    pretrained.save(tmp_path / "raw.safetensors", optimizer)
    assert_trees_equal(l2o.load(tmp_path / "raw.safetensors"), optimizer)


def test_saving_leaves_nothing_else_behind(saved):
    assert [path.name for path in saved.parent.iterdir()] == ["tiny.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 100, -8], ids=lambda n: f"{n} bytes")
def test_a_truncated_file(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(
        ValueError, match=r"tiny\.safetensors is not a whole safetensors file .* truncated or of another"
    ):
        l2o.load(saved)


def test_a_garbage_file(tmp_path):
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(ValueError, match=r"garbage\.safetensors is not a whole safetensors file"):
        l2o.load(path)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        pretrained.header(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_that_is_not_ours(tmp_path, metadata):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"weight": np.ones(3)}, path, metadata)
    with pytest.raises(ValueError, match=r"not of a learned optimizer saved by l2o \(format (None|'pt')\)"):
        l2o.load(path)


def test_an_architecture_we_do_not_have(saved, tmp_path):
    with safetensors.safe_open(str(saved), framework="numpy") as file:
        header = {**file.metadata(), "architecture": "os"}
    path = tmp_path / "unknown.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(saved), path, header)
    with pytest.raises(ValueError, match=r"No optimizer named 'os'\. Optimizers: .*lstm"):
        l2o.load(path)


def test_arrays_that_do_not_fit_the_arguments(saved, tmp_path):
    with safetensors.safe_open(str(saved), framework="numpy") as file:
        header = {**file.metadata(), "arguments": json.dumps({"num_layers": 1, "num_units": 4})}
    path = tmp_path / "wrong.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(saved), path, header)
    with pytest.raises(ValueError, match=r"\(leaf .cells\[0\].weight: \(12, 5\) vs \(16, 6\)\)"):
        l2o.load(path)


def test_another_size_than_asked_for(saved):
    message = (
        r"tiny\.safetensors are for 'lstm' with arguments .*'num_units': 3.* \(leaf \.cells\[0\]\.weight: \(12, 5\) vs"
    )
    with pytest.raises(ValueError, match=message):
        l2o.load(saved, like=tiny_lstm(num_units=4))


def test_more_layers_than_there_are(saved):
    with pytest.raises(ValueError, match=r"\(leaf \.cells\[1\]\.weight: nothing vs \(12, 6\)\)"):
        l2o.load(saved, like=tiny_lstm(num_layers=2))


def test_other_constants_than_asked_for(saved):
    """The arrays would fit, but weights trained for one output scale are wrong for another."""
    with pytest.raises(ValueError, match=r"asked for \(output_scale: 0\.1 vs 0\.5\)"):
        l2o.load(saved, like=tiny_lstm(output_scale=0.5))


def test_names_and_paths_that_do_not_exist(tmp_path):
    with pytest.raises(
        ValueError, match=r"No pretrained optimizer named 'nope'\. Shipped: .*; or pass a file's path\."
    ):
        l2o.load("nope")
    with pytest.raises(ValueError, match=r"No pretrained optimizer named 'nope'"):
        pretrained.describe("nope")
    with pytest.raises(ValueError, match=r"No weights file at .*nope\.safetensors\. Shipped optimizers:"):
        l2o.load(tmp_path / "nope.safetensors")


def test_only_architectures_of_the_package_are_made_from_a_file(tmp_path):
    pretrained.save(tmp_path / "mine.safetensors", Descent(jnp.zeros(())))
    with pytest.raises(ValueError, match="of a class of your own, fakes:Descent"):
        l2o.load(tmp_path / "mine.safetensors")


def test_saving_where_one_cannot(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write to .*file"):
        pretrained.save(tmp_path / "file" / "it.safetensors", tiny_lstm())


@pytest.mark.parametrize("name", pretrained.names())
def test_every_shipped_optimizer_loads_works_and_says_where_it_is_from(name):
    optimizer = l2o.load(name)
    parts = optimizer.parts if isinstance(optimizer, l2o.Partitioned) else ["all"]  # a leaf for each
    task = l2o.FunctionTask(
        lambda key: dict.fromkeys(parts, jnp.ones(2)), lambda p, key: optax.tree.norm(p, squared=True)
    )
    curves = l2o.loss_curves(optimizer, lambda key: task, horizon=3, num_tasks=2, key=jax.random.key(0))
    assert np.isfinite(curves).all()
    header = pretrained.header(name)
    assert header["recipe"]
    assert header["licence"]
    card = pretrained.describe(name)
    assert card.startswith("#")
    assert len(card) > 200


def test_a_folder_with_one_weights_file(saved):
    assert_trees_equal(l2o.load(saved.parent), tiny_lstm())
    assert_trees_equal(l2o.load(str(saved.parent)), tiny_lstm())
    pretrained.save(saved.parent / "second.safetensors", tiny_lstm())
    with pytest.raises(
        ValueError, match=r"must be one weights file .* found: second\.safetensors, tiny\.safetensors\. Pass"
    ):
        l2o.load(saved.parent)
    (saved.parent / "empty").mkdir()
    with pytest.raises(ValueError, match=r"found: none\."):
        l2o.load(saved.parent / "empty")


def test_neither_folder_nor_file_hides_a_shipped_name(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    (saved.parent / "lstm-mnist").mkdir()
    saved.rename("lstm-quadratic")
    assert l2o.load("lstm-mnist").num_units == 20
    assert l2o.load("lstm-quadratic").num_units == 20
    assert l2o.load("./lstm-quadratic").num_units == 3


@pytest.fixture
def hub(saved, monkeypatch):
    """A Hugging Face Hub with one repository, whose snapshots are the folder of `saved`."""
    asked = []

    def snapshot_download(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        if repo_id != "someone/tiny":
            raise OSError("404")
        return str(saved.parent)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    return asked


def test_a_repository_of_the_hub(hub):
    assert_trees_equal(l2o.load("someone/tiny"), tiny_lstm())
    assert_trees_equal(l2o.load("someone/tiny@v1"), tiny_lstm())
    assert hub == [("someone/tiny", revision, ["*.safetensors", "*.md"]) for revision in (None, "v1")]
    with pytest.raises(ValueError, match=r"no file or folder 'someone/else' here, .* \(OSError: 404\)"):
        l2o.load("someone/else")


def test_the_card_is_beside_the_weights(hub, saved):
    with pytest.raises(ValueError, match=r"no card beside .*tiny\.safetensors: neither tiny\.md nor README\.md"):
        pretrained.describe(saved)
    (saved.parent / "README.md").write_text("# The repository")
    assert pretrained.describe(saved) == pretrained.describe("someone/tiny") == "# The repository"
    saved.with_suffix(".md").write_text("# Tiny")
    assert pretrained.describe(saved.parent) == pretrained.describe("someone/tiny@v1") == "# Tiny"


def test_a_path_here_is_not_looked_for_on_the_hub(hub, saved, monkeypatch):
    monkeypatch.chdir(saved.parent.parent)
    assert_trees_equal(l2o.load(f"{saved.parent.name}/tiny.safetensors"), tiny_lstm())
    assert_trees_equal(l2o.load(f"{saved.parent.name}/."), tiny_lstm())
    with pytest.raises(ValueError, match="No weights file at"):
        l2o.load("someone/nope.safetensors")
    assert hub == []


def test_without_the_extra_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"no file or folder 'someone/tiny' here, .*pip install 'l2o\[hub\]'"):
        l2o.load("someone/tiny")


def test_a_shipped_name_never_touches_the_network(hub, monkeypatch):
    def blocked(*arguments, **keywords):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", blocked)
    monkeypatch.setattr(socket, "create_connection", blocked)
    for name in pretrained.names():
        l2o.load(name)
        pretrained.describe(name)
        comparison.check_name(name)
    comparison.check_name("adam")
    assert hub == []


def test_weights_that_do_not_say_their_horizon_are_not_warned_of(saved, recwarn):
    l2o.load(saved, horizon=10_000)
    assert not recwarn.list


def test_the_scale_of_its_gradients_is_measured_on_its_family(tmp_path):
    """x^2 from 3, and an optimizer that stays there: a gradient of 6 at every step."""
    still = eqx.tree_at(lambda o: (o.readout, o.bias), tiny_lstm(), (jnp.zeros(3), jnp.zeros(())))
    path = tmp_path / "still.safetensors"
    pretrained.save(path, still, recipe={"horizon": 4}, family=lambda key: bowl(start=3.0))
    expected = {"start": [6.0] * 3, "run": [6.0] * 3, "num_params": 1, "num_tasks": 16}
    assert pretrained.header(path)["scale"] == expected
    moving = eqx.tree_at(lambda o: o.bias, still, jnp.asarray(-10.0))  # 3, 2, 1, 0, -1
    found = scale.gradient_scale(moving, lambda key: bowl(start=3.0), horizon=5)
    np.testing.assert_allclose(found["run"], [0.0, 2.0, 6.0], atol=1e-5)
    found = scale.gradient_scale(still, bowls, horizon=1, key=jax.random.key(3))
    assert found["start"][0] < found["start"][1] < found["start"][2]
    assert found["num_params"] == 2


def test_a_scale_needs_a_horizon_and_finite_gradients(tmp_path):
    with pytest.raises(ValueError, match="the recipe must say for how many steps"):
        pretrained.save(tmp_path / "it.safetensors", tiny_lstm(), family=bowls)
    nowhere = l2o.FunctionTask(lambda key: jnp.zeros(2), lambda x, key: jnp.sum(jnp.sqrt(x)))
    with pytest.raises(ValueError, match="not finite at the start of any of 16 tasks"):
        pretrained.save(tmp_path / "it.safetensors", tiny_lstm(), recipe={"horizon": 2}, family=lambda key: nowhere)
    assert not list(tmp_path.iterdir())


RESCALED = [name for name in pretrained.names() if pretrained.header(name)["architecture"] == "rescaled"]


@pytest.mark.parametrize("name", sorted({*pretrained.names()} - {*RESCALED}))
def test_use_on_gradients_far_from_those_of_its_training_is_warned_of(name, recwarn):
    told = pretrained.header(name)
    low, middle, high = told["scale"]["start"]
    assert low < middle < high
    gradients = {"w": jnp.full((3, 2), middle), "b": -jnp.full(3, middle)}
    l2o.load(name, gradients=gradients)
    for ignored in (0.0, jnp.nan, jnp.inf):
        l2o.load(name, gradients=jnp.full(2, ignored))
    assert not recwarn.list
    match = rf"{name} was meta-trained on gradients .* {low:.2g} to {high:.2g} at .* Multiply the loss by about 1e-06,"
    with pytest.warns(UserWarning, match=match):
        l2o.load(name, gradients=jax.tree.map(lambda g: 1e6 * g, gradients))
    with pytest.warns(UserWarning, match=r"Multiply the loss by about 1e\+06"):
        pretrained.check(name, gradients=jax.tree.map(lambda g: 1e-6 * g, gradients))
    with pytest.raises(ValueError, match=r"Inside `jit` gradients have no values to be checked"):
        jax.jit(lambda g: pretrained.check(name, gradients=g))(gradients)


def test_gradients_of_all_sizes_are_the_same_to_a_rescaled_one(recwarn):
    assert RESCALED == ["lstm-style"]
    l2o.load("lstm-style", gradients=jnp.full(2, 1e9))
    assert not recwarn.list


def test_at_its_home_no_shipped_optimizer_warns(recwarn):
    for name, family in (("lstm-quadratic", quadratic.family()), ("lstm-mnist", mlp.family())):
        pretrained._weights.warn_of_scale(
            name,
            pretrained.header(name)["scale"],
            float(scale.at_start(family, jax.random.split(jax.random.key(9), 1))[0]),
        )
    assert not recwarn.list


def test_weights_that_do_not_know_their_scale_are_not_warned_of(saved, recwarn):
    l2o.load(saved, gradients=jnp.full(2, 1e30))
    assert not recwarn.list
