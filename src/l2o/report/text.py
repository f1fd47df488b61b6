"""A comparison in sentences, for a colleague with a minute."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from l2o.evaluation import analysis
from l2o.evaluation.records import Comparison
from l2o.report.quantities import count, duration, estimate, listed, number, solves
from l2o.report.settings import missing, setting
from l2o.report.styles import all_optimizers


def title(comparison: Comparison) -> str:
    """As in: 6 optimizers on 3 panels."""
    return f"{count(len(all_optimizers(comparison)), 'optimizer')} on {count(len(comparison.panels), 'panel')}"


def facts(
    comparison: Comparison, config: Mapping[str, Any] | None = None, recorded: str | None = None
) -> dict[str, str]:
    """What was compared, how and when. `config` is what the command's config.json holds, `recorded` a date."""
    optimizers, settings, config = all_optimizers(comparison), comparison.settings, config or {}
    learned = [n for n in optimizers if optimizers[n]]
    baselines = [n for n in optimizers if not optimizers[n]]
    found = {
        "Learned": ", ".join(learned) or "none",
        "Baselines": ", ".join(baselines) or "none",
        "Panels": "; ".join(comparison.panels),
    }
    if "num_tasks" in settings:
        runs = count(settings["num_tasks"], "task")
        found["Runs"] = f"{runs} a panel, with the same starts and minibatches for every optimizer"
    baseline_records = [r for records in comparison.records.values() for r in records.values() if not r.learned]
    if baseline_records and all(record.tuned is None for record in baseline_records):
        found["Tuning"] = "none: baselines are taken as they are"
    elif "search" in settings:
        found["Tuning"] = f"{_search(settings['search'])}, on {count(settings['tune_tasks'], 'other task')}"
    if "key" in settings:
        found["Key"] = " ".join(str(word) for word in np.ravel(settings["key"]))
    if recorded:
        found["Recorded"] = recorded
    if versions := config.get("versions"):
        found["Versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if command := config.get("command"):
        found["Command"] = str(command)
    return found


def _search(search):
    low, high = search["rates"]
    text = f"{search['kind']} search, {count(search['num_trials'], 'trial')} a baseline, rates {number(low)} to {number(high)}"
    if list(search["schedules"]) != ["constant"]:
        text += f", schedules {', '.join(search['schedules']).replace('_', ' + ')}"
    if decays := search.get("weight_decays"):
        text += f", weight decay {number(decays[0])} to {number(decays[1])}"
    return text


def findings(comparison: Comparison) -> dict[str, list[str]]:
    """Of every learned optimizer: where it wins and loses, what it saves, what it costs, when that pays back."""
    ran = {n for records in comparison.records.values() for n in records}
    names = [n for n, learned in all_optimizers(comparison).items() if learned and n in ran]
    judged, overall = analysis.verdicts(comparison), analysis.overall(comparison)
    found = {}
    for name in names:
        if not judged.get(name):
            found[name] = ["There is no baseline to compare it with."]
        else:
            found[name] = [*_verdict(judged[name]), *_overall(overall[name])]
            found[name] += [*_steps(comparison, name, judged[name]), *_seconds(comparison, name, judged[name])]
            found[name] += _cost(comparison, name, judged[name])
    return found


def _verdict(judged):
    def beside(verdict):
        without = verdict.num_diverged or np.isnan(verdict.ratio)
        return _told(verdict) if without else f"{_told(verdict)} times the loss of {verdict.best}"

    def on(outcome, verb, none=None):
        panels = {p: v for p, v in judged.items() if v.outcome == outcome}
        if not panels:
            return none
        order = sorted(panels, key=lambda p: (np.nan_to_num(panels[p].ratio, nan=np.inf), p))
        where = listed([f"{p} ({beside(panels[p])})" for p in order])
        return f"{verb} {len(panels)} of {count(len(judged), 'panel')}: {where}."

    lines = [
        on("won", "Beats the best baseline on", f"Beats the best baseline on none of {count(len(judged), 'panel')}."),
        on("lost", "Loses on"),
        on("undecided", "Undecided (no interval, or one that holds 1) on"),
    ]
    return [line for line in lines if line]


def _overall(row):
    if row.num_panels < 2:
        return []
    text = f"Over all panels its loss is {estimate(*row.ratio)} times the best baseline's (interquartile mean of runs)"
    if row.improvement:
        text += f"; a run of it is better than one of the best baseline's with probability {estimate(*row.improvement, digits=2)}"
    return [text + "."]


def _steps(comparison, name, judged):
    parts = []
    for panel, verdict in judged.items():
        horizon, run_to = comparison.panels[panel].horizon, comparison.panels[panel].run_to
        if verdict.num_diverged:
            continue
        paid = analysis.pay_back(comparison, panel, name)
        if paid.steps is None:
            parts.append(f"{paid.best} more than {run_to:,} for {horizon:,} on {panel}")
        else:
            parts.append(
                f"{paid.best} {paid.steps:,} for {horizon:,} ({number(paid.speed_up)} times as many) on {panel}"
            )
    return [f"Steps that the best baseline needs for its loss at the horizon: {listed(parts)}."] if parts else []


def _seconds(comparison, name, judged):
    parts = []
    for panel in judged:
        timed = analysis.clock(comparison, panel)
        if timed is None or name not in timed.optimizers:
            continue
        it = timed.optimizers[name]
        if it.num_diverged:
            parts.append(f"{count(it.num_diverged, 'run')} diverged on {panel}")
        elif it.ratio is not None and np.isfinite(it.ratio.value):
            cut = "" if it.recorded else f" ({it.step:,} of {it.steps:,} steps recorded)"
            parts.append(f"{number(it.ratio.value)} on {panel}{cut}")
    return [f"Its loss in equal seconds, over the best baseline's: {listed(parts)}."] if parts else []


def _cost(comparison, name, judged):
    lines = []
    slower = []
    for panel, verdict in judged.items():
        measured = comparison.costs.get(panel, {})
        if name in measured and verdict.best in measured:
            slower.append(measured[name].ms_step / measured[verdict.best].ms_step)
    if slower:
        lines.append(f"A step takes {_span(slower, number)} times as long as the best baseline's.")
    meta = comparison.meta_training.get(name)
    if meta is None:
        return [*lines, "What its meta-training took is not known."]
    text = f"Meta-training took {duration(meta.seconds)} ({number(meta.num_steps)} inner steps)."
    paid = [analysis.pay_back(comparison, p, name).against_tuning for p in judged]
    paid = [p for p in paid if p is not None]
    if paid:
        text += (
            " Against tuning the best baseline anew for every problem it pays back, counted in steps, "
            f"{_after([p.steps for p in paid])}; in seconds, {_after([p.seconds for p in paid])}."
        )
        worse = sum(v.outcome == "lost" for v in judged.values())
        if worse:
            text += f" (With a larger loss on {count(worse, 'panel')}.)"
    return [*lines, text]


def _after(counts):
    """As in: after 107 solves on 1 of 3 panels, never on the others."""
    finite, never = [c for c in counts if np.isfinite(c)], sum(np.isinf(c) for c in counts)
    if not finite:
        return "never" if never else "unknown, as its weights do not say what they took"
    text = f"after {_span(finite, solves)} solves"
    return f"{text} on {len(finite)} of {count(len(counts), 'panel')}, never on the others" if never else text


def _span(values, form):
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def caveats(comparison: Comparison) -> list[str]:
    """What a reader must know before believing the numbers: gaps, divergence, rates at the edge, who was left out."""
    lines = []
    absent = missing(comparison)
    if absent:
        total = len(absent) + sum(map(len, comparison.records.values()))
        where = listed([f"{name} on {panel}" for panel, name in absent])
        lines.append(f"Incomplete: {len(absent)} of {count(total, 'cell')} not recorded yet ({where}).")
    if comparison.settings.get("num_tasks") == 1:
        lines.append("One run each: there are no intervals, and nothing is decided.")
    diverged, edge, hopeless, lone, negative = [], [], [], [], []
    for panel, records in comparison.records.items():
        horizon, window = comparison.panels[panel].horizon, comparison.panels[panel].window
        for name, record in records.items():
            losses = analysis.loss_at(record, horizon, window)
            if num := int((~np.isfinite(losses)).sum()):
                diverged.append(f"{name} on {panel} ({num} of {count(len(losses), 'run')})")
            if record.tuned is not None and not np.isfinite(record.tuned.losses).any():
                hopeless.append(f"{name} on {panel}")
            elif record.tuned is not None and record.tuned.at_edge:
                edge.append(f"{name} on {panel} ({number(record.tuned.rate)})")
        if any((analysis.loss_at(r, horizon, window) < 0).any() for r in records.values()):
            negative.append(panel)
        if records and all(r.learned for r in records.values()):
            lone.append(panel)
    if diverged:
        lines.append(f"Diverged before the horizon: {listed(diverged, 6)}.")
    if hopeless:
        lines.append(f"Every setting tried diverged on some tuning task: {listed(hopeless, 6)}.")
    if edge:
        lines.append(f"Best rate at the edge of those tried, a better one may lie outside: {listed(edge, 6)}.")
    untuned = {
        n for records in comparison.records.values() for n, r in records.items() if not r.learned and r.tuned is None
    }
    if untuned:
        names = [n for n in all_optimizers(comparison) if n in untuned]
        lines.append(f"Not tuned (no learning rate to tune, or taken as given): {listed(names, 6)}.")
    if negative:
        lines.append(f"Losses below zero, where ratios say nothing: {listed(negative, 6)}.")
    if lone:
        lines.append(f"Without a baseline: {listed(lone, 6)}.")
    reasons: dict[str, list[str]] = {}
    for panel, found in comparison.left_out.items():
        for name, reason in found.items():
            reasons.setdefault(f"{name} {reason}", []).append(panel)
    lines += [f"Left out of {listed(panels)}: {reason}." for reason, panels in reasons.items()]
    return lines


def _told(verdict):
    if verdict.num_diverged:
        return f"{count(verdict.num_diverged, 'run')} diverged"
    if np.isnan(verdict.ratio):
        return f"compared with {verdict.best} by difference: losses that are not positive have no ratio"
    return estimate(verdict.ratio, verdict.low, verdict.high)


def panel_lines(comparison: Comparison) -> dict[str, tuple[str, dict[str, str]]]:
    """By panel, the best baseline in words, and each learned optimizer's ratio to it."""
    judged, found = analysis.verdicts(comparison), {}
    for panel, it in comparison.panels.items():
        records = comparison.records[panel]
        if not any(not r.learned for r in records.values()):
            found[panel] = ("no baseline", {})
            continue
        best = analysis.best_baseline(records, it.horizon, it.window)
        with np.errstate(all="ignore"):
            loss = float(analysis.loss_at(records[best], it.horizon, it.window).mean())
        ratios = {n: f"{_told(judged[n][panel])} ({judged[n][panel].outcome})" for n, r in records.items() if r.learned}
        found[panel] = (f"{best} ({setting(records[best])}), mean loss {number(loss)} at step {it.horizon:,}", ratios)
    return found


def summarised(comparison: Comparison, config: Mapping[str, Any] | None = None, recorded: str | None = None) -> str:
    """The whole summary as plain text, lines of at most 96 characters."""
    heading = f"l2o: {title(comparison)}"
    lines = [heading, "=" * len(heading), ""]
    lines += [_wrapped(f"{label}: {value}", indent=4) for label, value in facts(comparison, config, recorded).items()]
    lines += ["", _wrapped("Lower losses are better. Brackets are 95 % intervals over tasks.")]
    for name, sentences in findings(comparison).items():
        lines += ["", name, *(_wrapped(f"- {sentence}", start=2, indent=4) for sentence in sentences)]
    if notes := caveats(comparison):
        lines += ["", "To bear in mind", *(_wrapped(f"- {note}", start=2, indent=4) for note in notes)]
    lines += ["", "Best baselines, and losses relative to them"]
    for panel, (best, ratios) in panel_lines(comparison).items():
        lines += [_wrapped(f"{panel}: {best}", start=2, indent=6)]
        lines += [_wrapped(f"{name}: {ratio}", start=6, indent=8) for name, ratio in ratios.items()]
    return "\n".join(lines) + "\n"


def _wrapped(text, *, start=0, indent=0):
    return textwrap.fill(
        text,
        96,
        initial_indent=" " * start,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
