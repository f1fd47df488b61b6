"""`l2o.search`: it finds what is known to be best, draws no candidate twice alike, and goes on to the bit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import Descent, assert_trees_equal, bowls

import l2o
from l2o.core.finals import FinalLosses, final_losses, like, means_to_minimise, unsolved
from l2o.meta import search as module

KEY = jax.random.key(3)
OPTIONS = {"horizon": 5, "key": KEY, "population": 6, "num_tasks": 4, "num_validation": 8, "validate_every": 5}


def parabola(key):
    """|x|² / 2 from ones: descent at a rate of 1 ends at 0 in one step."""
    return l2o.FunctionTask(lambda key: jnp.ones(3), lambda x, key: 0.5 * jnp.sum(x**2))


def test_it_finds_the_rate_that_is_known_to_be_best():
    start = Descent(jnp.log(0.2))
    found = l2o.search(start, parabola, num_generations=25, **OPTIONS)
    assert abs(float(found.optimizer.log_rate)) < 0.02
    assert found.score < 1e-6 < found.start_score
    assert found.score == min(row["validation_loss"] for row in found.history if "validation_loss" in row)
    # All of a generation on half of the tasks, half of them on the others; the start and five means on the validation tasks.
    assert found.num_runs == 25 * (6 * 2 + 3 * 2) + 8 * (1 + 5)


def test_the_start_is_a_candidate_too():
    found = l2o.search(Descent(jnp.log(1.0)), parabola, num_generations=2, sigma=3.0, **OPTIONS)
    assert float(found.optimizer.log_rate) == 0.0
    assert found.score == found.start_score


def test_with_a_target_it_solves_most_though_the_mean_is_worse():
    """At a rate r it ends at about (1 - r c)^10: below 1e-4 from r = 0.6 for a curvature c of 1, up to 0.47 for one of 3."""

    def mixed(key):
        curvature = jnp.where(jax.random.uniform(key) < 0.75, 1.0, 3.0)
        return l2o.FunctionTask(lambda key: jnp.ones(()), lambda x, key: 0.5 * curvature * x**2)

    options = {**OPTIONS, "num_tasks": 16, "num_validation": 64, "num_generations": 20}
    by_mean = l2o.search(Descent(jnp.log(0.4)), mixed, **options)
    by_target = l2o.search(Descent(jnp.log(0.4)), mixed, target=1e-4, **options)
    assert jnp.exp(by_mean.optimizer.log_rate) == pytest.approx(0.5, abs=0.02)
    assert 0.57 < jnp.exp(by_target.optimizer.log_rate) < 1.43
    assert 0.1 < by_target.score < 0.4  # the share of those that cannot be solved as well


def test_only_what_was_asked_for_is_searched():
    start = l2o.Momentum(5, rate=0.2, power=0.0)
    found = l2o.search(
        start, parabola, where=lambda rule: [rule.log_rate, rule.logit_b1], num_generations=10, **OPTIONS
    )
    assert found.score < found.start_score
    moved = eqx.tree_at(
        lambda rule: [rule.log_rate, rule.logit_b1], start, [found.optimizer.log_rate, found.optimizer.logit_b1]
    )
    assert_trees_equal(found.optimizer, moved)
    assert found.optimizer.log_rate != start.log_rate
    for wrong in (lambda rule: rule.horizon, lambda rule: rule.nothing, lambda rule: []):
        with pytest.raises(ValueError, match="where"):
            l2o.search(start, parabola, where=wrong, **OPTIONS)


def test_unsolved_is_a_smooth_share():
    losses = np.array([0.0, 0.01, 1e9, 1e10, np.inf, np.nan, -np.inf, -3.0])
    found = unsolved(losses, 0.01)
    np.testing.assert_allclose(found, [0, 0.5, 1, 1, 1, 1, 1, 0], atol=1e-12)
    assert unsolved(np.float32(10.0), 1e-3) < unsolved(np.float32(11.0), 1e-3) < 1  # far above it they still differ
    np.testing.assert_allclose(means_to_minimise(np.array([[0.01, np.inf], [0.0, 0.0]]), 0.01), [0.75, 0])


def test_it_goes_on_to_the_bit(tmp_path):
    whole = l2o.search(Descent(jnp.log(0.2)), bowls, num_generations=7, **OPTIONS)
    stopped = lambda row: row["generation"] == 4
    l2o.search(Descent(jnp.log(0.2)), bowls, num_generations=7, folder=tmp_path, on_generation=stopped, **OPTIONS)
    resumed = l2o.search(Descent(jnp.log(0.2)), bowls, num_generations=7, folder=tmp_path, resume=True, **OPTIONS)
    assert_trees_equal(resumed.optimizer, whole.optimizer)
    assert_trees_equal(resumed.last, whole.last)
    assert resumed.score == whole.score
    with pytest.raises(FileExistsError, match="--resume"):
        l2o.search(Descent(jnp.log(0.2)), bowls, num_generations=7, folder=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="sigma"):
        l2o.search(Descent(jnp.log(0.2)), bowls, num_generations=7, folder=tmp_path, resume=True, sigma=0.1, **OPTIONS)


def test_those_that_fall_out_of_the_race_come_last():
    runs = []

    def losses(xs, keys):
        runs.append((len(xs), len(keys)))
        return np.asarray([[x + (key if x == 1 else 0) for key in keys] for x in xs], float)

    # The first half of the tasks are run second: there the candidate 1 is found out, but it stays ahead of those left behind.
    means, ranks = module._judged(
        losses, [3.0, 1.0, 4.0, 2.0], np.asarray([9.0, 9.0, 0.0, 0.0]), racing=True, target=None
    )
    assert runs == [(4, 2), (2, 2)]
    np.testing.assert_allclose(means, [3.0, 5.5, 4.0, 2.0])
    np.testing.assert_array_equal(ranks, [2, 1, 3, 0])


def test_a_candidate_that_diverges_on_one_task_is_last():
    losses = lambda xs, keys: np.asarray([[np.inf if x == 0 and key == 1 else x for key in keys] for x in xs], float)
    means, ranks = module._judged(losses, [0.0, 1.0, 2.0, 3.0], np.asarray([0.0, 1.0]), racing=False, target=None)
    assert means[0] == np.inf
    np.testing.assert_array_equal(ranks, [3, 0, 1, 2])


def test_bounds_are_kept():
    found = l2o.search(Descent(jnp.log(0.2)), parabola, num_generations=15, bounds=0.5, **OPTIONS)
    assert abs(float(found.last.log_rate) - np.log(0.2)) <= 0.5 + 1e-6
    assert float(found.optimizer.log_rate) > np.log(0.2) + 0.4  # as near to 0 as it may


def test_everything_diverging_is_an_error():
    cliff = lambda key: l2o.FunctionTask(lambda key: jnp.ones(1), lambda x, key: jnp.sum(jnp.where(x == 1, x, jnp.nan)))
    with pytest.raises(FloatingPointError, match="smaller rate"):
        l2o.search(Descent(jnp.log(0.2)), cliff, num_generations=3, **OPTIONS)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"population": 3}, "at least 4"),
        ({"num_tasks": 0}, "num_tasks"),
        ({"sigma": -1.0}, "sigma"),
        ({"bounds": 0.0}, "bounds"),
        ({"resume": True}, "folder"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_run(wrong, words):
    with pytest.raises(ValueError, match=words):
        l2o.search(Descent(jnp.log(0.2)), parabola, num_generations=1, **{**OPTIONS, **wrong})


def test_final_losses_are_the_ends_of_curves():
    """Of a rule on tasks without noise; however the tasks are batched, and whatever runs beside it."""
    rates = jnp.log(jnp.asarray([0.1, 0.15, 0.2]))
    keys = jax.random.split(KEY, 6)
    found = final_losses(Descent, rates, bowls, keys, horizon=4)
    for batch_size in (1, 4, None):
        runs = FinalLosses(like(Descent(rates[0])), bowls, horizon=4, batch_size=batch_size)
        np.testing.assert_allclose(runs(Descent(rates), keys), found, rtol=1e-4)
        in_chunks = runs(Descent(rates), keys, values_together=2, tasks_together=3)
        np.testing.assert_allclose(in_chunks, found, rtol=1e-4)
    for i, rate in enumerate(rates):
        curves = l2o.loss_curves(Descent(rate), bowls, horizon=4, num_tasks=6, key=KEY)
        np.testing.assert_allclose(found[i], curves[:, -1], rtol=1e-4)
