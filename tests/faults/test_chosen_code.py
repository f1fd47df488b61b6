"""What a file says never chooses code, nor a place to read from."""

import inspect
import json
import re
import sys

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from fakes import tiny_lstm
from typer.testing import CliRunner

import l2o
from faults.weight_files import RECIPE, rewritten
from l2o.cli import _explain
from l2o.cli._app import app
from l2o.core import plugins
from l2o.io import hub
from l2o.optimizers import pretrained


def with_recipe(path, **recipe):
    return rewritten(path, recipe={**RECIPE, **recipe})


# ---- S1: what a file says never chooses code


@pytest.mark.parametrize("task", ["os:system", "builtins:exec", "canary:family", "nope", "../quadratic", "_one_task"])
def test_s1_a_header_never_chooses_code(saved, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(l2o, "use_all_cores", lambda cores: None)  # JAX has started long ago
    (tmp_path / "canary.py").write_text("open('fired', 'w')\n")
    with_recipe(saved, task=task, task_arguments={"command": "touch fired"})
    with pytest.raises(
        ValueError, match=rf"tiny\.safetensors was trained on {re.escape(task)}.*if you trust it, pass `--task {task}`"
    ):
        _explain.family_of(str(saved), None, None)
    done = CliRunner().invoke(app, ["explain", str(saved), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "canary" not in sys.modules
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary.py", "tiny.safetensors"]


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("quadratic", {"dim": "3"}, r"recipe\.task_arguments\.dim`: Expected `int`, got `str`"),
        ("quadratic", {"dim": 5000}, r"dim`: 5000 is larger than the 1,024 that .*--task quadratic --set dim="),
        ("quadratic", {"init_std": 1e300}, r"init_std`: 1e\+300 is larger"),
        ("quadratic", {"size": 3}, r"size`: the task quadratic takes dim, preset, init_std, condition"),
        ("quadratic", {"preset": "a/../b"}, r"preset`: 'a/\.\./b' is not a plain name"),
        ("quadratic", {"preset": "nope"}, r" says it .* cannot be made: No preset named 'nope'"),
        ("mlp", {"hidden": [5] * 17}, r"hidden`: a list of 17 entries, more than 16"),
        ("mlp", {"hidden": [1024] * 16, "data": "/etc/passwd"}, r"data`: '/etc/passwd' is not a plain name"),
        ("mlp", {"hidden": [2000]}, r"hidden`: 2000 is larger"),
        ("style", {"data": "../../x"}, r"data`: '\.\./\.\./x' is not a plain name"),
        ("transformer", {"width": 1024, "num_layers": 32}, r"cannot be made: a task of [\d,]+ bytes, more than the 268,435,456"),
        ("convnet", {"downscale": 0}, r"cannot be made: "),
    ],
)  # fmt: skip
def test_s1_a_headers_arguments_are_those_of_the_task_and_of_sane_sizes(saved, task, arguments, message):
    with_recipe(saved, task=task, task_arguments=arguments)
    with pytest.raises(ValueError, match=rf"tiny\.safetensors.*{message}"):
        _explain.family_of(str(saved), None, None)


def test_s1_what_the_user_passes_is_trusted_and_goes_before_the_header(saved):
    with_recipe(saved, task_arguments={"dim": 5000, "init_std": 0.5}, horizon=10**6)
    family, title, horizon = _explain.family_of(str(saved), None, ["dim=1500"], horizon=7)
    assert (title, horizon) == ("quadratic (init_std=0.5, dim=1500)", 7)
    assert jax.eval_shape(lambda: family(jax.random.key(0)).init(jax.random.key(0))).shape == (1500,)
    with pytest.raises(ValueError, match=r"`recipe.horizon`: runs of 1,000,000 steps; .* pass --horizon 1000000"):
        _explain.family_of(str(saved), None, ["dim=1500"])
    with_recipe(saved, task="os:system")
    assert _explain.family_of(str(saved), "quadratic", None)[1] == "quadratic"


@pytest.mark.parametrize("name", pretrained.names())
def test_s1_the_recipes_of_shipped_weights_pass(name):
    recipe = pretrained.header(name)["recipe"]
    parameters = inspect.signature(plugins.get("tasks", recipe["task"]).family).parameters
    assert set(recipe["task_arguments"]) <= set(parameters)
    if recipe["task"] == "quadratic":
        assert _explain.family_of(name, None, None)[1:] == ("quadratic", 100)


def test_s1_a_state_file_does_not_choose_weights_or_parts(tmp_path):
    torch = pytest.importorskip("torch")
    import l2o.torch as l2o_torch

    path = tmp_path / "state.safetensors"
    pair = l2o.Partitioned({"a": tiny_lstm(), "b": tiny_lstm(1)})

    def optimizer():
        groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "part": part} for part in ("a", "b")]
        return l2o_torch.LearnedOptimizer(groups, pretrained.as_dict(pair))

    l2o_torch.save_state(path, optimizer())
    l2o_torch.load_state(path, optimizer())
    with safetensors.safe_open(str(path), framework="numpy") as file:
        groups = json.loads(file.metadata()["groups"])
    for options, message in (
        ({"weights": "/etc/passwd"}, "no option of a parameter group is named 'weights'"),
        ({"params": 3}, "named 'params'"),
        ({"part": "b"}, "Group 0 in .* has part 'b', the optimizer's a"),
        ({"lr": -1}, "`lr` must be a number that is not negative, got -1"),
        ({"lr": "1"}, "`lr` must be a number that is not negative, got '1'"),
    ):
        changed = optimizer()
        rewritten(path, groups=[{**groups[0], "options": {**groups[0]["options"], **options}}, groups[1]])
        with pytest.raises(ValueError, match=message):
            l2o_torch.load_state(path, changed)
        assert [group["part"] for group in changed.param_groups] == ["a", "b"]
        assert not changed.state


def test_s1_names_of_pictures_and_texts_stay_in_their_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "data"))
    np.savez(tmp_path / "secret.npz", x_train=np.zeros((1, 4, 4, 3), np.uint8))
    (tmp_path / "secret.txt").write_text("secret")
    for name in ("../secret", str(tmp_path / "secret"), "", "..", "a\0b"):
        with pytest.raises(ValueError, match=r"is a path\. Pass NAME of NAME\.npz"):
            l2o.data.load_pictures(name)
        with pytest.raises(ValueError, match="No text named"):
            l2o.data.load_text(name)
    np.savez(tmp_path / "data" / "von München.npz", x_train=np.zeros((1, 4, 4, 3), np.uint8))
    assert l2o.data.load_pictures("von München").train.shape == (1, 4, 4, 3)


def test_s1_a_revision_is_no_path_out_of_the_hubs_cache():
    assert hub.is_repository("user/repo@refs/pr/1")
    assert hub.is_repository("user/repo.v2")
    for name in ("user/repo@../../x", "user/repo@/etc/passwd", "../repo", "user/..", "user/repo@-x", "user/repo@a..b"):
        assert not hub.is_repository(name), name
