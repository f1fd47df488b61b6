"""The search in which every baseline is tuned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import bowls

import l2o
from l2o.evaluation import tuning
from l2o.evaluation.tuning import Search

KEY = jax.random.key(0)


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
