"""Comparisons made by hand, whose verdicts can be derived on paper."""

import jax
import jax.numpy as jnp
import numpy as np
from fakes import bowl

import l2o
from l2o import Panel
from l2o.core.curves import Curves
from l2o.evaluation.costs import MetaTraining, StepCost
from l2o.evaluation.records import Comparison, Record
from l2o.evaluation.tuning import Search, Trial, Tuned

RATES = np.geomspace(1e-3, 1.0, 4)


def tuned(chosen=1, *, rates=RATES, schedules=None, decays=None):
    """Trials whose losses grow away from the chosen one; the last one diverged."""
    num = len(rates)
    schedules = np.zeros(num, int) if schedules is None else np.asarray(schedules)
    decays = np.full(num, np.nan) if decays is None else np.asarray(decays)
    losses = 0.1 + 0.2 * np.abs(np.arange(num) - chosen)
    if chosen != num - 1:
        losses[-1] = np.inf
    value = Trial(float(rates[chosen]), int(schedules[chosen]), float(decays[chosen]))
    at_edge = rates[chosen] in (rates.min(), rates.max())
    return Tuned(value, bool(at_edge), Trial(rates, schedules, decays), losses)


def decay(scale=1.0, *, num_tasks=8, run_to=40, seed=None):
    """Losses [num_tasks, run_to + 1] that halve every ten steps, tasks differing by a factor of up to two."""
    factors = np.linspace(1, 2, num_tasks) if num_tasks > 1 else np.ones(1)
    noise = 1 if seed is None else np.random.default_rng(seed).uniform(0.9, 1.1, (num_tasks, run_to + 1))
    return (scale * factors[:, None] * 0.5 ** (np.arange(run_to + 1) / 10) * noise).astype(np.float32)


def record(losses, *, learned=False, tuned=None, metrics=None, images=None):
    return Record(Curves(losses, metrics or {}), tuned, learned, images, 1.0)


def panel(horizon=20, run_to=40, window=1):
    return Panel(None, horizon, run_to, "made up", window)


def comparison(records, *, left_out=None, costs=None, meta_training=None, num_tasks=8, **panel_options):
    search = {"num_trials": 4, "kind": "grid", "rates": [1e-3, 1.0], "schedules": ["constant"], "weight_decays": None}
    return Comparison(
        {p: panel(**panel_options) for p in records},
        tuple(dict.fromkeys(name for cells in records.values() for name in cells)),
        records,
        left_out or {p: {} for p in records},
        costs or {},
        meta_training or {},
        {"key": [0, 7], "num_tasks": num_tasks, "tune_tasks": 3, "search": search},
    )


def three_panels():
    """ "fast" has half the loss of adam on "easy" (ten steps ahead), twice on "hard", and the same on "same"."""
    records, costs = {}, {}
    for name, factor in (("easy", 0.5), ("hard", 2.0), ("same", 1.0)):
        adam = decay()
        records[name] = {
            "fast": record(factor * adam, learned=True, metrics={"accuracy": np.full(8, 0.9)}),
            "sgd": record(3 * adam, tuned=tuned(0), metrics={"accuracy": np.full(8, 0.5)}),
            "adam": record(adam, tuned=tuned(), metrics={"accuracy": np.full(8, 0.8)}),
        }
        costs[name] = {
            "fast": StepCost(4.0, 3.0, 800, 10),
            "sgd": StepCost(1.0, 0.1, 0, 10),
            "adam": StepCost(2.0, 0.2, 84, 10),
        }
    return comparison(records, costs=costs, meta_training={"fast": MetaTraining(120.0, 100, 6000)})


def awkward():
    """What real comparisons bring: divergence, gaps, lone learned optimizers, images, schedules, names that look like HTML."""
    images = np.random.default_rng(0).uniform(0, 1, (3, 12, 10, 3)).astype(np.float32)
    broken, cut = decay(), decay()
    broken[2, 15:] = np.inf
    cut[:, 5:] = np.nan
    searched = tuned(1, schedules=[0, 1, 2, 1], decays=[1e-3, 1e-2, 1e-1, 1.0])
    evil = "<b>&</b></script><script>alert(1)</script>"
    hopeless = tuned()._replace(losses=np.full(4, np.inf))
    records = {
        "diverged": {
            "learned": record(broken, learned=True),
            evil: record(cut, learned=True),
            "adam": record(decay(), tuned=searched),
        },
        f"panel {evil}": {
            "learned": record(decay(), learned=True, images=images),
            "adam": record(decay(2), images=images),
        },
        "lone": {"learned": record(decay(), learned=True)},
        "negative": {"learned": record(-decay(), learned=True), "adam": record(-decay(0.9), tuned=tuned(3))},
        "all diverged": {"adam": record(np.full((8, 41), np.nan, np.float32), tuned=hopeless)},
        "nothing yet": {},
    }
    left_out = {p: {"lbfgs": "needs a deterministic loss"} for p in records}
    return comparison(records, left_out=left_out)


SMALL = {"key": jax.random.key(0), "num_tasks": 3, "tune_tasks": 2, "search": Search(5), "measure_costs": False}


def noisy(key):
    """Minibatches: the loss depends on its key."""
    return l2o.FunctionTask(
        lambda key: jax.random.normal(key, (2,)), lambda x, key: jnp.sum(x**2) + jax.random.uniform(key)
    )


PANELS = {
    "bowl": l2o.Panel(lambda: bowl, 6, 9, "x^2"),
    "noisy/bowl": l2o.Panel(lambda: noisy, 6, 6, "x^2 and noise", window=2),
}
