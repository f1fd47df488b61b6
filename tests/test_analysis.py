"""What is said of a comparison: tables, speed-up, break-even, costs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparisons import PANELS, SMALL
from fakes import Descent, bowl, bowls

import l2o
from l2o.core.curves import Curves
from l2o.evaluation import analysis, comparison, costs, timing
from l2o.evaluation.costs import MetaTraining, StepCost
from l2o.evaluation.records import Comparison, Record

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def small():
    return comparison.compare(PANELS, {"sgd": "sgd", "adam": "adam", "learned": Descent(jnp.log(0.3))}, **SMALL)


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


def test_a_step_takes_as_long_as_its_run():
    """Not as the sum of a gradient and an update, each a program of its own."""
    calls = []

    def family(key):
        def loss(x, key):
            jax.debug.callback(lambda: calls.append(1))
            return jnp.sum(x**2)

        return l2o.FunctionTask(lambda key: jnp.ones(3), loss)

    timing.step_costs({"sgd": optax.sgd(0.1), "adam": optax.adam(0.1)}, family, key=KEY, num_steps=3, seconds=1e-9)
    jax.effects_barrier()
    assert len(calls) == 2 * 5 * 3  # a gradient in each step of each, in five rounds, and none but these


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
    assert len(counted) == 4 * rounds * num_steps  # SGD's steps; those of L-BFGS, and its searches; the gradients alone
