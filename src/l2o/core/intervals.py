"""A statistic with its interval, and the ratio of two optimizers' losses on the same tasks: plain numbers, read without JAX."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from l2o.core.checks import count, real


class IntervalEstimate(NamedTuple):
    """A statistic, and the bounds of its interval."""

    value: float
    low: float
    high: float


def ratio_interval(
    numerator: Float[np.ndarray, " num"],
    denominator: Float[np.ndarray, " num"],
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    r"""Ratio of the means of paired positive values (same tasks) and its paired interval: (ratio, low, high).

    NaN, all three, where a mean is negative or the denominator's is zero: such a ratio says nothing.

    Studentized in $\log(\bar x / \bar y)$, whose error by the delta method is the deviation of
    $x_i / \bar x - y_i / \bar y$ over $\sqrt n$. NaN bounds where a run is not finite.
    """
    check_bootstrap(confidence, num_resamples)
    x, y = np.asarray(numerator, float), np.asarray(denominator, float)
    if x.shape != y.shape:
        raise ValueError(
            f"`numerator` and `denominator` must be of the same tasks, got {x.shape} and {y.shape} values."
        )
    with np.errstate(all="ignore"):
        if x.mean() < 0 or y.mean() <= 0:
            return float("nan"), float("nan"), float("nan")
        ratio = x.mean() / y.mean()
        if len(x) < 2 or not np.isfinite(np.log(ratio)):
            return float(ratio), float("nan"), float("nan")
        pairs = resample(np.stack([x, y], axis=1), num_resamples, seed)  # [num_resamples, num, 2]
        ratios, errors = _log_ratio(pairs)
        (centre,), (error,) = _log_ratio(np.stack([x, y], axis=1)[None])
        if error == 0:
            return float(ratio), float(ratio), float(ratio)
        pivots = ((ratios - centre) / errors)[errors > 1e-9 * error]
        upper, lower = np.nanquantile(pivots, [(1 + confidence) / 2, (1 - confidence) / 2])
    return float(ratio), float(np.exp(centre - upper * error)), float(np.exp(centre - lower * error))


def binomial_interval(successes: int, num: int, confidence: float = 0.95) -> IntervalEstimate:
    """A share and its exact interval (Clopper & Pearson 1934): it covers the true one at least so often, whatever that is."""
    count("num", num)
    if not 0 <= successes <= num:
        raise ValueError(f"`successes` must be from 0 to {num}, how many there were in all; got {successes}.")
    _check_confidence(confidence)
    from scipy.special import betaincinv  # a third of a second, which those who ask for no share do not wait

    outside = (1 - confidence) / 2
    low = float(betaincinv(successes, num - successes + 1, outside)) if successes else 0.0
    high = float(betaincinv(successes + 1, num - successes, 1 - outside)) if successes < num else 1.0
    return IntervalEstimate(successes / num, low, high)


def _log_ratio(pairs):
    means = pairs.mean(axis=1)
    relative = pairs / means[:, None, :]
    errors = (relative[..., 0] - relative[..., 1]).std(axis=1, ddof=1) / np.sqrt(pairs.shape[1])
    return np.log(means[:, 0] / means[:, 1]), errors


def check_bootstrap(confidence: float, num_resamples: int) -> None:
    """Refuses what is no share, or no number of resamples: a `ValueError`."""
    _check_confidence(confidence)
    count("num_resamples", num_resamples)


def _check_confidence(confidence):
    if not 0 < real("confidence", confidence) < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, such as 0.95, got {confidence!r}.")


def resample(
    values: Float[np.ndarray, "num *rest"], num_resamples: int, seed: int
) -> Float[np.ndarray, "num_resamples num *rest"]:
    """So many samples of the size of `values`, drawn from them with replacement."""
    index = np.random.default_rng(seed).integers(0, len(values), (num_resamples, len(values)))
    return values[index]
