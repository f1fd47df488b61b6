"""What has to be said beside who wins: the setting that was tuned, and what is missing."""

import numpy as np

from l2o.evaluation.records import Comparison, Record
from l2o.evaluation.trials import SCHEDULES
from l2o.report import quantities


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
        for name in comparison.optimizers
        if name not in records and name not in comparison.left_out.get(panel, {})
    ]
