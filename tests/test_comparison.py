"""Comparisons: recorded, resumed, tuned by one budget, and summed up in numbers that can be checked by hand."""

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
from fakes import Descent, bowl, bowls, tiny_lstm

import l2o
from l2o.core.curves import Curves
from l2o.evaluation import analysis, comparison, costs, timing, tuning
from l2o.evaluation import records as results
from l2o.evaluation.costs import MetaTraining, StepCost
from l2o.evaluation.records import Comparison, Record
from l2o.evaluation.tuning import Search
from l2o.optimizers import pretrained

KEY = jax.random.key(0)
SMALL = {"key": KEY, "num_tasks": 3, "tune_tasks": 2, "search": Search(5), "measure_costs": False}


def noisy(key):
    """Minibatches: the loss depends on its key."""
    return l2o.FunctionTask(
        lambda key: jax.random.normal(key, (2,)), lambda x, key: jnp.sum(x**2) + jax.random.uniform(key)
    )


PANELS = {
    "bowl": l2o.Panel(lambda: bowl, 6, 9, "x^2"),
    "noisy/bowl": l2o.Panel(lambda: noisy, 6, 6, "x^2 and noise", window=2),
}


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


def test_grid_and_random_search():
    grid = Search(6, schedules=("constant", "cosine")).trials(KEY)
    assert len(grid.rate) == 6
    assert sorted(set(grid.schedule)) == [0, 1]
    np.testing.assert_allclose(np.unique(grid.rate), np.geomspace(1e-4, 10, 3))
    drawn = Search(200, "random", schedules=tuning.SCHEDULES, weight_decays=(1e-5, 1e-1)).trials(KEY)
    assert set(drawn.schedule) == {0, 1, 2}
    assert ((drawn.rate >= 1e-4) & (drawn.rate <= 10)).all()
    assert abs(np.mean(np.log10(drawn.rate)) + 1.5) < 0.3  # the middle of [-4, 1], standard error 0.1
    assert ((drawn.weight_decay >= 1e-5) & (drawn.weight_decay <= 1e-1)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "bayes"}, "`kind` must be grid or random, got 'bayes'"),
        ({"schedules": ("linear",)}, "No schedule named 'linear'. Schedules: constant, cosine, warmup_cosine"),
        ({"num_trials": 1, "schedules": ("constant", "cosine")}, "1 trials cannot cover 2 schedules"),
        ({"weight_decays": (1e-4, 1e-2)}, "Weight decay is searched at random only"),
        ({"rates": (1.0, 0.1)}, "`rates` must be two numbers, positive, finite and ascending"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Search(**arguments)


def test_schedules_are_those_of_optax():
    """Descent on a linear loss moves by the rate of each step."""

    def slope(key):
        return l2o.FunctionTask(lambda key: jnp.zeros(()), lambda x, key: x)

    search = Search(3, "random", schedules=tuning.SCHEDULES)
    expected = {
        "constant": lambda step: 1.0,
        "cosine": optax.cosine_decay_schedule(1.0, 20),
        "warmup_cosine": optax.warmup_cosine_decay_schedule(0.5, 1.0, 2, 20),
    }
    for index, name in enumerate(tuning.SCHEDULES):
        optimizer = search.make(l2o.baselines.get("sgd"), 20)(tuning.Trial(0.1, index, np.nan))
        curve = l2o.loss_curves(optimizer, slope, horizon=25, num_tasks=1, key=KEY)[0]
        rates = [0.1 * float(expected[name](step)) for step in range(25)]
        np.testing.assert_allclose(-np.diff(curve), rates, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "schedule_free_adam"])
def test_weight_decay_reaches_the_rules_that_have_it(name):
    search = Search(2, "random", weight_decays=(1e-3, 10.0))
    curves = []
    for decay in (0.0, 1.0):
        optimizer = search.make(l2o.baselines.get(name), 5)(tuning.Trial(0.1, 0, decay))
        curves.append(l2o.loss_curves(optimizer, bowls, horizon=5, num_tasks=1, key=KEY)[0, -1])
    assert curves[0] != curves[1]


def synthetic(**losses):
    """A comparison of one panel whose runs fall as 1 / (1 + rate * t), 10 seeds."""
    steps = np.arange(201)
    seeds = 1 + 0.05 * np.random.default_rng(0).normal(size=(10, 1))
    records = {
        name: Record(Curves(seeds / (1 + rate * steps[None]), {}), learned=name.startswith("learned"))
        for name, rate in losses.items()
    }
    panels = {"p": l2o.Panel(lambda: bowl, 100, 200, "made up")}
    return Comparison(panels, tuple(losses), {"p": records}, {"p": {}}, {}, {}, {})


