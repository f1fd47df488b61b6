"""What a comparison shows, as plain numbers: tables, ratios, aggregates, speed-up, break-even. Reports only draw these.

Lower losses are better everywhere. The loss of a run at a step is the mean of the panel's `window` last losses there. A run
that diverged keeps its inf or NaN: it is counted, it makes a mean infinite, and it is never dropped.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from l2o.evaluation import costs, statistics
from l2o.evaluation.records import Comparison, Record
from l2o.evaluation.seconds import Clock, clock_of, mean_curve
from l2o.evaluation.statistics import IntervalEstimate, bootstrap_interval, ratio_interval
from l2o.evaluation.trials import SCHEDULES
from l2o.io.files import write_whole


def loss_at(record: Record, step: int, window: int = 1) -> Float[np.ndarray, " num_tasks"]:
    """Each task's loss at `step`: the mean over the `window` steps that end there."""
    return record.curves.losses[:, step - window + 1 : step + 1].mean(axis=1, dtype=np.float64)


def best_baseline(records: Mapping[str, Record], step: int, window: int = 1, names: Sequence[str] | None = None) -> str:
    """Name of the baseline with the smallest mean loss at `step`; one that diverged on any task is last.

    **Raises:** `ValueError` if there is none among `names` (default: all but learned ones).
    """
    names = [n for n, r in records.items() if not r.learned and (names is None or n in names)]
    if not names:
        raise ValueError("There is no baseline among the results to compare with.")
    means = [_mean(loss_at(records[n], step, window)) for n in names]
    return names[int(np.argmin(np.where(np.isfinite(means), means, np.inf)))]


def ratio_to_best(
    records: Mapping[str, Record],
    name: str,
    step: int,
    window: int = 1,
    names: Sequence[str] | None = None,
) -> tuple[str, float, float, float]:
    """(best baseline, ratio of mean losses at `step`, and its 95 % interval over the same tasks)."""
    best = best_baseline(records, step, window, names)
    return best, *ratio_interval(loss_at(records[name], step, window), loss_at(records[best], step, window))


def rows(records: Mapping[str, Record], steps: Sequence[int], window: int = 1) -> list[dict[str, Any]]:
    """One row per optimizer and step of one panel: mean, median and interquartile mean with 95 % intervals.

    Also the setting that was tuned, whether its rate is at the edge of those tried, how many runs diverged, and the metrics
    after the last step.
    """
    table = []
    for name, record in records.items():
        for step in steps:
            values = loss_at(record, step, window)
            finite = bool(np.isfinite(values).all())
            row: dict[str, Any] = {"optimizer": name, "learned": record.learned, **_setting(record), "step": step}
            for statistic, function in _STATISTICS.items():
                with np.errstate(all="ignore"):
                    row[statistic] = float(function(np.where(np.isnan(values), np.inf, values), axis=0))
                row[f"{statistic}_interval"] = bootstrap_interval(values, function) if finite else None
            row |= {"num_tasks": len(values), "num_diverged": int((~np.isfinite(values)).sum())}
            row |= {f"final_{k}": float(v.mean()) for k, v in record.curves.metrics.items()}
            table.append(row)
    return table


_STATISTICS = {"mean": np.mean, "median": np.median, "iqm": statistics.interquartile_mean}


def _setting(record):
    tuned = record.tuned
    if tuned is None:
        return {"rate": None, "schedule": None, "weight_decay": None, "rate_at_edge": False, "all_diverged": False}
    decay = tuned.value.weight_decay
    return {
        "rate": tuned.rate,
        "schedule": SCHEDULES[tuned.value.schedule],
        "weight_decay": None if np.isnan(decay) else decay,
        "rate_at_edge": tuned.at_edge,
        "all_diverged": not np.isfinite(tuned.losses).any(),
    }


class Overall(NamedTuple):
    """One optimizer over all panels that it ran on."""

    # Interquartile mean over all runs of loss / mean loss of the panel's best baseline, geometric. NaN if no panel's losses have
    # ratios.
    ratio: IntervalEstimate
    improvement: IntervalEstimate | None  # probability that a run beats one of the best baseline's; None of itself
    num_panels: int
    num_won: int  # panels on which its loss is below the best baseline's, interval included (`Verdict.outcome`)
    num_lost: int  # ... above
    num_diverged: int  # runs
    num_runs: int


def scores(comparison: Comparison) -> dict[str, dict[str, Float[np.ndarray, " num_tasks"]]]:
    """By optimizer and panel, each run's loss at the horizon relative to the mean of the panel's best baseline.

    Losses below single precision's epsilon times the mean loss at the start are rounding, and count as that. Panels without
    a baseline are left out, as are those where some optimizer's mean loss is negative, or the best baseline's is zero: ratios say
    nothing there. NaN (diverged) is inf: worse than any.
    """
    found = {n: {p: s.values for p, s in panels.items() if s.relative} for n, panels in _standings(comparison).items()}
    return {name: panels for name, panels in found.items() if panels}


