r"""What a handful of runs says about an optimizer: intervals that cover, and summaries over many families.

Runs are few (10 to 40 seeds) and skewed, where the plain percentile bootstrap covers 88 to 92 % when it says 95. So means get
the *studentized* bootstrap, everything else the percentile bootstrap *expanded* for small samples; tests/test_statistics.py
measures the coverage. Across families, resampling is stratified: seeds are drawn within a family (Agarwal et al. 2021).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Float

from l2o.core.checks import count
from l2o.core.intervals import IntervalEstimate, check_bootstrap, resample
from l2o.core.intervals import ratio_interval as ratio_interval

Scores = Mapping[str, Float[np.ndarray, " num_seeds"]]  # by family


def bootstrap_interval(
    values: Float[np.ndarray, " num"],
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    r"""Interval of `statistic(values, axis)` over tasks.

    For the mean it is studentized, $[\bar x - q_{1-\alpha/2}\, s, \bar x - q_{\alpha/2}\, s]$ with $q$ the quantiles of
    $(\bar x^* - \bar x) / s^*$ (Efron & Tibshirani 1993, section 12.5); for others, percentiles expanded to
    $\Phi(\sqrt{n/(n-1)}\, t_{n-1,\alpha/2})$ (Hesterberg 2015, section 4.1). The mean of values none of which is negative
    is not below 0. A single value has no interval: NaN.
    """
    check_bootstrap(confidence, num_resamples)
    values = np.asarray(values, float)
    if len(values) < 2:
        return float("nan"), float("nan")
    if statistic is np.mean:
        low, high = mean_band(values[:, None], confidence=confidence, num_resamples=num_resamples, seed=seed)
        return float(low[0]), float(high[0])
    statistics = statistic(resample(values, num_resamples, seed), axis=1)
    low, high = np.quantile(statistics, _expanded([len(values)], confidence))
    return float(low), float(high)


def mean_band(
    values: Float[np.ndarray, "num steps"], *, confidence: float = 0.95, num_resamples: int = 500, seed: int = 0
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """The mean's interval at every step of curves, as `bootstrap_interval` computes it; NaN where a run is not finite."""
    check_bootstrap(confidence, num_resamples)
    values = np.asarray(values, float)
    num = len(values)
    if num < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    index = np.random.default_rng(seed).integers(0, num, (num_resamples, num))
    # Means and deviations of all resamples by one matrix product with how often each value was drawn.
    counts = np.stack([np.bincount(row, minlength=num) for row in index]) / num  # [num_resamples, num]
    with np.errstate(all="ignore"):
        mean = values.mean(axis=0)
        centred = values - mean
        error = values.std(axis=0, ddof=1) / np.sqrt(num)
        shift = counts @ centred
        spread = np.sqrt(np.maximum(counts @ centred**2 - shift**2, 0) / (num - 1))
        # A resample of equal values has no spread and says nothing; a constant sample has no error at all.
        pivots = np.where(spread > 1e-9 * error, shift / spread, np.nan)
        tails = np.array([(1 + confidence) / 2, (1 - confidence) / 2])
        upper, lower = np.nanquantile(np.where(error > 0, pivots, 0.0), tails, axis=0)
        floor = np.where((values >= 0).all(axis=0), 0.0, -np.inf)
        return np.maximum(mean - upper * error, floor), mean - lower * error


def interquartile_mean(values: Float[np.ndarray, "*shape"], axis: int = 0) -> Any:
    """Mean of the middle half of the values: as robust as the median, less noisy (Agarwal et al. 2021)."""
    return scipy.stats.trim_mean(values, 0.25, axis=axis)


