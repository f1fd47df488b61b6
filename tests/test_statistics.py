"""Intervals that cover what they say, closed forms, and SciPy's numbers."""

import numpy as np
import pytest
import scipy.stats

import l2o
from l2o.core.intervals import binomial_interval
from l2o.evaluation import statistics


def sample_normal(rng, num):
    return rng.normal(3.0, 1.0, num)


def sample_gamma(rng, num):
    """Skewed, as losses are: mean 3."""
    return rng.gamma(2.0, 1.5, num)


# 2,000 samples: the measured coverage has a standard error of half a percent.
@pytest.mark.parametrize("draw", [sample_normal, sample_gamma])
@pytest.mark.parametrize("num", [10, 20, 100])
def test_the_interval_of_a_mean_covers_it(draw, num):
    rng = np.random.default_rng(0)
    samples = np.stack([draw(rng, num) for _ in range(2000)])
    low, high = statistics.mean_band(samples.T, num_resamples=1000)
    assert 0.93 <= np.mean((low <= 3.0) & (high >= 3.0)) <= 0.97


@pytest.mark.parametrize("num", [10, 40])
def test_the_interval_of_a_ratio_covers_it(num):
    """Paired: what is hard for one optimizer is hard for the other."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(1000):
        hard = rng.gamma(4.0, 0.25, num)
        x, y = 0.8 * hard * rng.gamma(9.0, 1 / 9, num), hard * rng.gamma(9.0, 1 / 9, num)
        _, low, high = l2o.ratio_interval(x, y, num_resamples=500)
        covered += low <= 0.8 <= high
    assert 0.93 <= covered / 1000 <= 0.97


def test_the_stratified_interval_of_an_interquartile_mean_covers_it():
    """Three families of 10 seeds, symmetric about 1: there the interquartile mean is 1 too."""
    rng, covered = np.random.default_rng(2), 0
    for trial in range(1000):
        scores = {name: rng.normal(1.0, 0.3, 10) for name in "abc"}
        _, low, high = statistics.aggregate(scores, num_resamples=500, seed=trial)
        covered += low <= 1.0 <= high
    assert 0.93 <= covered / 1000 <= 0.97


def test_the_interval_of_a_median_covers_it():
    rng, covered = np.random.default_rng(3), 0
    for trial in range(1000):
        low, high = l2o.bootstrap_interval(rng.normal(3.0, 2.0, 40), np.median, num_resamples=500, seed=trial)
        covered += low <= 3.0 <= high
    assert 0.93 <= covered / 1000 <= 0.97


def test_bands_are_the_intervals_of_every_step():
    values = np.random.default_rng(4).gamma(2.0, size=(12, 3))
    low, high = statistics.mean_band(values, num_resamples=2000)
    for step in range(3):
        assert (low[step], high[step]) == pytest.approx(l2o.bootstrap_interval(values[:, step]))


def test_the_mean_of_losses_is_not_below_zero():
    """One run in ten is a thousand times worse: the studentized bound alone would be negative."""
    low, high = l2o.bootstrap_interval(np.array([1e-3] * 9 + [1.0]))
    assert low == 0.0
    assert high > 0.1


def test_degenerate_samples():
    assert l2o.bootstrap_interval(np.full(5, 2.0)) == (2.0, 2.0)
    assert np.isnan(l2o.bootstrap_interval(np.array([1.0]))).all()
    assert np.isnan(l2o.ratio_interval(np.array([1.0, np.inf]), np.array([1.0, 1.0]))[1:]).all()
    low, high = statistics.mean_band(np.array([[1.0, 1.0], [np.inf, 2.0], [1.0, np.nan]]))
    assert np.isnan(low).all()
    assert np.isnan(high).all()


@pytest.fixture
def both():
    rng = np.random.default_rng(5)
    ours = {name: rng.gamma(2.0, 1.0, 10) for name in "abcd"}
    theirs = {name: rng.gamma(2.0, 1.3, 10) for name in "abcd"}
    return ours, theirs


def test_scipy_gives_the_same(both):
    """The Mann-Whitney statistic counts the pairs that ours loses, over all pairs, family by family."""
    ours, theirs = both
    pairs = [scipy.stats.mannwhitneyu(theirs[name], ours[name]).statistic / 100 for name in ours]
    assert statistics.probability_of_improvement(ours, theirs).value == pytest.approx(np.mean(pairs))
    pooled = np.sort(np.concatenate(list(ours.values())))
    assert statistics.aggregate(ours).value == pytest.approx(pooled[10:30].mean())


@pytest.mark.parametrize(("successes", "num"), [(0, 5), (3, 10), (97, 100), (7, 7)])
def test_the_interval_of_a_share_is_exact(successes, num):
    share, low, high = binomial_interval(successes, num)
    expected = scipy.stats.binomtest(successes, num).proportion_ci(0.95, "exact")
    assert (share, low, high) == pytest.approx((successes / num, expected.low, expected.high))
    with pytest.raises(ValueError, match="from 0 to 5"):
        binomial_interval(6, 5)


def test_a_profile_is_the_share_of_runs_at_or_below_a_threshold():
    scores = {"a": np.array([1.0, 2.0, 3.0, np.inf]), "b": np.array([0.5, np.nan])}
    value, low, high = statistics.performance_profile(scores, np.array([0.5, 2.0, 1e9]))
    np.testing.assert_allclose(value, [(0 + 0.5) / 2, (0.5 + 0.5) / 2, (0.75 + 0.5) / 2])
    assert np.all((low <= value) & (value <= high))


def test_probability_of_improvement_in_closed_form():
    better = statistics.probability_of_improvement(
        {"a": np.zeros(4), "b": np.zeros(4)}, {"a": np.ones(4), "b": np.zeros(4)}
    )
    assert better.value == 0.75  # always better on a, a tie on b
    diverged = statistics.probability_of_improvement({"a": np.array([np.nan, 0.0])}, {"a": np.ones(2)})
    assert diverged.value == 0.5


def test_a_quarter_of_diverged_runs_is_trimmed_and_more_is_not():
    values = np.ones(8)
    values[:2] = np.inf
    assert statistics.aggregate({"a": values}).value == 1.0
    values[:3] = np.inf
    assert statistics.aggregate({"a": values}).value == np.inf


def test_steps_to_reach():
    curve = np.array([4.0, 2.0, 1.0, 0.5])
    assert statistics.steps_to_reach(curve, 1.0) == 2
    assert statistics.steps_to_reach(curve, 0.1) is None