class _Standing(NamedTuple):
    """One optimizer's runs on one panel with a baseline."""

    values: Float[np.ndarray, " num_tasks"]  # losses at the horizon; inf where a run diverged
    relative: bool  # whether they are relative to the mean of the best baseline, or the losses themselves


# Of the loss at the start: how far below zero a mean loss is taken for rounding.
_ROUNDING = 1e-3


def _standings(comparison: Comparison) -> dict[str, dict[str, _Standing]]:
    """By optimizer and panel."""
    table: dict[str, dict[str, _Standing]] = {}
    for panel, setting in comparison.panels.items():
        records = comparison.records[panel]
        if all(record.learned for record in records.values()):
            continue
        best = best_baseline(records, setting.horizon, setting.window)
        scale = abs(_mean(records[best].curves.losses[:, 0]))
        floor = np.finfo(np.float32).eps * scale
        losses = {name: loss_at(record, setting.horizon, setting.window) for name, record in records.items()}
        reference = max(_mean(losses[best]), floor)
        finite = [kept for values in losses.values() if len(kept := values[np.isfinite(values)])]
        signed = any(_mean(values) < -_ROUNDING * scale for values in finite)
        for name, values in losses.items():
            relative = bool(reference > 0 and not signed)
            if relative:
                with np.errstate(all="ignore"):
                    values = np.maximum(values, floor) / reference
            table.setdefault(name, {})[panel] = _Standing(np.where(np.isfinite(values), values, np.inf), relative)
    return table


class Verdict(NamedTuple):
    """One optimizer beside the best baseline of one panel, at the horizon."""

    best: str
    ratio: (
        float  # of mean losses, those at rounding level counted as that, and its interval; NaN where `scores` has none
    )
    low: float
    high: float
    num_diverged: int  # runs
    difference: tuple[float, float] = (
        float("nan"),
        float("nan"),
    )  # of mean losses, its interval, where there is no ratio

    @property
    def outcome(self) -> str:
        """Won or lost if the interval of the ratio, or else of the difference, says so; a diverged run loses; else undecided."""
        if self.high < 1 or self.difference[1] < 0:
            return "won"
        return "lost" if self.low > 1 or self.difference[0] > 0 or self.num_diverged else "undecided"


def verdicts(comparison: Comparison) -> dict[str, dict[str, Verdict]]:
    """By optimizer and panel, for all but the best baselines themselves; panels without a baseline are left out."""
    standings = _standings(comparison)
    found: dict[str, dict[str, Verdict]] = {}
    for name, panels in standings.items():
        found[name] = {}
        for panel, (values, relative) in panels.items():
            setting = comparison.panels[panel]
            best = best_baseline(comparison.records[panel], setting.horizon, setting.window)
            if name != best:
                diverged = int((~np.isfinite(values)).sum())
                theirs = standings[best][panel].values
                if relative:
                    found[name][panel] = Verdict(best, *ratio_interval(values, theirs), diverged)
                else:
                    with np.errstate(all="ignore"):
                        apart = values - theirs
                    bounds = bootstrap_interval(apart) if np.isfinite(apart).all() else (np.nan, np.nan)
                    found[name][panel] = Verdict(best, np.nan, np.nan, np.nan, diverged, bounds)
    return found


def overall(comparison: Comparison) -> dict[str, Overall]:
    """Every optimizer over all panels, with stratified 95 % intervals."""
    standings, judged, table = _standings(comparison), verdicts(comparison), {}
    for name, panels in standings.items():
        ratio = IntervalEstimate(np.nan, np.nan, np.nan)
        if relative := {p: s.values for p, s in panels.items() if s.relative}:
            with np.errstate(all="ignore"):
                ratio = IntervalEstimate(
                    *map(float, np.exp(statistics.aggregate({p: np.log(v) for p, v in relative.items()})))
                )
        outcomes = [verdict.outcome for verdict in judged[name].values()]
        improvement = None
        if judged[name]:
            others = {p: panels[p].values for p in judged[name]}
            best = {p: standings[verdict.best][p].values for p, verdict in judged[name].items()}
            improvement = statistics.probability_of_improvement(others, best)
        table[name] = Overall(
            ratio,
            improvement,
            len(panels),
            outcomes.count("won"),
            outcomes.count("lost"),
            int(sum((~np.isfinite(s.values)).sum() for s in panels.values())),
            int(sum(len(s.values) for s in panels.values())),
        )
    return table


