"""A comparison runs what it says, records all of it, and goes on where it was stopped."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparisons import PANELS, SMALL, noisy
from fakes import Descent, bowl, tiny_lstm

import l2o
from l2o.evaluation import analysis, comparison
from l2o.evaluation import records as results
from l2o.evaluation.tuning import Search
from l2o.optimizers import pretrained

KEY = jax.random.key(0)


def numbers(result):
    """Everything that is not a time."""
    return [{k: v for k, v in row.items() if not k.startswith("ms_")} for row in analysis.all_rows(result)]


@pytest.fixture(scope="module")
def small():
    return comparison.compare(PANELS, {"sgd": "sgd", "adam": "adam", "learned": Descent(jnp.log(0.3))}, **SMALL)


def test_baselines_run_as_they_would_alone(small):
    """In one program for all of them: the same choice, and the same curves."""
    tune_key, test_key = jax.random.split(KEY)
    for name in ("sgd", "adam"):
        make = l2o.baselines.get(name).make
        record = small.records["noisy/bowl"][name]
        grid = np.geomspace(1e-4, 10, 5)
        alone = l2o.tune(make, grid, noisy, horizon=6, num_tasks=2, key=tune_key, final_steps=2)
        assert record.tuned.rate == alone.value
        np.testing.assert_allclose(record.tuned.losses, alone.losses, rtol=1e-5)
        curves = l2o.loss_curves(make(alone.value), noisy, horizon=6, num_tasks=3, key=test_key)
        np.testing.assert_allclose(record.curves.losses, curves, rtol=1e-5)


def test_a_learned_optimizer_and_an_optax_one_are_taken_as_they_are(small):
    assert small.records["bowl"]["learned"].learned
    assert small.records["bowl"]["learned"].tuned is None
    np.testing.assert_allclose(small.records["bowl"]["learned"].curves.losses[0], 0.4 ** (2 * np.arange(10)), rtol=1e-4)
    fixed = comparison.compare({"bowl": PANELS["bowl"]}, {"mine": optax.sgd(0.3)}, **SMALL).records["bowl"]["mine"]
    assert not fixed.learned
    assert fixed.tuned is None


def test_recorded_is_what_was_run(small, tmp_path):
    optimizers = {"sgd": "sgd", "adam": "adam", "learned": Descent(jnp.log(0.3))}
    recorded = comparison.compare(PANELS, optimizers, folder=tmp_path, **SMALL)
    loaded = results.load(tmp_path)
    assert numbers(small) == numbers(recorded) == numbers(loaded)
    assert loaded.panels.keys() == PANELS.keys()
    with pytest.raises(ValueError, match="loaded from its records"):
        loaded.panels["bowl"].make()


def test_reports_on_the_keys_it_is_given(small, tmp_path):
    """Other keys than those drawn: tuned alike, run on these, and recorded, so that resuming with others is refused."""
    keys = jax.random.split(jax.random.split(KEY)[1], 3)[::-1]
    found = comparison.compare(PANELS, ["sgd"], test_keys=keys, folder=tmp_path, **SMALL)
    for panel, records in found.records.items():
        np.testing.assert_array_equal(records["sgd"].curves.losses, small.records[panel]["sgd"].curves.losses[::-1])
    again = comparison.compare(PANELS, ["sgd"], test_keys=keys[:2], **SMALL)
    assert again.settings["num_tasks"] == len(again.records["bowl"]["sgd"].curves.losses) == 2
    with pytest.raises(ValueError, match="test_keys"):
        comparison.compare(PANELS, ["sgd"], folder=tmp_path, resume=True, **SMALL)


def test_resuming_runs_only_what_is_new(tmp_path, small):
    done = []
    options = SMALL | {"folder": tmp_path, "on_done": lambda *cell: done.append(cell[:2])}
    comparison.compare({"bowl": PANELS["bowl"]}, ["sgd", "adam"], **options)
    assert done == [("bowl", "sgd"), ("bowl", "adam")]
    done.clear()
    more = {"sgd": "sgd", "adam": "adam", "learned": Descent(jnp.log(0.3))}
    result = comparison.compare(PANELS, more, resume=True, **options)
    assert len(done) == 4
    assert not {("bowl", "sgd"), ("bowl", "adam")} & set(done)
    assert numbers(result) == numbers(small)
    done.clear()
    comparison.compare(PANELS, more, resume=True, **options)
    assert done == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tasks": 4}, "made with other settings: num_tasks is 3 there, 4 here"),
        ({"search": Search(6)}, "made with other settings: search is"),
        ({"panels": {"bowl": PANELS["bowl"]._replace(horizon=5)}}, "made with other bowl: horizon is 6 there, 5 here"),
        ({"optimizers": {"sgd": Descent(jnp.zeros(()))}}, "made with other sgd: learned is False there, True here"),
    ],
)
def test_another_comparison_is_not_resumed(tmp_path, change, message):
    arguments = {"panels": {"bowl": PANELS["bowl"]}, "optimizers": ["sgd"], "folder": tmp_path, **SMALL}
    comparison.compare(**arguments)
    before = (tmp_path / "comparison.json").read_text()
    with pytest.raises(ValueError, match=message):
        comparison.compare(resume=True, **arguments | change)
    with pytest.raises(FileExistsError, match="already holds a comparison"):
        comparison.compare(**arguments)
    assert (tmp_path / "comparison.json").read_text() == before


def test_what_cannot_be_resumed_or_loaded_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no comparison to resume"):
        comparison.compare(PANELS, ["sgd"], folder=tmp_path, resume=True, **SMALL)
    with pytest.raises(FileNotFoundError, match=r"holds no comparison \(no comparison.json\)"):
        results.load(tmp_path)
    with pytest.raises(ValueError, match=r"No optimizer named 'nope'\. Pretrained: lstm-cifar"):
        comparison.compare(PANELS, ["nope"], **SMALL)


def test_weights_far_from_their_scale_are_warned_of_on_the_panels_where_they_are(tmp_path):
    """Once for each panel, before anything is run, and not again for what is already there."""
    path = tmp_path / "tiny.safetensors"
    pretrained.save(path, tiny_lstm(), recipe={"horizon": 3}, family=bowl)  # a gradient of 2
    steep = l2o.Panel(lambda: lambda key: bowl(start=1e4), 3, 3, "x^2 from far away")
    panels = {"home": l2o.Panel(lambda: bowl, 3, 3, "x^2"), "steep": steep}
    options = {**SMALL, "folder": tmp_path / "comparison"}
    with pytest.warns(UserWarning, match="was meta-trained on gradients") as caught:
        comparison.compare(panels, {"tiny": path, "sgd": "sgd"}, **options)
    assert [str(w.message).split(" was ")[0] for w in caught] == ["tiny (on steep)"]
    assert "of 2 to 2 at the start of a run, and is used on 2e+04" in str(caught[0].message)
    comparison.compare(panels, {"tiny": path, "sgd": "sgd"}, resume=True, **options)


def test_w11_weights_judged_beyond_their_horizon_are_warned_of(tmp_path):
    path = tmp_path / "tiny.safetensors"
    pretrained.save(path, tiny_lstm(), recipe={"horizon": 2})
    panels = {"short": l2o.Panel(lambda: bowl, 2, 6, "x^2"), "long": l2o.Panel(lambda: bowl, 3, 6, "x^2")}
    with pytest.warns(UserWarning, match=r"tiny \(on long\) was meta-trained on runs of 2 steps") as caught:
        found = comparison.compare(panels, {"tiny": path, "sgd": "sgd"}, **SMALL)
    assert len(caught) == 1
    losses = found.records["short"]["tiny"].curves.losses
    np.testing.assert_array_equal(losses[:, 3:], np.broadcast_to(losses[:, 2:3], (len(losses), 4)))


def test_names_are_those_that_load_takes(tmp_path, monkeypatch):
    """Files, folders and repositories of the Hub, which is asked for nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    pretrained.save("folder/tiny.safetensors", tiny_lstm())
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append(repo_id)
        if repo_id != "someone/tiny":
            raise OSError("404")
        return str(tmp_path / "folder")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    for name in ("adam", "lstm-mnist", "folder", "./folder", "folder/tiny.safetensors"):
        comparison.check_name(name)
    with pytest.raises(
        ValueError, match=r"No optimizer named 'nope'.*Or pass a weights file, a folder with one, or user/repo"
    ):
        comparison.check_name("nope")
    with pytest.raises(ValueError, match=r"No weights file at nope\.safetensors"):
        comparison.check_name("nope.safetensors")
    assert asked == []
    comparison.check_name("someone/tiny")
    with pytest.raises(ValueError, match=r"no file or folder 'someone/else' here, .* \(OSError: 404\)"):
        comparison.check_name("someone/else")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'l2o\[hub\]'"):
        comparison.check_name("someone/tiny")


