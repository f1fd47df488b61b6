"""Who wins where, decided as `summary.overall` counts it, and what has to be said beside it."""

from typing import NamedTuple

import numpy as np

from l2o import summary
from l2o.comparison import Comparison, Record
from l2o.report import quantities
from l2o.report.styles import all_optimizers
from l2o.statistics import ratio_interval
from l2o.tuning import SCHEDULES


class Verdict(NamedTuple):
    """One optimizer beside the best baseline of one panel, at the horizon."""

    best: str
    ratio: float  # of mean losses, those at rounding level counted as that (`summary.scores`), and its interval
    low: float
    high: float
    num_diverged: int  # runs

    @property
    def outcome(self) -> str:
        """Won or lost if the interval says so; a diverged run loses; else undecided."""
        if self.high < 1:
            return "won"
        return "lost" if self.low > 1 or self.num_diverged else "undecided"

    def __str__(self):
        text = quantities.estimate(self.ratio, self.low, self.high)
        return f"{quantities.count(self.num_diverged, 'run')} diverged" if self.num_diverged else text


def verdicts(comparison: Comparison) -> dict[str, dict[str, Verdict]]:
    """By optimizer and panel, for all but the best baselines themselves; panels without a baseline are left out."""
    scores = summary.scores(comparison)
    found: dict[str, dict[str, Verdict]] = {name: {} for name in scores}
    for panel, setting in comparison.panels.items():
        if not any(panel in panels for panels in scores.values()):
            continue
        best = summary.best_baseline(comparison.records[panel], setting.horizon, setting.window)
        for name, panels in scores.items():
            if panel in panels and name != best:
                diverged = int((~np.isfinite(panels[panel])).sum())
                found[name][panel] = Verdict(best, *ratio_interval(panels[panel], scores[best][panel]), diverged)
    return found


def setting(record: Record) -> str:
    """The setting that was tuned: rate, schedule, weight decay. "*": the rate is at the edge of those tried."""
    if record.tuned is None:
        return "learned" if record.learned else "not tuned"
    trial = record.tuned.value
    text = f"rate {quantities.number(record.tuned.rate)}{'*' if record.tuned.at_edge else ''}"
    if SCHEDULES[int(trial.schedule)] != "constant":
        text += f", {SCHEDULES[int(trial.schedule)].replace('_', ' + ')}"
    return text if np.isnan(trial.weight_decay) else f"{text}, weight decay {quantities.number(trial.weight_decay)}"


def missing(comparison: Comparison) -> list[tuple[str, str]]:
    """(panel, optimizer) that were to be compared and are not recorded: the comparison was stopped, or still runs."""
    return [
        (panel, name)
        for panel, records in comparison.records.items()
        for name in all_optimizers(comparison)
        if name not in records and name not in comparison.left_out.get(panel, {})
    ]