def test_speed_up_and_break_even_by_hand():
    made_up = synthetic(learned=1.0, fast=0.5, slow=0.1)
    back = analysis.pay_back(made_up, "p", "learned")
    # 1 / (1 + 100) is reached by 1 / (1 + t / 2) at t = 200.
    assert (back.best, back.steps, back.speed_up) == ("fast", 200, 2.0)
    assert back.ratio == pytest.approx(51 / 101)
    assert back.against_tuning is None
    meta = MetaTraining(seconds=50.0, num_episodes=100.0, num_steps=10_000.0)
    prices = {"learned": StepCost(1.5, 1.0, 100, 10), "fast": StepCost(1.0, 0.1, 10, 10)}
    priced = made_up._replace(costs={"p": prices}, meta_training={"learned": meta})
    back = analysis.pay_back(priced, "p", "learned")
    assert back.against_tuned.steps == 10_000 / (200 - 100)
    assert back.against_tuned.seconds == pytest.approx(50 / (200 * 1e-3 - 100 * 1.5e-3))
    ours = costs.against_tuning(meta, *prices.values(), horizon=100, num_trials=11)
    assert ours.steps == 10_000 / (10 * 100)
    assert ours.seconds == pytest.approx(50 / (100 * (11 * 1e-3 - 1.5e-3)))


def test_what_is_never_reached_is_a_bound_and_what_loses_never_pays():
    out_of_reach = analysis.pay_back(synthetic(learned=10.0, slow=0.1), "p", "learned")
    assert out_of_reach.steps is None
    assert out_of_reach.speed_up == 2.0
    prices = {"learned": StepCost(1.0, 1.0, 1, 1), "fast": StepCost(1.0, 1.0, 1, 1)}
    meta = {"learned": MetaTraining(1.0, 1.0, 1.0)}
    loses = synthetic(learned=0.1, fast=1.0)._replace(costs={"p": prices}, meta_training=meta)
    assert analysis.pay_back(loses, "p", "learned").against_tuned == (np.inf, np.inf)


def test_overall_counts_wins_losses_and_divergence():
    made_up = synthetic(learned=1.0, learned_worse=0.2, fast=0.5)
    made_up.records["p"]["learned_bad"] = Record(Curves(np.full((10, 201), np.nan), {}), learned=True)
    table = analysis.overall(made_up)
    assert table["learned"].ratio.value == pytest.approx(51 / 101, rel=0.05)
    assert table["learned"].improvement.value == 1.0
    assert (table["learned"].num_won, table["learned"].num_lost) == (1, 0)
    assert (table["learned_worse"].num_won, table["learned_worse"].num_lost) == (0, 1)
    assert table["learned_bad"].num_diverged == 10
    assert table["learned_bad"].ratio.value == np.inf
    assert table["learned_bad"].num_lost == 1
    assert table["fast"].improvement is None


def test_tables_are_written_tidy(tmp_path, small):
    analysis.write_table(small, tmp_path)
    rows = json.loads((tmp_path / "table.json").read_text())
    assert {(r["panel"], r["optimizer"], r["step"]) for r in rows} == {
        (p, o, s) for p, steps in (("bowl", (6, 9)), ("noisy/bowl", (6,))) for o in small.records[p] for s in steps
    }
    header, first, *_ = (tmp_path / "table.csv").read_text().splitlines()
    assert header.startswith("panel,optimizer,learned,rate,")
    assert first.startswith("bowl,sgd,False,")


def test_costs_are_measured():
    measured = timing.step_costs({"sgd": optax.sgd(0.1), "adam": optax.adam(0.1)}, bowls, key=KEY, seconds=0.01)
    num = measured["adam"].num_params
    assert measured["sgd"].state_bytes == 0
    assert measured["adam"].state_bytes == 4 * (2 * num + 1)
    assert all(0 < c.ms_optimizer < 1000 and 0 < c.ms_step < 1000 for c in measured.values())


def test_the_evaluations_of_a_line_search_are_timed_on_true_gradients():
    """On a bowl L-BFGS tries one point a step; with anything but the gradient it would try none, or all that it may."""

    def family(key):
        def loss(x, key):
            jax.debug.callback(lambda: counted.append(1))
            return jnp.sum(x**2)

        return l2o.FunctionTask(lambda key: jnp.ones(3), loss)

    counted, num_steps = [], 5
    timing.step_costs(
        {"sgd": optax.sgd(0.1), "lbfgs": optax.lbfgs()}, family, key=KEY, num_steps=num_steps, seconds=1e-9
    )
    jax.effects_barrier()
    rounds = 5  # one while compiling, and four
    assert len(counted) == 3 * rounds * num_steps  # of the gradients alone; those of L-BFGS; and its searches


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
