"""Adam and NAG as they are used: a schedule, and a rate for each group of parameters.

A learned rule knows how late it is, and with several parts which layer it moves. A baseline of one constant rate knows
neither, so a lead over it may be no more than that. These two are tuned by random search (Bergstra & Bengio 2012): a rate for
each group, the params' top-level keys (of params that are a single array there is one), a schedule for all (`tuning.SCHEDULES`)
and, where several are offered, a momentum. They are tuned on the keys on which `compare` tunes its own baselines.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from _teacher import together

import l2o
from l2o.evaluation import comparison, tuning
from l2o.io.files import write_whole
from l2o.optimizers.baselines import Baseline

RULES = {
    "adam": lambda rate, momentum: optax.adam(rate, b1=momentum),
    "nag": lambda rate, momentum: optax.sgd(rate, momentum=momentum, nesterov=True),
}
OPTAX_MOMENTUM = (0.9,)  # Adam's default, and the momentum of the paper's baselines


class Budget(NamedTuple):
    """What is tried for each rule."""

    num_trials: int
    rates: Mapping[str, tuple[float, float]]  # of each rule: the smallest and the largest rate
    momenta: tuple[float, ...] = OPTAX_MOMENTUM


def name(rule: str, note: str = "") -> str:
    """What tables call it."""
    return f"{rule}, scheduled{note}"


def groups(family, key) -> tuple[str, ...]:
    """The names of the groups of its params."""
    params = jax.eval_shape(lambda: family(key).init(key))
    return tuple(params) if isinstance(params, Mapping) else ("all",)


def trials(key, num_trials, groups, rates, momenta):
    """The settings tried: arrays [num_trials], rates log-uniform between those two in each group by itself."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    return {
        "rates": {group: np.exp(rng.uniform(*np.log(rates), num_trials)) for group in groups},
        "schedule": rng.choice(len(tuning.SCHEDULES), num_trials),
        "momentum": rng.choice(momenta, num_trials),
    }


def make(rule: str, trial: Mapping[str, Any], horizon: int) -> optax.GradientTransformation:
    """The rule of that setting; its schedule ends at `horizon`."""
    search = l2o.Search(len(tuning.SCHEDULES), schedules=tuning.SCHEDULES)
    build = search.make(Baseline(lambda rate: RULES[rule](rate, trial["momentum"])), horizon)
    return together({g: build(tuning.Trial(r, trial["schedule"], np.nan)) for g, r in trial["rates"].items()})


def tuned(rule, panel, family, budget: Budget, *, key, tune_tasks) -> dict[str, Any]:
    """The best setting on the tuning keys of a comparison of that `key`."""
    tune_key, _ = jax.random.split(key)  # as `compare` splits it
    drawn = trials(
        jax.random.fold_in(tune_key, sorted(RULES).index(rule)),
        budget.num_trials,
        groups(family, key),
        budget.rates[rule],
        budget.momenta,
    )
    found = l2o.tune(
        lambda trial: make(rule, trial, panel.horizon),
        drawn,
        family,
        horizon=panel.horizon,
        num_tasks=tune_tasks,
        key=tune_key,
        final_steps=panel.window,
        batch_size=panel.batch_size,
    )
    return {
        **found.value,
        "num_trials": budget.num_trials,
        "tuning_loss": float(found.losses.min()),
        "num_diverged": int((~np.isfinite(found.losses)).sum()),
    }


def compare(panels, budget: Budget, folder: Path, *, key, tune_tasks, note="", **options):
    """Tunes both rules for each panel and runs them on the test keys of a comparison of that `key`.

    A setting, once found, is kept in `folder`, and so are the runs. Yields a comparison for each panel.
    """
    for panel_name, panel in panels.items():
        at = folder / f"{panel_name}{note}".replace(" ", "-").replace(",", "")
        settings_file = at / "settings.json"
        family = panel.make()
        settings = json.loads(settings_file.read_text()) if settings_file.exists() else {}
        for rule in RULES:
            if name(rule, note) not in settings:
                settings[name(rule, note)] = tuned(rule, panel, family, budget, key=key, tune_tasks=tune_tasks)
                at.mkdir(parents=True, exist_ok=True)
                write_whole(settings_file, json.dumps(settings, indent=1).encode())
                print(panel_name, name(rule, note), settings[name(rule, note)], flush=True)
        yield comparison.compare(
            {panel_name: panel},
            {name(rule, note): make(rule, settings[name(rule, note)], panel.horizon) for rule in RULES},
            key=key,
            tune_tasks=tune_tasks,
            measure_costs=False,
            folder=at,
            resume=(at / "comparison.json").exists(),
            **options,
        )


def best_of_table(table: Path, panel: str) -> dict[str, optax.GradientTransformation]:
    """The best of the paper's four baselines in a table that was published, at the rate that it was tuned to there."""
    with table.open(newline="") as file:
        rows = [
            r for r in csv.DictReader(file) if r["panel"] == panel and r["optimizer"] in l2o.baselines.PAPER_BASELINES
        ]
    finite = [r for r in rows if int(r["num_diverged"]) == 0]
    best = min(finite, key=lambda r: float(r["mean"]))
    return {best["optimizer"]: l2o.baselines.get(best["optimizer"]).make(float(best["rate"]))}


def settings(folder: Path) -> list[dict[str, Any]]:
    """Rows of a table: what was found in `folder`, by panel and rule."""
    rows = []
    for file in sorted(folder.glob("*/settings.json")):
        panel = next(iter(json.loads((file.parent / "comparison.json").read_text())["panels"]))
        for optimizer, found in json.loads(file.read_text()).items():
            rates = " ".join(f"{group} {rate:.3g}" for group, rate in found["rates"].items())
            rows.append(
                {
                    "panel": panel,
                    "optimizer": optimizer,
                    "rates": rates,
                    "schedule": tuning.SCHEDULES[found["schedule"]],
                    "momentum": found["momentum"],
                    "tuning_loss": found["tuning_loss"],
                    "num_trials": found["num_trials"],
                    "num_diverged": found["num_diverged"],
                }
            )
    return rows
