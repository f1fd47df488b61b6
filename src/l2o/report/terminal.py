"""The tables that commands print."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2o.evaluation import analysis
from l2o.evaluation.records import Comparison
from l2o.io.door import printable
from l2o.io.extras import extra


def table(rows: Sequence[Mapping[str, Any]], *, statistic: str = "mean", title: str = ""):
    """A rich table of `statistic` ("mean" or "median") with its 95 % interval, a column per step, best in bold.

    A rate marked * is at the edge of the grid it was tuned on: the best may lie outside.
    """
    with extra("report", "A table"):
        from rich import box
        from rich.table import Table

    steps = sorted({row["step"] for row in rows})
    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    cells = {(row["optimizer"], row["step"]): row for row in rows}
    best = {step: _best(rows, step, statistic) for step in steps}
    grid = Table(title=literal(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    if any(row["rate_at_edge"] for row in rows):
        grid.caption = "* at the edge of the grid: the best rate may lie outside"
    grid.add_column("optimizer", overflow="fold", min_width=12)
    for step in steps:
        grid.add_column(f"step {step}", justify="right", no_wrap=True)
    for name in names:
        first = cells[name, steps[0]]
        mark = "*" if first["rate_at_edge"] else ""
        rate = "" if first["rate"] is None else f"rate {first['rate']:.3g}{mark}"
        grid.add_row(literal(name, rate), *(_cell(cells[name, step], statistic, best[step] == name) for step in steps))
    return grid


def _best(rows, step, statistic):
    finite = [row for row in rows if row["step"] == step and np.isfinite(row[statistic])]
    return min(finite, key=lambda row: row[statistic])["optimizer"] if finite else None


def literal(text: str, below: str = "", *, style: str = ""):
    """A rich text in which nothing is markup; `below`: a dim second line."""
    with extra("report", "A table"):
        from rich.text import Text

    found = Text(printable(text), style=style)
    return found.append(f"\n{below}", style="not bold dim") if below else found


def _cell(row, statistic, is_best):
    """The value, and below it the interval, or how many runs diverged."""
    if row["num_diverged"]:
        below = f"{row['num_diverged']} diverged"
    elif row[f"{statistic}_interval"] is None:
        below = ""
    else:
        low, high = row[f"{statistic}_interval"]
        digits = ".2g" if low > 1e-6 else ".0e"
        below = f"{low:{digits}}–{high:{digits}}"
    return literal(f"{row[statistic]:.3g}", below, style="bold" if is_best else "")


def overall_table(comparison: Comparison):
    """A rich table of every optimizer over all panels."""
    with extra("report", "A table"):
        from rich import box
        from rich.table import Table

    grid = Table(title="All panels, against the best tuned baseline of each", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("optimizer", "loss ratio (IQM)", "P(better)", "won", "lost", "panels", "diverged"):
        grid.add_column(heading, justify="left" if heading == "optimizer" else "right", overflow="fold")
    for name, row in sorted(analysis.overall(comparison).items(), key=lambda item: item[1].ratio.value):
        improvement = f"{row.improvement.value:.2f}" if row.improvement else "–"
        grid.add_row(
            literal(name),
            literal(f"{row.ratio.value:.3g}", f"{row.ratio.low:.2g}–{row.ratio.high:.2g}"),
            improvement,
            str(row.num_won),
            str(row.num_lost),
            str(row.num_panels),
            f"{row.num_diverged}/{row.num_runs}",
        )
    return grid