def test_a_line_search_is_left_out_where_minibatches_would_mislead_it():
    result = comparison.compare(PANELS, ["lbfgs"], **SMALL)
    assert "needs a deterministic loss" in result.left_out["noisy/bowl"]["lbfgs"]
    assert "lbfgs" in result.records["bowl"]
    with pytest.raises(ValueError, match=r"lbfgs needs a deterministic loss.*Leave it out"):
        comparison.compare({"noisy": PANELS["noisy/bowl"]}, ["lbfgs", "sgd"], **SMALL)


def test_an_optimizer_whose_parts_do_not_fit_is_left_out(tmp_path):
    pair = l2o.Partitioned({"a": tiny_lstm(), "b": tiny_lstm(1)})
    fitting = l2o.FunctionTask(lambda key: {"a": jnp.ones(2), "b": jnp.ones(3)}, lambda p, key: jnp.sum(p["a"] ** 2))
    panels = {"bowl": PANELS["bowl"], "pair": PANELS["bowl"]._replace(make=lambda: lambda key: fitting)}
    result = comparison.compare(panels, {"pair": pair, "sgd": "sgd"}, folder=tmp_path, **SMALL)
    assert "refuses these params: The params' leaves are named" in result.left_out["bowl"]["pair"]
    assert set(result.records["bowl"]) == {"sgd"}
    assert set(result.records["pair"]) == {"pair", "sgd"}
    again = comparison.compare(panels, ["sgd"], folder=tmp_path, resume=True, **SMALL)
    assert again.left_out["bowl"] == {}
    assert results.load(tmp_path).left_out == result.left_out
    with pytest.raises(ValueError, match=r"pair refuses these params: .*Leave it out"):
        comparison.compare({"bowl": PANELS["bowl"]}, {"pair": pair, "sgd": "sgd"}, **SMALL)


