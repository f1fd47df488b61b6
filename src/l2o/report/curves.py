"""What is drawn: smoothed mean curves with their bands, the performance profile, and the part of an axis worth seeing."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from l2o.evaluation import analysis, statistics
from l2o.evaluation.records import Comparison, Record


class Curve(NamedTuple):
    """A mean and its 95 % band. Not finite from where the first run diverged: the mean then says nothing."""

    x: Float[np.ndarray, " num"] | Int[np.ndarray, " num"]
    mean: Float[np.ndarray, " num"]
    low: Float[np.ndarray, " num"]
    high: Float[np.ndarray, " num"]


def smoothed(record: Record, window: int = 1) -> Float[np.ndarray, "num_tasks num_windows"]:
    """Every run's mean loss over `window` steps; entry [:, i] is of the window that ends at step i + window - 1."""
    with np.errstate(all="ignore"):
        return np.stack([np.convolve(x, np.ones(window) / window, "valid") for x in record.curves.losses])


def curve(record: Record, window: int = 1, steps: Int[np.ndarray, " num"] | None = None) -> Curve:
    """Mean over tasks of the smoothed loss, at `steps` (default: all)."""
    losses, first = smoothed(record, window), window - 1
    steps = np.arange(first, first + losses.shape[1]) if steps is None else steps
    losses = losses[:, steps - first]
    with np.errstate(all="ignore"):
        return Curve(steps, losses.mean(axis=0), *statistics.mean_band(losses))


def thinned(first: int, horizon: int, last: int, most: int = 200) -> Int[np.ndarray, " num"]:
    """At most `most` steps of `first` ... `last`: dense for a linear and for a logarithmic axis, with the horizon."""
    if last - first < most:
        return np.arange(first, last + 1)
    linear = np.linspace(first, last, most * 2 // 3)
    logarithmic = np.geomspace(max(first, 1), last, most - len(linear) - 2)
    return np.unique(np.round([first, horizon, *linear, *logarithmic]).astype(int))


def loss_range(curves: Iterable[Curve], start: float) -> tuple[float, float] | None:
    """Smallest and largest positive loss to show on a logarithmic axis; None if there is none.

    Up to twice the loss at the `start`, so that one that diverges does not flatten the others; down to what single precision
    can tell from zero beside it (`analysis.scores`).
    """
    values = np.concatenate([np.array([]), *(c.mean for c in curves)])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size or not start > 0:
        return None
    low, high = max(values.min(), np.finfo(np.float32).eps * start), min(values.max(), 2 * start)
    return (float(low) / 1.3, float(max(low, high)) * 1.3)


def start(records: Iterable[Record]) -> float:
    """The largest finite mean loss before the first step; NaN if there is none."""
    with np.errstate(all="ignore"):
        losses = np.array([r.curves.losses[:, 0].mean() for r in records])
    finite = losses[np.isfinite(losses)]
    return float(finite.max()) if finite.size else float("nan")


def profile(comparison: Comparison, num: int = 120) -> dict[str, Curve]:
    """Of every optimizer, the share of runs whose loss is at most x times the mean of the panel's best baseline."""
    scores = analysis.scores(comparison)
    values = np.concatenate([[1.0], *(v for panels in scores.values() for v in panels.values())])
    values = values[np.isfinite(values) & (values > 0)]
    low, high = min(values.min(), 0.5), np.clip(values.max(), 2.0, 1e6)  # beyond a million, by how much does not matter
    thresholds = np.geomspace(low / 1.1, high * 1.1, num)
    return {name: Curve(thresholds, *statistics.performance_profile(p, thresholds)) for name, p in scores.items() if p}
