"""Parts of experiments/ that learned optimizers are set beside: teachers, the search for them, and scheduled baselines."""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_close
from jax.flatten_util import ravel_pytree

from l2o.tasks import quadratic

KEY = jax.random.key(0)
EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def load():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        yield importlib.import_module


def moved(rule, gradients, params):
    """The updates of a rule along these gradients."""
    state, updates = rule.init(params), []
    for gradient in gradients:
        update, state = rule.update(gradient, state, params)
        updates.append(update)
    return updates


def test_a_scheduled_baseline_of_equal_constant_rates_is_optax_own(load):
    baselines = load("_baselines")
    params = {"hidden": jnp.ones(3), "output": jnp.ones(2)}
    gradients = [jax.tree.map(lambda x, i=i: (i + 1.0) * x, params) for i in range(4)]
    trial = {"rates": {"hidden": 0.1, "output": 0.1}, "schedule": 0, "momentum": 0.9}
    for rule, own in {"adam": optax.adam(0.1), "nag": optax.sgd(0.1, momentum=0.9, nesterov=True)}.items():
        built = moved(baselines.make(rule, trial, 10), gradients, params)
        assert_trees_close(built, moved(own, gradients, params), rtol=1e-6, atol=0)


def test_each_group_has_its_rate_and_the_schedule_ends_at_the_horizon(load):
    baselines = load("_baselines")
    params = {"hidden": jnp.ones(3), "output": jnp.ones(3)}
    trial = {"rates": {"hidden": 0.2, "output": 0.1}, "schedule": 1, "momentum": 0.9}
    updates = moved(baselines.make("adam", trial, 4), [params] * 5, params)
    for t, update in enumerate(updates):  # Adam's step along a constant gradient is its rate
        np.testing.assert_allclose(update["hidden"], 2 * update["output"], rtol=1e-6)
        np.testing.assert_allclose(-update["output"], 0.05 * (1 + np.cos(np.pi * t / 4)), atol=1e-6)


def test_settings_are_drawn_within_their_ranges_for_each_group_by_itself(load):
    drawn = load("_baselines").trials(KEY, 200, ("conv", "dense"), (1e-3, 1e-1), (0.5, 0.9))
    rates = np.array([*drawn["rates"].values()])
    assert rates.min() >= 1e-3
    assert rates.max() <= 1e-1
    assert abs(np.corrcoef(np.log(rates))[0, 1]) < 0.25  # 3.5 standard errors
    assert set(drawn["momentum"]) == {0.5, 0.9}
    assert set(drawn["schedule"]) == {0, 1, 2}


def test_a_teacher_with_no_normalisation_is_nesterov_momentum(load):
    rule = load("_teacher").momentum(lambda t: 0.1, b1=0.9, b2=0.9, eps=0.0, power=0.0)
    gradients = [jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0]), jnp.array([-1.0, 3.0])]
    m = jnp.zeros(2)
    for t, (g, update) in enumerate(zip(gradients, moved(rule, gradients, jnp.zeros(2)), strict=True), start=1):
        m = 0.9 * m + 0.1 * g
        np.testing.assert_allclose(update, -0.1 * (0.9 * m + 0.1 * g) / (1 - 0.9**t), rtol=1e-5)


def test_constants_are_what_they_were_encoded_from(load):
    search = load("search_teacher")
    for problem in search.PROBLEMS.values():
        start = jax.tree.map(jnp.asarray, problem.start)
        assert_trees_close(search.decode(search.encode(start)), start, rtol=1e-4, atol=1e-9)


@pytest.fixture
def small(load):
    """The search for an annealed rule on two-dimensional quadratics."""
    search = load("search_teacher")
    problem = search.PROBLEMS["quadratic"]._replace(num_seeds=2)
    nets = {"two dimensions": search.Net(quadratic.family(dim=2), {5: 1.0})}
    start, unravel = ravel_pytree(search.encode(jax.tree.map(jnp.asarray, problem.start)))
    return search, problem, nets, start, unravel


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(small, tmp_path):
    search, problem, nets, start, unravel = small
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    options = {"seed": 0}
    at_once = search.evolve(problem, nets, start, unravel, KEY, num_populations=3, folder=whole, **options)
    search.evolve(problem, nets, start, unravel, KEY, num_populations=2, folder=parts, **options)
    assert_trees_close(
        search.evolve(problem, nets, start, unravel, KEY, num_populations=3, folder=parts, **options), at_once, rtol=0
    )
    scores = np.load(whole / "scores.npz")["scores"]
    assert scores.shape == (3, search.POPULATION)


@pytest.mark.slowest
@pytest.mark.slow
def test_descent_goes_along_the_slope_of_whole_runs(small, tmp_path):
    search, problem, nets, start, unravel = small
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 2)

    def score(x):
        rule = problem.build(search.decode(unravel(x)))
        return search.score(
            jnp.stack([search.losses(rule, nets["two dimensions"], k, problem.window) for k in keys]),
            nets["two dimensions"],
        )

    reached = search.descend(problem, nets, start, unravel, KEY, num_steps=1, rate=0.01, folder=tmp_path)
    rate = np.argmax(np.abs(reached - start) > 0)
    up, down = (score(start.at[rate].add(d)) for d in (0.01, -0.01))
    assert (reached[rate] - start[rate]) * (up - down) < 0
    np.testing.assert_allclose(abs(reached - start).max(), 0.01, rtol=1e-3)  # Adam's first step


@pytest.mark.parametrize("file", sorted((EXPERIMENTS / "results").glob("teacher-*.json")), ids=lambda path: path.stem)
def test_what_a_search_found_is_a_rule_that_can_be_built(load, file):
    search = load("search_teacher")
    told = json.loads(file.read_text())
    rule = search.PROBLEMS[file.stem.removeprefix("teacher-")].build(
        jax.tree.map(jnp.asarray, told["constants"], is_leaf=lambda x: isinstance(x, list))
    )
    groups = [g for g in told["constants"] if g != "schedule"]
    params = jnp.ones(2) if len(groups) == 1 else {g: jnp.ones(2) for g in groups}
    (update,) = moved(rule, [params], params)
    assert all((leaf < 0).all() for leaf in jax.tree.leaves(update))
