"""Figures of an explanation: updates against gradients, two coordinates' paths, and what surrogates account for."""

from pathlib import Path

import numpy as np

from l2o.evaluation import statistics
from l2o.evaluation.explained import RULE, Explanation
from l2o.report.curves import Curve
from l2o.report.figures import _draw, _legend, _name, _pyplot, _save, _title
from l2o.report.quantities import number
from l2o.report.styles import Style

_LEARNED = Style("#D55E00", "solid", True)
_DRAWN_AS = {RULE: _LEARNED, "sgd": Style("#009E73", "dashdot", False), "adam": Style("#0072B2", "dash", False)}
_SURROGATE = Style("#000000", "dot", False)
_CONSTANT = Style("#CC79A7", "solid", False)
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def behaviour_figures(explanation: Explanation, folder: str | Path, *, name: str) -> tuple[Path, ...]:
    """Writes behaviour-updates, behaviour-trajectories and behaviour-fit to `folder`, each as SVG and PNG.

    **Arguments:** `name`: of the rule, for legends.
    """
    drawn = {"updates": response_figure, "trajectories": trajectory_figure, "fit": fit_figure}
    files = []
    for what, draw in drawn.items():
        vector, pixels = (Path(folder) / f"behaviour-{what}.{ending}" for ending in ("svg", "png"))
        draw(explanation, vector, name=name, also=[pixels])
        files += [vector, pixels]
    return tuple(files)


def response_figure(explanation: Explanation, path: str | Path, *, name: str, also=()) -> Path:
    """The proposed update as a function of the present gradient, for several histories: a row a coordinate, a column a step."""
    coordinates = list(dict.fromkeys(r.coordinate for r in explanation.responses))
    steps = sorted({r.step for r in explanation.responses})
    size = (2.9 * len(steps) + 0.6, 2.5 * len(coordinates) + 0.9)
    fig, axes = _pyplot().subplots(len(coordinates), len(steps), figsize=size, squeeze=False, layout="constrained")
    for response in explanation.responses:
        axis = axes[coordinates.index(response.coordinate), steps.index(response.step)]
        for who, updates in response.updates.items():
            _line(axis, response.gradients, updates, _style(who), _label(explanation, who, name))
        (met,) = axis.plot(response.gradient, response.update, "o", color=_LEARNED.colour, markersize=5, zorder=6)
        _name(met, "met there")
        # SGD's line may be steep: it leaves the frame rather than flatten the others.
        limit = 1.15 * max(np.abs(u).max() for who, u in response.updates.items() if who != "sgd") or 1.0
        axis.set(ylim=(-limit, limit), xlim=(response.gradients[0], response.gradients[-1]))
        _title(axis, f"{response.coordinate}, step {response.step}", fontsize=9)
        axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        axis.axvline(0, color="0.7", linewidth=0.6, zorder=0)
        axis.locator_params(axis="x", nbins=4)
        _plain(axis)
    fig.supxlabel("present gradient of the coordinate (loss per unit of θ)", fontsize=9)
    fig.supylabel("proposed update (unit of θ)", fontsize=9)
    _legend_above(fig, axes[0, 0])
    return _save(fig, path, also)


def trajectory_figure(explanation: Explanation, path: str | Path, *, name: str, also=()) -> Path:
    """Two coordinates of one task under the rule and under tuned SGD and Adam: where they are, and the updates proposed."""
    num = len(explanation.trajectories)
    fig, axes = _pyplot().subplots(2, num, figsize=(4.6 * num, 5.2), squeeze=False, sharex=True, layout="constrained")
    for column, trajectory in zip(axes.T, explanation.trajectories, strict=True):
        steps = np.arange(1, explanation.horizon + 1)
        for axis, values in zip(column, (trajectory.params, trajectory.updates), strict=True):
            for who, line in values.items():
                _line(axis, steps, line, _style(who), _label(explanation, who, name))
            _plain(axis)
        _title(column[0], trajectory.coordinate, fontsize=9)
        # SGD's noise and Adam's first steps leave the frame rather than flatten the others.
        limit = 1.3 * np.abs(trajectory.updates[RULE]).max() or 1.0
        column[1].set(ylim=(-limit, limit), xlabel="step")
        column[1].axhline(0, color="0.7", linewidth=0.6, zorder=0)
    axes[0, 0].set_ylabel("θ before the step")
    axes[1, 0].set_ylabel("update (unit of θ)")
    _legend_above(fig, axes[0, 0])
    return _save(fig, path, also)


