"""Losses by the clock: numbers that can be derived on paper from curves that halve every ten steps."""

import json

import numpy as np
import pytest
from comparisons import awkward, comparison, decay, record, three_panels, tuned
from page_reading import Page

from l2o import report
from l2o.evaluation import analysis
from l2o.evaluation.costs import StepCost
from l2o.report.page_data import page_data
from l2o.report.text import summarised


def cost(ms_step):
    return StepCost(ms_step, ms_step / 2, 0, 10)


def two(*, ours=4.0, theirs=2.0, scale=0.5, window=1, losses=None):
    """ "fast" has `scale` times the loss of adam, whose runs start at 1 to 2, 1.5 on average; horizon 20 of 40 steps."""
    records = {
        "fast": record(scale * decay() if losses is None else losses, learned=True),
        "adam": record(decay(), tuned=tuned()),
    }
    found = comparison({"p": records}, costs={"p": {"fast": cost(ours), "adam": cost(theirs)}}, window=window)
    return analysis.clock(found, "p")


def test_everyone_has_the_time_of_the_best_baselines_run():
    found = two()
    assert (found.best, found.seconds) == ("adam", pytest.approx(0.04))  # 20 steps of 2 ms
    assert found.target == pytest.approx(1.5 / 4)
    fast, adam = found.optimizers["fast"], found.optimizers["adam"]
    # Twice as slow, it takes 10 of its steps in that time: half of adam's loss at 10 is adam's loss at 20.
    assert (fast.steps, fast.step, fast.recorded) == (10, 10, True)
    assert fast.loss.value == pytest.approx(1.5 / 4)
    assert fast.ratio == pytest.approx((1, 1, 1))
    assert (adam.steps, adam.loss.value, adam.ratio) == (20, pytest.approx(1.5 / 4), None)


def test_time_to_the_best_baselines_loss():
    fast, adam = two(ours=3.0).optimizers.values()
    assert fast.seconds_to_target == pytest.approx(10 * 3e-3)  # half the loss is ten steps ahead
    assert adam.seconds_to_target == pytest.approx(20 * 2e-3)
    assert fast.reached
    assert adam.reached


def test_steps_that_were_not_recorded_are_not_made_up():
    fast = two(ours=0.5).optimizers["fast"]
    assert (fast.steps, fast.step, fast.recorded) == (80, 40, False)
    assert fast.loss.value == pytest.approx(0.75 / 16)  # after 40 steps
    assert fast.cut() == "its loss after 40 steps, all that were recorded; in that time it takes 80"


def test_a_loss_that_is_never_reached_takes_longer_than_all_that_was_recorded():
    fast = two(scale=100).optimizers["fast"]
    assert not fast.reached
    assert fast.seconds_to_target == pytest.approx(40 * 4e-3)


def test_a_step_that_takes_longer_than_the_whole_run_leaves_the_start():
    fast = two(ours=100.0, window=5).optimizers["fast"]
    assert fast.step == 0
    assert fast.loss.value == pytest.approx(0.75)


def test_losses_are_means_over_the_window():
    found = two(window=5)
    fast = found.optimizers["fast"]
    mean = np.mean([0.5 ** (t / 10) for t in range(6, 11)])
    assert fast.loss.value == pytest.approx(0.75 * mean)
    assert found.target == pytest.approx(1.5 * np.mean([0.5 ** (t / 10) for t in range(16, 21)]))
    assert fast.seconds_to_target == pytest.approx(10 * 4e-3)  # the window that ends at step 10 has the target's mean


def test_a_run_that_diverges_in_the_time_is_counted_and_one_that_does_so_later_is_not():
    losses = 0.5 * decay()
    losses[2, 8:] = np.nan
    early = two(losses=losses).optimizers["fast"]
    assert (early.num_diverged, early.loss.value, early.ratio.value) == (1, np.inf, np.inf)
    assert not early.reached
    losses = 0.5 * decay()
    losses[2, 15:] = np.nan
    late = two(losses=losses).optimizers["fast"]
    assert (late.num_diverged, late.reached) == (0, True)


def test_a_baseline_that_diverged_sets_no_target():
    broken = decay()
    broken[0, 5:] = np.inf
    records = {"fast": record(decay(), learned=True), "adam": record(broken, tuned=tuned())}
    found = analysis.clock(comparison({"p": records}, costs={"p": {"fast": cost(1.0), "adam": cost(1.0)}}), "p")
    assert np.isnan(found.target)
    assert np.isnan(found.optimizers["fast"].ratio.value)
    assert not found.optimizers["fast"].reached


def test_there_is_no_clock_without_costs_or_a_baseline():
    alone = {"p": {"fast": record(decay(), learned=True)}}
    assert analysis.clock(comparison(alone, costs={"p": {"fast": cost(1.0)}}), "p") is None
    assert analysis.clock(three_panels()._replace(costs={}), "easy") is None
    only_ours = three_panels()
    del only_ours.costs["easy"]["adam"]
    assert analysis.clock(only_ours, "easy") is None
    missing = three_panels()
    del missing.costs["easy"]["fast"]
    assert set(analysis.clock(missing, "easy").optimizers) == {"sgd", "adam"}


def test_rows_hold_it_for_other_programs():
    row = next(r for r in analysis.all_rows(three_panels()) if (r["panel"], r["optimizer"]) == ("hard", "fast"))
    assert (row["seconds"], row["seconds_steps"], row["seconds_recorded"]) == (pytest.approx(0.04), 10, True)
    assert row["seconds_mean"] == pytest.approx(1.5)
    assert row["seconds_mean_interval"][0] < 1.5 < row["seconds_mean_interval"][1]
    assert (row["target"], row["target_seconds"], row["target_reached"]) == (
        pytest.approx(0.375),
        pytest.approx(0.12),
        True,
    )
    json.dumps(analysis.all_rows(awkward()))


def test_the_summary_has_a_sentence():
    assert "Its loss in equal seconds, over the best baseline's: 1 on easy, 4 on hard and 2 on same." in " ".join(
        summarised(three_panels()).split()
    )


def test_the_page_has_a_table_and_curves_by_the_clock():
    drawn = page_data(three_panels())["panels"][0]
    assert drawn["seconds"]["step"] == {"fast": 0.004, "sgd": 0.001, "adam": 0.002}
    assert (drawn["seconds"]["horizon"], drawn["seconds"]["best"]) == (0.04, "adam")
    assert drawn["seconds"]["range"] == [0, 0.16]  # all of the slowest run
    text = report.page(three_panels())
    assert text.count('data-plot="seconds"') == 3
    assert "In the 0.04 s that adam takes to the horizon, and the time to its loss there, 0.375" in Page(text).shown
    without = report.page(three_panels()._replace(costs={}))
    assert 'data-plot="seconds"' not in without
    assert page_data(three_panels()._replace(costs={}))["panels"][0]["seconds"] is None


def test_the_axis_is_not_as_long_as_the_slowest_run():
    slow = three_panels()
    slow.costs["easy"]["fast"] = cost(1000.0)
    assert page_data(slow)["panels"][0]["seconds"]["range"] == [0, 0.32]  # four runs of adam's 40 steps of 2 ms