def stratified(
    statistic: Callable[..., Float[np.ndarray, "..."]],
    *scores: Scores,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> IntervalEstimate:
    """`statistic(*scores)` with its stratified bootstrap interval: seeds are resampled within each family.

    `statistic` takes, for each of `scores`, a list of arrays [num_resamples, num_seeds], one a family, and returns an array
    [num_resamples]. Different `scores` are resampled independently.
    """
    check_bootstrap(confidence, num_resamples)
    if not all(scores):
        raise ValueError("`scores` must hold at least one family, got none.")
    generator = np.random.default_rng(seed)
    value = statistic(*([np.asarray(v, float)[None] for v in s.values()] for s in scores))
    drawn = []
    for families in scores:
        drawn.append(
            [np.asarray(v, float)[generator.integers(0, len(v), (num_resamples, len(v)))] for v in families.values()]
        )
    sizes = [len(v) for s in scores for v in s.values()]
    if min(sizes) < 2:
        return IntervalEstimate(float(value[0]), float("nan"), float("nan"))
    low, high = np.quantile(statistic(*drawn), _expanded(sizes, confidence), method="nearest")  # inf stays inf
    return IntervalEstimate(float(value[0]), float(low), float(high))


def aggregate(scores: Scores, **options) -> IntervalEstimate:
    """Interquartile mean over all runs of all families, with its stratified interval."""
    return stratified(lambda runs: interquartile_mean(np.concatenate(runs, axis=1), axis=1), scores, **options)


def probability_of_improvement(ours: Scores, theirs: Scores, **options) -> IntervalEstimate:
    r"""$P(X < Y) + \tfrac12 P(X = Y)$ of a run of ours and one of theirs (lower is better), averaged over families.

    The Mann-Whitney statistic (Agarwal et al. 2021, section 4.3). A diverged run (inf, NaN) loses against any finite one.
    """

    def probability(ours, theirs):
        wins = []
        for x, y in zip(ours, theirs, strict=True):
            x, y = (np.where(np.isnan(v), np.inf, v) for v in (x, y))
            num = x.shape[1]
            ranks = scipy.stats.rankdata(np.concatenate([x, y], axis=1), axis=1)  # all pairs would take num² memory
            losses = ranks[:, :num].sum(axis=1) - num * (num + 1) / 2
            wins.append(1 - losses / (num * y.shape[1]))
        return np.mean(wins, axis=0)

    return stratified(probability, ours, {name: theirs[name] for name in ours}, **options)


def performance_profile(
    scores: Scores, thresholds: Float[np.ndarray, " num"], *, num_resamples: int = 500, seed: int = 0
) -> tuple[Float[np.ndarray, " num"], Float[np.ndarray, " num"], Float[np.ndarray, " num"]]:
    r"""Share of runs with a score of at most $\tau$, for every $\tau$ of `thresholds`, and its stratified 95 % band.

    (value, low, high), averaged over families (Dolan & Moré 2002; Agarwal et al. 2021). A diverged run never counts.
    """
    count("num_resamples", num_resamples)
    generator = np.random.default_rng(seed)
    value, resampled = [], []
    for runs in scores.values():
        below = np.asarray(runs, float)[:, None] <= thresholds[None]  # NaN is not
        value.append(below.mean(axis=0))
        index = generator.integers(0, len(below), (num_resamples, len(below)))
        resampled.append(below[index].mean(axis=1))
    low, high = np.quantile(np.mean(resampled, axis=0), [0.025, 0.975], axis=0)
    return np.mean(value, axis=0), low, high


def steps_to_reach(curve: Float[np.ndarray, " num_steps"], loss: float) -> int | None:
    """The first step at which `curve` is at or below `loss`; None if it never is."""
    reached = np.flatnonzero(np.asarray(curve) <= loss)
    return int(reached[0]) if len(reached) else None


def _expanded(sizes, confidence):
    """Tails of the bootstrap's distribution: it is narrow by sqrt(1 - 1/n) in each sample, and knows no t quantiles."""
    num = float(np.mean(sizes))
    tail = scipy.special.ndtr(
        np.sqrt(num / (num - 1)) * scipy.stats.t.ppf((1 - confidence) / 2, sum(sizes) - len(sizes))
    )
    return [tail, 1 - tail]
