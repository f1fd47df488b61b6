"""What the page's plots are drawn from: curves thinned to what a screen shows and rounded to four digits, as JSON."""

from typing import Any

import numpy as np

from l2o.evaluation import analysis
from l2o.evaluation.records import Comparison
from l2o.evaluation.trials import SCHEDULES
from l2o.report import curves
from l2o.report.quantities import number
from l2o.report.styles import all_optimizers, styles


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Styles by optimizer, the performance profile, and of every panel (in order) its curves and trials."""
    drawn_as = styles(all_optimizers(comparison))
    return {
        "styles": {name: {**style._asdict(), "rank": i} for i, (name, style) in enumerate(drawn_as.items())},
        "profile": _profile(comparison, drawn_as),
        "panels": [_panel(comparison, panel, drawn_as) for panel in comparison.panels],
    }


def _profile(comparison, drawn_as):
    found = curves.profile(comparison)
    if not found:
        return None
    x = next(iter(found.values())).x
    return {
        "x": _rounded(x),
        "range": _rounded(np.log10(x[[0, -1]])),
        "curves": [_curve(name, found[name]) for name in drawn_as if name in found],
    }


def _panel(comparison, panel, drawn_as):
    it, records = comparison.panels[panel], comparison.records[panel]
    steps = curves.thinned(it.window - 1, it.horizon, it.run_to)
    names = [name for name in drawn_as if name in records]
    found = {name: curves.curve(records[name], it.window, steps) for name in names}
    start = curves.start(records.values())
    log = curves.loss_range(found.values(), start)
    smallest = min((np.nanmin(c.mean, initial=0, where=np.isfinite(c.mean)) for c in found.values()), default=0)
    costs, timed = comparison.costs.get(panel, {}), analysis.clock(comparison, panel)
    return {
        "steps": steps.tolist(),
        "horizon": it.horizon,
        "loss": "loss" if it.window == 1 else f"loss, mean over {it.window} steps",
        "log": log and _rounded(np.log10(log)),
        "linear": _rounded(np.array([1.05 * smallest, 1.05 * start])) if np.isfinite(start) and start > 0 else None,
        "curves": [_curve(name, found[name]) for name in names],
        "seconds": _seconds(it, {n: costs[n].ms_step for n in names if n in costs}, timed),
        "tuning": _tuning({n: records[n] for n in names if records[n].tuned is not None}, start),
    }


def _seconds(it, ms_steps, timed):
    """A step of each in seconds, and how far the axis goes: at most four of the best baseline's runs, if there is one."""
    if not ms_steps:
        return None
    longest = max(ms_steps.values()) * it.run_to / 1e3
    shortest = min(ms_steps.values()) / 1e3
    until = longest if timed is None else min(longest, 4 * timed.seconds * it.run_to / it.horizon)
    return {
        "step": {name: float(f"{ms / 1e3:.6g}") for name, ms in ms_steps.items()},
        "range": _rounded([0, until]),
        "log_range": _rounded(np.log10([shortest, max(until, 2 * shortest)])),
        "horizon": None if timed is None else _rounded([timed.seconds])[0],
        "best": None if timed is None else timed.best,
    }


def _curve(name, curve):
    return {"name": name, **{part: _rounded(getattr(curve, part)) for part in ("mean", "low", "high")}}


def _tuning(records, start):
    """Trials of each tuned baseline. Those that diverged, or ended far above the start, are drawn at the `top`."""
    losses = np.concatenate([np.asarray(r.tuned.losses, float) for r in records.values()] or [np.array([])])
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return None
    bounded = finite[finite <= 10 * start] if np.isfinite(start) and (finite <= 10 * start).any() else finite
    low, high = float(bounded.min()), float(bounded.max())
    log = low > 0
    top = 2 * high if log else high + 0.1 * (high - low)
    bounds = np.log10([low / 1.5, top * 1.2]) if log else np.array([low - 0.05 * (top - low), top])
    trials = [_trials(name, record.tuned) for name, record in records.items()]
    rates = np.concatenate([r.tuned.grid.rate for r in records.values()])
    return {
        "trials": trials,
        "lines": all(len(set(t["rate"])) == len(t["rate"]) and not any(t["schedule"]) for t in trials)
        and all(np.isnan(r.tuned.grid.weight_decay).all() for r in records.values()),
        "log": log,
        "top": top,
        "range": _rounded(bounds),
        "rates": _rounded(np.log10([rates.min() / 1.4, rates.max() * 1.4])),
    }


def _trials(name, tuned):
    hover = []
    for rate, schedule, decay, loss in zip(*tuned.grid, tuned.losses, strict=True):
        text = f"rate {number(rate)}: {number(loss, 4) if np.isfinite(loss) else 'diverged'}"
        if SCHEDULES[int(schedule)] != "constant":
            text += f", {SCHEDULES[int(schedule)].replace('_', ' + ')}"
        hover.append(text if np.isnan(decay) else f"{text}, weight decay {number(decay)}")
    return {
        "name": name,
        "rate": _rounded(tuned.grid.rate),
        "loss": _rounded(tuned.losses),
        "schedule": [int(s) for s in tuned.grid.schedule],
        "hover": hover,
        "chosen": int(np.argmin(tuned.losses)) if np.isfinite(tuned.losses).any() else None,
    }


def _rounded(values) -> list[float | None]:
    """To four significant digits; what is not finite is null, which JSON can say."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in np.asarray(values, float)]
