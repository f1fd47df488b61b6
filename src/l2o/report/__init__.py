"""Tables and figures of comparisons."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from l2o import summary
from l2o.comparison import Comparison, Record
from l2o.statistics import mean_band

# Colours that the colour-blind can tell apart (Okabe & Ito 2008), learned optimizers first.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def table(rows: Sequence[Mapping[str, Any]], *, statistic: str = "mean", title: str = ""):
    """A rich table of `statistic` ("mean" or "median") with its 95 % interval, a column per step, best in bold.

    A rate marked * is at the edge of the grid it was tuned on: the best may lie outside.
    """
    from rich import box
    from rich.table import Table

    steps = sorted({row["step"] for row in rows})
    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    cells = {(row["optimizer"], row["step"]): row for row in rows}
    best = {step: _best(rows, step, statistic) for step in steps}
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    if any(row["rate_at_edge"] for row in rows):
        grid.caption = "* at the edge of the grid: the best rate may lie outside"
    grid.add_column("optimizer", overflow="fold", min_width=12)
    for step in steps:
        grid.add_column(f"step {step}", justify="right", no_wrap=True)
    for name in names:
        first = cells[name, steps[0]]
        mark = "*" if first["rate_at_edge"] else ""
        rate = "" if first["rate"] is None else f"\n[dim]rate {first['rate']:.3g}{mark}[/dim]"
        grid.add_row(name + rate, *(_cell(cells[name, step], statistic, best[step] == name) for step in steps))
    return grid


def _best(rows, step, statistic):
    finite = [row for row in rows if row["step"] == step and np.isfinite(row[statistic])]
    return min(finite, key=lambda row: row[statistic])["optimizer"] if finite else None


def _cell(row, statistic, is_best):
    """The value, and below it the interval, or how many runs diverged."""
    text = f"[bold]{row[statistic]:.3g}[/bold]" if is_best else f"{row[statistic]:.3g}"
    if row["num_diverged"]:
        return f"{text}\n[dim]{row['num_diverged']} diverged[/dim]"
    low, high = row[f"{statistic}_interval"]
    digits = ".2g" if low > 1e-6 else ".0e"
    return f"{text}\n[dim]{low:{digits}}–{high:{digits}}[/dim]"


def overall_table(comparison: Comparison):
    """A rich table of every optimizer over all panels."""
    from rich import box
    from rich.table import Table

    grid = Table(title="All panels, against the best tuned baseline of each", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("optimizer", "loss ratio (IQM)", "P(better)", "won", "lost", "panels", "diverged"):
        grid.add_column(heading, justify="left" if heading == "optimizer" else "right", overflow="fold")
    for name, row in sorted(summary.overall(comparison).items(), key=lambda item: item[1].ratio.value):
        improvement = f"{row.improvement.value:.2f}" if row.improvement else "–"
        grid.add_row(
            name,
            f"{row.ratio.value:.3g}\n[dim]{row.ratio.low:.2g}–{row.ratio.high:.2g}[/dim]",
            improvement,
            str(row.num_won),
            str(row.num_lost),
            str(row.num_panels),
            f"{row.num_diverged}/{row.num_runs}",
        )
    return grid


def figure(
    panels: Mapping[str, Mapping[str, Record]],
    path: str | Path,
    *,
    window: int | Mapping[str, int] = 1,
    optimizers: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Loss curves with 95 % bands, a panel per task, written to `path` (its ending chooses the format).

    **Arguments:** `window`: smooth by the mean over this many steps (per panel, if a mapping). `optimizers`: those to draw,
    by panel; default all.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.8), squeeze=False, layout="constrained")
    for axis, (title, results) in zip(axes[0], panels.items(), strict=True):
        names = (optimizers or {}).get(title) or list(results)
        width = window[title] if isinstance(window, Mapping) else window
        for colour, name in zip(_COLOURS * 3, sorted(names, key=lambda n: not results[n].learned), strict=False):
            record = results[name]
            losses = np.stack([np.convolve(x, np.ones(width) / width, "valid") for x in record.curves.losses])
            steps = np.arange(losses.shape[1]) + width - 1
            rate = f" ({record.tuned.rate:.2g})" if record.tuned else ""
            style = {"linewidth": 2.2, "zorder": 3} if record.learned else {"linewidth": 1.1}
            axis.plot(steps, losses.mean(axis=0), label=name + rate, color=colour, **style)
            low, high = mean_band(losses)
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        top = max(results[n].curves.losses[:, 0].mean() for n in names)
        axis.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        axis.set_ylim(top=2 * top)
        axis.grid(alpha=0.25, which="both", linewidth=0.5)
        axis.legend(fontsize=7.5, title="optimizer (tuned rate)", title_fontsize=7.5)
    path = Path(path)
    fig.savefig(path, dpi=160)
    plt.close(fig)
    return path
