"""Figures for papers and slides, by matplotlib.

Names are text, whatever is in them: `$` starts no formula, and `_` hides no line from the legend.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from l2o.evaluation.records import Comparison, Record
from l2o.io.door import one_line
from l2o.io.extras import extra
from l2o.io.files import write_whole
from l2o.report import curves
from l2o.report.styles import Style, all_optimizers, styles

_HORIZON = {"color": "0.45", "linestyle": (0, (4, 3)), "linewidth": 0.9}
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def figure(
    panels: Mapping[str, Mapping[str, Record]],
    path: str | Path,
    *,
    window: int | Mapping[str, int] = 1,
    optimizers: Mapping[str, Sequence[str]] | None = None,
    horizon: Mapping[str, int] | None = None,
    drawn_as: Mapping[str, Style] | None = None,
    also: Sequence[str | Path] = (),
) -> Path:
    """Loss curves with 95 % bands, a panel per task, four in a row, written to `path` (its ending chooses the format).

    **Arguments:** `window`: smooth by the mean over this many steps (per panel, if a mapping). `optimizers`: those to draw,
    by panel; default all. `horizon`: of each panel, marked by a vertical line where it is not the last step. `drawn_as`: styles
    by optimizer, so that figures of one comparison agree. `also`: more files of it, such as another format.
    """
    plt = _pyplot()
    names = {title: (optimizers or {}).get(title) or list(results) for title, results in panels.items() if results}
    if drawn_as is None:
        drawn_as = styles({n: panels[title][n].learned for title in names for n in names[title]})
    columns = max(1, min(len(names), 4))
    lines = max(1, -(-len(names) // columns))
    beside = max(map(len, names.values()), default=0) > 6  # more than a few names would hide what they name
    size = ((7.4 if beside else 5.2) * columns, 3.8 * lines)
    fig, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, title in zip(axes.flat, names, strict=False):
        results = panels[title]
        width = window[title] if isinstance(window, Mapping) else window
        shown, line = {}, (horizon or {}).get(title)
        for name in sorted(names[title], key=list(drawn_as).index):
            last = results[name].curves.losses.shape[1] - 1
            steps = curves.thinned(width - 1, min(line or last, last), last, most=400)
            shown[name] = curves.curve(results[name], width, steps)
            tuned = results[name].tuned
            rate = f" ({tuned.rate:.2g})" if tuned else ""
            _draw(axis, shown[name], drawn_as[name], name + rate)
        axis.set(xlabel="step", ylabel="loss" if width == 1 else f"loss, mean over {width} steps")
        _title(axis, title)
        if limits := curves.loss_range(shown.values(), curves.start(results[n] for n in shown)):
            axis.set(yscale="log", ylim=limits)
        if line and line < max(c.x[-1] for c in shown.values()):
            axis.axvline(line, **_HORIZON)
            axis.annotate(" horizon", (line, 0.01), xycoords=("data", "axes fraction"), fontsize=7, color="0.35")
        axis.grid(alpha=0.25, which="both", linewidth=0.5)
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if beside else {}
        _legend(axis, axis, fontsize=7.5, title="optimizer (tuned rate)", title_fontsize=7.5, **place)
    return _save(fig, path, also)


def profile_figure(comparison: Comparison, path: str | Path, *, also: Sequence[str | Path] = ()) -> Path:
    """The performance profile over all panels (Dolan & Moré 2002), with its 95 % bands.

    **Raises:** `ValueError` if no panel has a baseline.
    """
    found, drawn_as = curves.profile(comparison), styles(all_optimizers(comparison))
    if not found:
        raise ValueError("A performance profile is relative to the best baseline, and there is no baseline.")
    fig, axis = _pyplot().subplots(figsize=(5.2, 3.8), layout="constrained")
    for name in (n for n in drawn_as if n in found):
        _draw(axis, found[name], drawn_as[name], name)
    axis.set(xscale="log", ylim=(-0.02, 1.02), xlabel="loss / mean loss of the best baseline", ylabel="share of runs")
    low, high = axis.get_xlim()
    if high < 100 * low:  # where the usual labels, 2 x 10^-1 and so on, would run into each other
        from matplotlib.ticker import LogLocator  # here, as pyplot is: it takes its time

        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    axis.axvline(1, **_HORIZON)
    axis.grid(alpha=0.25, which="both", linewidth=0.5)
    _legend(axis, axis, fontsize=7.5)
    return _save(fig, path, also)


def image_figure(records: Mapping[str, Record], path: str | Path) -> Path:
    """The images that the runs ended with: a row per optimizer, a column per task."""
    rows = {name: r.images for name, r in records.items() if r.images is not None}
    num = max(len(images) for images in rows.values())
    fig, axes = _pyplot().subplots(
        len(rows), num, figsize=(1.3 * num, 1.4 * len(rows)), squeeze=False, layout="constrained"
    )
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[], frame_on=False)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(np.clip(image, 0, 1))
        _title(line[0], name, fontsize=8, loc="left")
    return _save(fig, path)


def _draw(axis, curve, style, label):
    line = {"linewidth": 2.2, "zorder": 3} if style.learned else {"linewidth": 1.1}
    with np.errstate(all="ignore"):
        mean = np.where(np.isfinite(curve.mean), curve.mean, np.nan)
    (drawn,) = axis.plot(curve.x, mean, color=style.colour, linestyle=_DASHES[style.dash], **line)
    _name(drawn, label)
    axis.fill_between(
        curve.x, curve.low, curve.high, color=style.colour, alpha=0.2 if style.learned else 0.12, linewidth=0
    )
    last = np.flatnonzero(np.isfinite(mean))[-1:]
    if len(last) and last[0] < len(mean) - 1:  # a run diverged here
        axis.plot(curve.x[last], mean[last], "x", color=style.colour, markersize=6, zorder=4)


def _name(line, label):
    """What a line is called in the legend."""
    line.set_label(f" {label}")  # matplotlib leaves out what starts with "_"


def _legend(where, axis, **options):
    """The legend of the lines of `axis`, at `where`: the axis itself, or the figure."""
    handles, labels = axis.get_legend_handles_labels()
    for text, label in zip(where.legend(handles, labels, **options).get_texts(), labels, strict=True):
        _literal(text, label[1:])


def _title(axis, title, **options):
    _literal(axis.set_title("", **options), title)


def _literal(text, content):
    content = one_line(content)
    if len(content) > 60:  # it would leave no room for what it names
        content = f"{content[:28]}…{content[-31:]}"
    text.set(text=content, parse_math=False, usetex=False)


def _save(fig, path, also=()):
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # an emoji in a name: drawn as a box
        for file in map(Path, (path, *also)):
            drawn = io.BytesIO()
            fig.savefig(drawn, dpi=160, format=file.suffix.lstrip(".") or "png")
            write_whole(file, drawn.getvalue())
    plt.close(fig)
    return Path(path)


def _pyplot():
    with extra("report", "A figure"):
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

    return plt
