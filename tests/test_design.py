"""`l2o.design`: never worse than tuning, says so, goes on to the bit, and its result is a rule like any other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import assert_trees_equal

import l2o
from l2o import report
from l2o.evaluation.design import plan as planning
from l2o.evaluation.design import stages, tuned
from l2o.evaluation.design.journal import Journal
from l2o.evaluation.design.look import look, mean_curvatures
from l2o.evaluation.design.race import Entry, Race
from l2o.evaluation.design.result import Candidate, surely_better

KEY = jax.random.key(1)


def stretched(key):
    """Ten dimensions, of curvatures from 1 to 1,000: rates must fall, and momentum helps."""
    curvatures = jnp.logspace(0, 3, 10)
    return l2o.FunctionTask(
        lambda key: jnp.ones(10), lambda x, k: 0.5 * jnp.mean(curvatures * (x - jax.random.normal(key, (10,))) ** 2)
    )


def noisy(key):
    """Nothing can be won: the loss is noise about a constant, and its gradient is zero in the mean."""
    return l2o.FunctionTask(lambda key: jnp.ones(3), lambda x, k: 1.0 + 1e-3 * jax.random.normal(k, (3,)) @ jnp.tanh(x))


@pytest.fixture
def small(monkeypatch):
    """A plan for tests."""
    few = planning.Plan(2, planning.FINE, 4, 4, planning.Generations(5, 5, 5, 5, 5, 5), 32, 32)
    monkeypatch.setattr("l2o.evaluation.design.stages.plan", lambda *_: few)
    monkeypatch.setattr("l2o.evaluation.design.stages._LEAST_SECONDS", np.inf)  # no network
    monkeypatch.setattr("l2o.evaluation.design.stages._MOST_MORE", 8)


@pytest.fixture
def few_meta_steps(small, monkeypatch):
    """And a network, of eight meta-steps."""
    monkeypatch.setattr("l2o.evaluation.design.stages._LEAST_SECONDS", 0.0)
    monkeypatch.setattr("l2o.evaluation.design.network._MOST", 8)


@pytest.mark.slow
def test_it_beats_tuning_where_that_can_be_beaten(small, tmp_path):
    seen = []
    found = l2o.design(stretched, horizon=5, minutes=5, key=KEY, name="stretched", on_progress=seen.append)
    assert found.beats_tuning
    assert found.ratio.high < 1
    assert found.winner.mean == min(c.mean for c in found.candidates if not c.baseline)
    # On fresh tasks, which neither the search nor the race has seen: measured again by other means.
    test_keys = jax.random.split(jax.random.split(KEY)[1], 32)
    again = [run_once(found.optimizer, stretched, key, 5) for key in test_keys]
    np.testing.assert_allclose(found.winner.test, again, rtol=1e-3)
    assert [c.name for c in found.candidates if c.baseline] == ["nag"]  # in tuning Adam was far behind
    path = found.save(tmp_path / "mine.safetensors")
    assert_trees_equal(l2o.load(path, beyond=None), found.optimizer)
    assert l2o.pretrained.header(path)["recipe"]["horizon"] == 5
    assert seen[-1].seconds_left <= seen[0].seconds_left
    text, page = report.design_text(found), report.design_page(found)
    for words in (f"{found.ratio.value:.3g} times", str(found.baseline.optimizer), "32 fresh tasks", "update = "):
        assert words in text
    assert "<script" not in page


def test_curvatures_do_not_depend_on_units():
    rng = np.random.default_rng(0)
    hessians = np.stack([(a := rng.normal(size=(4, 4))) + a.T for _ in range(9)])
    units = np.array([1e3, 1.0, 1e-3, 1e-4])
    plain, scaled = mean_curvatures(hessians), mean_curvatures(hessians / units[:, None] / units)
    np.testing.assert_allclose(scaled * units**2, plain, rtol=1e-6)
    diagonal = np.array([4.0, 1.0, 0.5])
    np.testing.assert_allclose(mean_curvatures(np.diag(diagonal)[None]) / diagonal, np.full(3, 1 / 3))
    broken = np.concatenate([hessians, np.full((1, 4, 4), np.nan)])
    np.testing.assert_array_equal(mean_curvatures(broken), plain)
    np.testing.assert_array_equal(mean_curvatures(broken[-1:]), np.ones(4))


@pytest.mark.slow
@pytest.mark.slowest
def test_few_params_of_unlike_size_get_a_rate_each(small):
    """A minimum at 1,000 and one at 0.001, each known to a tenth: no one rate is right for both."""
    sizes = jnp.array([1e3, 1e-3])

    def family(key):
        there = 1 + 0.1 * jax.random.normal(key, (2,))
        return l2o.FunctionTask(lambda key: sizes, lambda x, key: jnp.sum((x / sizes - there) ** 2))

    found = l2o.design(family, horizon=10, minutes=5, key=KEY)
    rule = found.optimizer
    assert isinstance(rule, l2o.Preconditioned)
    assert found.ratio.high < 0.9
    rate, other = (float(s) for s in rule.log_factors[0])
    power = float(rule.optimizer.power)
    assert rate - other == pytest.approx((2 - 2 * power) * np.log(1e6), rel=0.3)  # as a change of units has it
    assert "multiplied by" in report.design_text(found)


@pytest.mark.slow
@pytest.mark.slowest
def test_a_network_takes_part_and_goes_on_to_the_bit(few_meta_steps, tmp_path):
    whole = l2o.design(stretched, horizon=10, minutes=5, key=KEY, folder=tmp_path / "whole")
    network = next(c for c in whole.candidates if c.name == "network")
    assert isinstance(network.optimizer, l2o.Preconditioned)  # of ten params, each with a factor
    assert isinstance(network.optimizer.optimizer, l2o.LSTM)
    assert np.isfinite(network.mean)
    for i, words in enumerate(("a network imitates", "step 5", "step 8", "racing")):
        folder = tmp_path / str(i)
        with pytest.raises(Killed):
            l2o.design(stretched, horizon=10, minutes=5, key=KEY, folder=folder, on_progress=kill_at(words, Killed))
        resumed = l2o.design(stretched, horizon=10, minutes=5, key=KEY, folder=folder, resume=True)
        again = next(c for c in resumed.candidates if c.name == "network")
        assert_trees_equal(again.optimizer, network.optimizer)
        assert_trees_equal(resumed.optimizer, whole.optimizer)


def run_once(rule, family, key, horizon):
    task, state, batch_key = l2o.begin(family, rule, key)
    state, _ = l2o.unroll(task, rule, state, batch_key, length=horizon)
    return task.loss(state.params, batch_key)


@pytest.mark.slow
@pytest.mark.slowest
def test_a_tuned_baseline_wins_where_nothing_beats_it(small):
    found = l2o.design(noisy, horizon=10, minutes=5, key=KEY)
    assert not found.beats_tuning
    assert found.winner.name == found.baseline.name
    assert found.ratio == (1.0, 1.0, 1.0)
    assert "nothing that was found beats it" in report.design_text(found)


@pytest.mark.slow
@pytest.mark.slowest
def test_it_goes_on_to_the_bit(small, tmp_path):
    whole = l2o.design(stretched, horizon=10, minutes=5, key=KEY, folder=tmp_path / "whole")
    for i, words in enumerate(("tuning adam", "tuning nag", "momentum from nag", "a rate for each", "racing", "fresh")):
        folder = tmp_path / str(i)
        with pytest.raises(Killed):
            l2o.design(stretched, horizon=10, minutes=5, key=KEY, folder=folder, on_progress=kill_at(words, Killed))
        resumed = l2o.design(stretched, horizon=10, minutes=5, key=KEY, folder=folder, resume=True)
        assert_trees_equal(resumed.optimizer, whole.optimizer)
        np.testing.assert_array_equal(resumed.winner.test, whole.winner.test)


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


def kill_at(words, error):
    def kill(progress):
        if words in progress.stage:
            raise error

    return kill


@pytest.mark.slow
@pytest.mark.slowest
def test_ctrl_c_ends_it_with_the_best_so_far(small):
    found = l2o.design(
        stretched, horizon=10, minutes=5, key=KEY, on_progress=kill_at("momentum from nag", KeyboardInterrupt)
    )
    assert not found.finished
    assert {c.name for c in found.candidates} <= {"adam", "nag", "momentum from adam"}
    assert {found.baseline.name, "momentum from adam"} <= {c.name for c in found.candidates}
    assert "interrupted" in report.design_text(found)
    with pytest.raises(KeyboardInterrupt):  # before there is anything to return
        l2o.design(stretched, horizon=10, minutes=5, key=KEY, on_progress=kill_at("looking", KeyboardInterrupt))


def test_only_what_is_better_beyond_doubt_beats_a_baseline():
    rng = np.random.default_rng(0)
    theirs = rng.uniform(1, 2, 64)
    candidate = lambda losses: Candidate("it", l2o.HandDesigned("adam", 10), False, losses)
    assert surely_better(candidate(0.9 * theirs), candidate(theirs))
    assert not surely_better(candidate(theirs * rng.uniform(0.8, 1.19, 64)), candidate(theirs))
    assert not surely_better(candidate(np.where(np.arange(64) == 3, np.inf, 0.1)), candidate(theirs))
    assert surely_better(candidate(theirs), candidate(np.where(np.arange(64) == 3, np.inf, theirs)))
    assert surely_better(candidate(theirs - 5), candidate(theirs - 4))  # losses that are negative


def test_a_grid_goes_on_beyond_its_edge():
    """A loss whose curvature is a millionth wants rates of a million."""
    flat = lambda key: l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, k: 1e-5 * jnp.sum(x**2))
    keys = jax.random.split(KEY, 4)
    found = tuned.tune_baseline("sgd", flat, keys, planning.FINE, horizon=5, num_evals=1, batch_size=4)
    assert found.rate > 1e3
    assert found.loss < 1e-6
    steep = lambda key: l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, k: 1e6 * jnp.sum(x**2))
    found = tuned.tune_baseline("sgd", steep, keys, planning.COARSE, horizon=5, num_evals=1, batch_size=4)
    assert found.rate < 1e-6
    assert found.loss < 1e6


def test_it_sees_what_a_family_is_like():
    seen = look(stretched, KEY)
    assert seen.deterministic
    assert seen.num_params == 10
    assert seen.num_evals == 1
    assert seen.labels == {"top": [""], "leaf": [""], "rank": ["rank 1"]}
    assert seen.real
    assert not look(noisy, KEY).deterministic
    with pytest.raises(ValueError, match="nothing to optimize"):
        look(lambda key: l2o.FunctionTask(lambda key: jnp.ones(2, int), lambda x, k: jnp.zeros(())), KEY)


@pytest.mark.parametrize("seconds", [60.0, 600.0, 3600.0])
@pytest.mark.parametrize("runs_a_second", [0.5, 10.0, 1e4])
def test_a_plan_fits_its_time(seconds, runs_a_second):
    made = planning.plan(seconds, runs_a_second, 1.0)
    assert 2 <= made.baselines <= 6
    assert made.validation_tasks >= (32 if seconds * runs_a_second >= 6000 else 4)
    assert made.test_tasks >= 32 or made.test_tasks == 4 * made.validation_tasks
    assert made.test_tasks % made.validation_tasks == 0
    runs = made.baselines * made.tuning_tasks * made.tuning.runs + sum(made.generations) * made.search_tasks * 12
    least = (
        2 * planning.COARSE.runs + 28 * 24
    )  # two baselines, and a few generations of few tasks, however short the time
    assert runs <= max(0.8 * seconds * runs_a_second, 1.5 * least)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"horizon": 0}, "horizon"),
        ({"minutes": 0.0}, "minutes"),
        ({"by": "hours"}, "steps, seconds"),
        ({"resume": True}, "folder"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_run(wrong, words):
    with pytest.raises(ValueError, match=words):
        l2o.design(stretched, key=KEY, **wrong)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda w: w["found"].update(plan=[10**9, *w["found"]["plan"][1:]]), r"plan\[0\]"),
        (lambda w: w["found"].update({"tuned adam": [-1.0, "cosine", 0.1, 3]}), r"tuned adam\[0\]"),
        (lambda w: w["found"].update({"tuned adam": [1.0, "__import__('os')", 0.1, 3]}), "tuned adam"),
        (lambda w: w["found"].update({"tuned adam": None}), "tuned adam"),
        (lambda w: w.update(found=3), "found"),
        (lambda w: w["started_with"].update(horizon="7"), "horizon"),
        (lambda w: w.clear(), "started_with"),
    ],
)
@pytest.mark.slow
@pytest.mark.slowest
def test_a_file_that_was_changed_is_refused(small, tmp_path, damage, words):
    with pytest.raises(Killed):
        l2o.design(stretched, horizon=3, minutes=5, key=KEY, folder=tmp_path, on_progress=kill_at("nag", Killed))
    written = json.loads((tmp_path / "design.json").read_text())
    damage(written)
    (tmp_path / "design.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=words):
        l2o.design(stretched, horizon=3, minutes=5, key=KEY, folder=tmp_path, resume=True)


def raced(**losses):
    """Who wins a race of rules whose losses on 32 tasks, and on 128 more, are known."""
    rules = {name: l2o.HandDesigned("sgd", 10, rate=i + 1.0) for i, name in enumerate(losses)}
    place = dict.fromkeys(losses, 0)

    def run(rule, keys):
        name = next(n for n, known in rules.items() if known is rule)
        place[name] += len(keys)
        return losses[name][place[name] - len(keys) : place[name]]

    race = Race(Journal(None, resume=False, settings={}), run, KEY, 32, None)
    candidates = race.run({n: Entry(rule, "", n == "baseline") for n, rule in rules.items()})
    winner, baseline = race.chosen(candidates)
    assert baseline.name == "baseline"
    return winner.name


def test_more_tasks_are_asked_where_the_first_leave_doubt():
    """A rule that is a tenth better in the mean, by ratios that vary by a third from task to task."""
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.5, 1.5, 160)
    ours = 0.9 * theirs * np.exp(0.33 * rng.normal(size=160) - 0.33**2 / 2)
    assert ours[:32].mean() < theirs[:32].mean()
    assert raced(baseline=theirs, ours=ours) == "ours"
    assert raced(baseline=ours, ours=theirs) == "baseline"


def test_a_rule_that_ruins_one_task_in_a_hundred_does_not_win():
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.5, 1.5, 160)
    ruinous = np.where(np.arange(160) == 100, 1e9, 0.1 * theirs)
    diverging = np.where(np.arange(160) == 40, np.inf, 0.2 * theirs)
    assert raced(baseline=theirs, ruinous=ruinous, diverging=diverging) == "baseline"
    assert raced(baseline=theirs, ruinous=ruinous, diverging=diverging, safe=0.7 * theirs) == "safe"


@pytest.mark.slow
@pytest.mark.slowest
def test_with_a_target_it_says_how_many_are_solved(small):
    """A loss of 0.3 is what a run of 20 steps may reach or not."""
    found = l2o.design(stretched, horizon=20, minutes=5, key=KEY, target=0.3)
    share = found.solved(found.winner)
    assert share.value == np.mean(found.winner.test <= 0.3)
    assert share.low < share.value <= share.high
    assert found.winner.mean <= found.baseline.mean
    text = report.design_text(found)
    assert f"has solved {100 * share.value:.3g} %" in text
    assert "share not solved" in report.design_page(found)


@pytest.mark.slow
@pytest.mark.slowest
def test_fresh_tasks_have_a_veto(small, monkeypatch):
    """One that is ruined on a fresh task, as no validation task told, is not the answer."""
    test_keys = jax.random.split(jax.random.split(KEY)[1], 32)
    losses = stages.Stages.losses

    def ruined(self, rule, keys, horizon=None):
        found = losses(self, rule, keys, horizon)
        fresh = bool((keys[0] == test_keys[0]).all()) if len(keys) == len(test_keys) else False
        return np.where(np.arange(len(found)) == 3, 1e9, found) if fresh and not is_baseline(rule) else found

    is_baseline = lambda rule: isinstance(rule, l2o.HandDesigned)
    monkeypatch.setattr(stages.Stages, "losses", ruined)
    found = l2o.design(stretched, horizon=5, minutes=5, key=KEY)
    assert not found.beats_tuning
    assert found.ratio == (1.0, 1.0, 1.0)
    assert "it would have won, but is worse on fresh tasks" in report.design_text(found)