class PayBack(NamedTuple):
    """A learned optimizer beside the best tuned baseline of one panel, in steps, seconds and solves."""

    best: str
    ratio: float  # of mean losses at the horizon, and its interval
    low: float
    high: float
    steps: int | None  # that the baseline needs for the learned optimizer's loss at the horizon; None: not in `run_to`
    speed_up: float  # `steps` / horizon; where it never gets there, `run_to` / horizon, a lower bound
    against_tuning: costs.BreakEven | None  # None where costs or meta-training are not known
    against_tuned: costs.BreakEven | None


def pay_back(comparison: Comparison, panel: str, name: str) -> PayBack:
    """Speed-up and break-even of the learned optimizer `name` on `panel`.

    The speed-up is in steps of the mean curves. The break-even against tuning supposes that a rate is tuned for each new
    problem with as many trials as here, one run each. Where the baseline never reaches the loss within `run_to`, it is taken
    to need `run_to` steps, which makes the break-even against it an upper bound.

    **Raises:** `ValueError` if the panel has no baseline.
    """
    setting, records = comparison.panels[panel], comparison.records[panel]
    best, ratio, low, high = ratio_to_best(records, name, setting.horizon, setting.window)
    curve = mean_curve(records[best], setting.window)
    goal = _mean(loss_at(records[name], setting.horizon, setting.window))
    # What has diverged is reached at the start.
    reached = statistics.steps_to_reach(curve, goal) if np.isfinite(goal) else 0
    steps = None if reached is None else reached + setting.window - 1
    meta, measured = comparison.meta_training.get(name), comparison.costs.get(panel, {})
    tuning = tuned = None
    if meta and name in measured and best in measured:
        ours, theirs = measured[name], measured[best]
        trials = records[best].tuned
        tuning = costs.against_tuning(
            meta, ours, theirs, horizon=setting.horizon, num_trials=len(trials.losses) if trials else 1
        )
        tuned = costs.against_tuned(
            meta,
            ours,
            theirs,
            our_steps=setting.horizon,
            their_steps=setting.run_to if steps is None else steps,
        )
    speed_up = (setting.run_to if steps is None else steps) / setting.horizon
    return PayBack(best, ratio, low, high, steps, speed_up, tuning, tuned)


def clock(comparison: Comparison, panel: str) -> Clock | None:
    """Everyone's loss in the time that the best baseline of `panel` takes to the horizon, and the time that its loss takes them.

    None where there is no baseline, or what its steps take was not measured.
    """
    setting, records = comparison.panels[panel], comparison.records[panel]
    if all(record.learned for record in records.values()):
        return None
    best = best_baseline(records, setting.horizon, setting.window)
    return clock_of(records, comparison.costs.get(panel, {}), best, setting.horizon, setting.window)


def all_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A tidy table of all panels: one row per panel, optimizer and step (the horizon, and `run_to`), with costs.

    What is said by the clock (`clock`) is the same in all rows of an optimizer.
    """
    rows_ = []
    for panel, setting in comparison.panels.items():
        records, timed = comparison.records[panel], clock(comparison, panel)
        for row in rows(records, sorted({setting.horizon, setting.run_to}), setting.window):
            cost = comparison.costs.get(panel, {}).get(row["optimizer"])
            told = _by_the_clock(timed, row["optimizer"]) if timed and cost else {}
            rows_.append({"panel": panel, **row, **(cost._asdict() if cost else {}), **told})
    return rows_


def _by_the_clock(timed, name):
    it, bounds = timed.optimizers[name], timed.optimizers[name].loss[1:]
    return {
        "seconds": timed.seconds,
        "seconds_steps": it.steps,
        "seconds_recorded": it.recorded,
        "seconds_mean": it.loss.value,
        "seconds_mean_interval": None if np.isnan(bounds).any() else bounds,
        "target": None if np.isnan(timed.target) else timed.target,
        "target_seconds": it.seconds_to_target,
        "target_reached": it.reached,
    }


def write_table(comparison: Comparison, folder: Path) -> None:
    """Writes `all_rows` as table.csv (intervals as _low and _high) and table.json."""
    rows_ = all_rows(comparison)
    write_whole(folder / "table.json", json.dumps(rows_, indent=1).encode())
    flat = [_flat(row) for row in rows_]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_whole(folder / "table.csv", text.getvalue().encode())


def _flat(row):
    flat = {}
    for name, value in row.items():
        if name.endswith("_interval"):
            low, high = value or (None, None)
            flat |= {name.replace("_interval", "_low"): low, name.replace("_interval", "_high"): high}
        else:
            flat[name] = value
    return flat


def _mean(values):
    with np.errstate(all="ignore"):
        return float(np.mean(values))