def fit_figure(explanation: Explanation, path: str | Path, *, name: str, also=()) -> Path:
    """Held-out R² of every surrogate, the memory of the best one with constant step sizes, and losses when they are run."""
    fig, (bars, memory, losses) = _pyplot().subplots(
        1, 3, figsize=(13.2, 3.9), layout="constrained", width_ratios=(1.25, 0.9, 1.1)
    )
    names = list(explanation.fitted)
    values = [explanation.fitted[n].r2 for n in names]
    best, constant = explanation.best, explanation.best_constant
    colours = [{best: _SURROGATE, constant: _CONSTANT}.get(n, Style("0.65", "", False)).colour for n in names]
    bars.barh(names, np.clip(values, 0, 1), color=colours, height=0.7)
    for i, value in enumerate(values):
        bars.text(np.clip(value, 0, 1) + 0.015, i, f"{value:.2f}", va="center", fontsize=8)
    bars.set(xlim=(0, 1.1), xlabel="R² of the updates, held-out runs")
    bars.invert_yaxis()
    bars.tick_params(axis="y", labelsize=8)
    _plain(bars)
    bars.grid(visible=False)

    found = explanation.fitted[constant]
    length = int(np.clip(4 * found.mean_lag, 10, explanation.horizon))
    for kernel, style, label in (
        (found.kernel(length), _CONSTANT, constant),
        (0.1 * 0.9 ** np.arange(length), _DRAWN_AS["adam"], "Adam's average, β₁ = 0.9"),
    ):
        _line(memory, np.arange(length), kernel / np.abs(kernel).sum(), style, label)
    memory.set(xlabel="age of the gradient (steps)", ylabel="share of its weight in the update")
    memory.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    _legend(memory, memory, fontsize=7.5)
    _plain(memory)

    drawn = {RULE: _LEARNED, best: _SURROGATE, constant: _CONSTANT, "adam": _DRAWN_AS["adam"], "sgd": _DRAWN_AS["sgd"]}
    start = explanation.losses[RULE][:, 0].mean()
    lowest = []
    for who, style in drawn.items():
        mean = _smoothed(explanation, who)
        finite = mean.mean[np.isfinite(mean.mean)]
        _draw(losses, mean, style, _label(explanation, who, name) + ("" if len(finite) else ", diverged"))
        lowest += [finite.min()] if len(finite) else []
    if lowest and min(lowest) > 0:
        losses.set(yscale="log", ylim=(0.8 * min(lowest), 1.4 * start))
    losses.set(
        xlabel="step", ylabel="loss" if explanation.window == 1 else f"loss, mean over {explanation.window} steps"
    )
    _legend(losses, losses, fontsize=7.5)
    losses.grid(alpha=0.25, which="both", linewidth=0.5)
    return _save(fig, path, also)


def _smoothed(explanation, who):
    window = explanation.window
    with np.errstate(all="ignore"):
        runs = np.stack([np.convolve(x, np.ones(window) / window, "valid") for x in explanation.losses[who]])
        return Curve(np.arange(window - 1, window - 1 + runs.shape[1]), runs.mean(axis=0), *statistics.mean_band(runs))


def _style(who):
    return _DRAWN_AS.get(who, _SURROGATE)


def _label(explanation, who, name):
    if who == RULE:
        return name
    if who in explanation.tuned:
        return f"{ {'sgd': 'SGD', 'adam': 'Adam'}[who] } (tuned, {number(explanation.tuned[who].rate, 2)})"
    return f"surrogate: {who}"


def _line(axis, x, y, style, label):
    width, order = (2.2, 5) if style.learned else (1.3, 4)
    (drawn,) = axis.plot(x, y, color=style.colour, linestyle=_DASHES[style.dash], linewidth=width, zorder=order)
    _name(drawn, label)


def _plain(axis):
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)


def _legend_above(fig, axis):
    num = len(axis.get_legend_handles_labels()[1])
    _legend(fig, axis, loc="outside upper center", ncols=min(num, 5), fontsize=8, frameon=False)
