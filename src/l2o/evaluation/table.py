"""A comparison as a table that is printed: `print(l2o.compare(...).table())`."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from l2o.evaluation import analysis
from l2o.evaluation.records import Comparison, Record
from l2o.evaluation.seconds import Clock, Timed
from l2o.evaluation.statistics import IntervalEstimate, bootstrap_interval
from l2o.io.door import one_line


class Row(NamedTuple):
    """One optimizer on one panel."""

    optimizer: str
    losses: tuple[
        IntervalEstimate, ...
    ]  # means over tasks, at the panel's steps; a run that diverged makes one infinite
    num_diverged: tuple[int, ...]  # runs, at these steps
    ratio: (
        IntervalEstimate | None
    )  # of mean losses at the horizon to the best baseline's; None of itself, and without one
    seconds: float | None  # of a run to the horizon, one task alone; None where costs were not measured
    timed: Timed | None = None  # its loss in the time of the best baseline's run, and its time to that baseline's loss


class PanelTable(NamedTuple):
    """The rows of one panel."""

    panel: str
    horizon: int
    steps: tuple[int, ...]
    best: str | None  # the baseline that the others are divided by
    rows: tuple[Row, ...]
    left_out: dict[str, str]
    clock: Clock | None = None  # None without a baseline, or where its costs were not measured

    def cells(self) -> list[list[str]]:
        """The words of the table, its heading first."""
        heading = ["optimizer", *(f"loss at {step}" for step in self.steps)]
        heading += [f"/ {one_line(self.best)} at {self.horizon}" if self.best else "/ baseline", "s/run"]
        if self.clock is not None:
            heading += [f"loss in {self.clock.seconds:.3g} s", f"s to {self.clock.target:.3g}"]
        return [heading, *(self._words(row) for row in self.rows)]

    def _words(self, row):
        losses = [_loss(*both) for both in zip(row.losses, row.num_diverged, strict=True)]
        ratio = "best baseline" if row.optimizer == self.best else _estimate(row.ratio) if row.ratio else "–"
        cost = "–" if row.seconds is None else f"{row.seconds:.3g}"
        clock = [] if self.clock is None else _clock(row.timed, self.clock)
        return [one_line(row.optimizer), *losses, ratio, cost, *clock]

    def notes(self) -> list[str]:
        """Who is missing, and why; and of whom too few steps are recorded to say what they reach in the time."""
        cut = [(row.optimizer, row.timed) for row in self.rows if row.timed is not None and not row.timed.recorded]
        return [
            *(f"{one_line(name)} left out: it {one_line(why)}." for name, why in self.left_out.items()),
            *(f"* {one_line(name)}: {timed.cut()}." for name, timed in cut),
        ]


class Table(NamedTuple):
    """What `Comparison.table` returns: numbers by panel, and as text, Markdown or HTML (which a notebook shows)."""

    panels: tuple[PanelTable, ...]

    def __str__(self) -> str:
        return "\n\n".join(_as_text(panel) for panel in self.panels)

    def __repr__(self) -> str:  # which a Python prompt shows
        return str(self)

    def markdown(self) -> str:
        """With pipes, to be pasted into an issue or a card."""
        return "\n\n".join(_as_markdown(panel) for panel in self.panels)

    def _repr_html_(self) -> str:
        return "\n".join(_as_html(panel) for panel in self.panels)


def table_of(comparison: Comparison, steps: Sequence[int] | None = None) -> Table:
    """As `Comparison.table`."""
    verdicts = analysis.verdicts(comparison)
    return Table(tuple(_panel_table(comparison, panel, steps, verdicts) for panel in comparison.panels))


def _panel_table(comparison, name, steps, verdicts):
    panel, records = comparison.panels[name], comparison.records[name]
    first = panel.window - 1  # the end of the first whole window
    if steps is None:
        shown = {max(first, round(share * panel.horizon)) for share in (0.1, 0.5, 1.0)} | {panel.run_to}
    else:
        shown = set(steps)
        if wrong := [step for step in steps if not first <= step <= panel.run_to]:
            raise ValueError(
                f"`steps` must be from {first} to {panel.run_to} for the panel {name!r}, got {wrong[0]!r}."
            )
    shown = tuple(sorted(shown))
    baselines = not all(record.learned for record in records.values())
    best = analysis.best_baseline(records, panel.horizon, panel.window) if baselines else None
    costs, clock = comparison.costs.get(name, {}), analysis.clock(comparison, name)
    rows = []
    for optimizer, record in records.items():
        values = [analysis.loss_at(record, step, panel.window) for step in shown]
        verdict = verdicts.get(optimizer, {}).get(name)
        rows.append(
            Row(
                optimizer,
                tuple(_mean(record, step, panel.window) for step in shown),
                tuple(int((~np.isfinite(losses)).sum()) for losses in values),
                None if verdict is None else IntervalEstimate(verdict.ratio, verdict.low, verdict.high),
                panel.horizon * costs[optimizer].ms_step / 1e3 if optimizer in costs else None,
                None if clock is None else clock.optimizers.get(optimizer),
            )
        )
    return PanelTable(name, panel.horizon, shown, best, tuple(rows), comparison.left_out.get(name, {}), clock)


def _mean(record: Record, step, window) -> IntervalEstimate:
    losses = analysis.loss_at(record, step, window)
    if not np.isfinite(losses).all():
        return IntervalEstimate(float("inf"), float("nan"), float("nan"))
    return IntervalEstimate(float(losses.mean()), *bootstrap_interval(losses))


def _loss(found, num_diverged):
    return f"{num_diverged} diverged" if num_diverged else _estimate(found)


def _clock(timed, clock):
    """Its loss in the time, and the time to the target."""
    if timed is None:
        return ["–", "–"]
    loss = _loss(timed.loss, timed.num_diverged) + ("" if timed.recorded else " *")
    if np.isnan(clock.target):
        return [loss, "–"]
    return [loss, f"{'' if timed.reached else '> '}{timed.seconds_to_target:.3g}"]


def _estimate(found: IntervalEstimate) -> str:
    if np.isnan(found.value):
        return "–"
    value = f"{found.value:.3g}"
    return value if np.isnan(found.low) else f"{value} [{found.low:.3g}, {found.high:.3g}]"


def _as_text(panel):
    cells = panel.cells()
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [f"{one_line(panel.panel)}: mean loss over tasks [95 % interval]"]
    for name, *words in cells:
        padded = [word.rjust(width) for word, width in zip(words, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    return "\n".join([*lines, *panel.notes()])


def _as_markdown(panel):
    heading, *rows = ([html.escape(word, quote=False).replace("|", "\\|") for word in row] for row in panel.cells())
    rule = ["---", *["---:"] * (len(heading) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (heading, rule, *rows)]
    return "\n".join([f"**{one_line(panel.panel)}**", "", *lines, *(f"\n{note}" for note in panel.notes())])


def _as_html(panel):
    heading, *rows = ([html.escape(word) for word in row] for row in panel.cells())
    lines = [f"<table><caption>{html.escape(one_line(panel.panel))}</caption>"]
    lines.append(f"<tr>{''.join(f'<th>{word}</th>' for word in heading)}</tr>")
    lines += [f"<tr>{''.join(f'<td>{word}</td>' for word in row)}</tr>" for row in rows]
    return "\n".join([*lines, "</table>", *(f"<p>{html.escape(note)}</p>" for note in panel.notes())])