def test_a_panel_is_compiled_once_for_all_its_baselines(caplog):
    jax.config.update("jax_log_compiles", True)  # the context manager does not reach other threads
    try:
        with caplog.at_level(logging.WARNING):
            comparison.compare({"bowl": PANELS["bowl"]}, ["sgd", "nag", "adam", "lion"], **SMALL)
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = [r for r in caplog.records if "Finished XLA compilation of jit(_cell)" in r.getMessage()]
    assert len(compiled) == 1


def test_an_error_stops_the_rest_and_says_where(tmp_path):
    class Broken(Descent):
        def update(self, updates, state, params=None, **extra):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError) as raised:
        comparison.compare({"bowl": PANELS["bowl"]}, {"broken": Broken(jnp.zeros(()))}, **SMALL)
    assert raised.value.__notes__[-1] == "while running broken on bowl"


@pytest.mark.slowest
@pytest.mark.slow
def test_killed_at_random_and_resumed_gives_the_same_table(tmp_path):
    """SIGKILL, twice, at moments that depend on the machine; then to the end. Times differ, all else is equal."""
    script = Path(__file__).with_name("killable_comparison.py")
    seconds = np.random.default_rng(int.from_bytes(os.urandom(4))).uniform(0.5, 4.0, 2)
    folder = tmp_path / "killed"
    for wait in seconds:
        process = subprocess.Popen([sys.executable, script, folder])
        started = time.monotonic()
        while process.poll() is None and not (folder / "comparison.json").exists() and time.monotonic() - started < 60:
            time.sleep(0.05)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for path in (folder, tmp_path / "whole"):
        subprocess.run([sys.executable, script, path], check=True)
    killed, whole = (numbers(results.load(path)) for path in (folder, tmp_path / "whole"))
    assert json.dumps(killed) == json.dumps(whole)
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(
    ("panels", "optimizers", "options", "message"),
    [
        ({}, ("adam",), {}, "needs panels and optimizers, got 0 and 1"),
        ({"x": l2o.Panel(lambda: bowl, 2, 2, "x^2")}, (), {}, "needs panels and optimizers, got 1 and 0"),
        ({"x": l2o.Panel(lambda: bowl, 0, 2, "x^2")}, ("adam",), {}, "got horizon=0, run_to=2"),
        ({"x": l2o.Panel(lambda: bowl, 2, 2, "x^2")}, ("adam",), {"num_tasks": 0}, "`num_tasks` must be at least 1"),
        ({"x": l2o.Panel(lambda: bowl, 2, 2, "x^2")}, ("adam",), {"tune_tasks": -1}, "`tune_tasks` must be at least 1"),
    ],
)
def test_b10_what_makes_no_comparison_is_refused(panels, optimizers, options, message):
    with pytest.raises(ValueError, match=message):
        comparison.compare(panels, optimizers, key=jax.random.key(0), **options)
