"""Estimators on a problem that needs no calculus: s <- s + theta, with the loss s^2 after each step."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import Descent, bowl
from jaxtyping import Array, Float

import l2o
from l2o.meta.estimators.bptt import BPTT
from l2o.meta.estimators.pes import PES
from l2o.meta.recording import RecordedLoop

HORIZON = 4
THETA = 0.5
# s_t = t theta: the losses' sum is theta^2 sum t^2, and its derivative 2 theta sum t^2.
FULL = 2 * THETA * sum(t**2 for t in range(1, HORIZON + 1))
# With the start of every truncation held fixed, each step contributes 2 s_t = 2 theta t alone.
TRUNCATED = 2 * THETA * sum(range(1, HORIZON + 1))


class Theta(l2o.AbstractLearnedOptimizer):
    """One number; what an optimizer does is of no concern to an estimator."""

    theta: Float[Array, ""]

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, **extra):
        return updates, state


class Walk(l2o.AbstractInnerProblem):
    """An episode is (s, number of truncations done); its loss is infinite beyond `limit`."""

    horizon: int = HORIZON
    limit: float = 1e6

    def init(self, optimizer, key):
        return jnp.zeros(()), jnp.zeros((), jnp.int32)

    def advance(self, optimizer, state):
        s, t = state
        s = s + optimizer.theta
        return (s, t + 1), jnp.where(s > self.limit, jnp.inf, s**2)

    def finished(self, state):
        return state[1] >= self.horizon


def run(estimator, num_calls, theta=THETA, key=None):
    """Estimates of `num_calls` calls in a row, theta held."""
    optimizer = Theta(jnp.asarray(theta))
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_calls + 1)

    def call(state, key):
        estimate, state = estimator.estimate(optimizer, state, key)
        return state, estimate

    return jax.lax.scan(call, estimator.init(optimizer, keys[0]), keys[1:])[1]


def test_truncated_bptt_drops_what_is_carried_over():
    estimates = run(BPTT(Walk(), num_tasks=3), HORIZON)
    np.testing.assert_allclose(estimates.meta_loss, [(THETA * t) ** 2 for t in range(1, HORIZON + 1)])
    np.testing.assert_allclose(estimates.gradient.theta, [2 * THETA * t for t in range(1, HORIZON + 1)])
    np.testing.assert_allclose(jnp.sum(estimates.gradient.theta), TRUNCATED)


def test_the_mean_of_pes_is_the_gradient_of_the_whole_episode():
    """Exactly so on a quadratic, which smoothing only shifts by a constant. Truncation's bias would be 40 standard errors."""
    num_runs = 200
    gradient = jax.jit(jax.vmap(lambda key: jnp.sum(run(PES(Walk(), num_tasks=50), HORIZON, key=key).gradient.theta)))
    draws = gradient(jax.random.split(jax.random.key(1), num_runs))
    error = float(jnp.std(draws) / num_runs**0.5)
    assert abs(float(jnp.mean(draws)) - FULL) < 3 * error
    assert 40 * error < FULL - TRUNCATED


def test_pes_of_one_truncation_is_the_antithetic_estimate():
    """The first call of an episode: eps / (2 sigma^2) (L(theta + eps) - L(theta - eps)) = 2 theta eps^2 / sigma^2."""
    estimates = run(PES(Walk(), num_tasks=4000, std=0.1), 1)
    # The mean of eps^2 / sigma^2 is one, its variance two.
    np.testing.assert_allclose(estimates.gradient.theta[0], 2 * THETA, rtol=4 * (2 / 4000) ** 0.5)
    assert not np.isclose(estimates.gradient.theta[0], 2 * THETA, rtol=1e-6)  # an estimate after all
    np.testing.assert_allclose(estimates.meta_loss[0], THETA**2 + 0.1**2, rtol=0.05)


@pytest.mark.parametrize("make", [BPTT, PES])
def test_episodes_restart_at_the_horizon(make):
    """The losses of the second episode are those of the first; PES's perturbations are small beside theta here."""
    estimates = run(make(Walk(), num_tasks=20), 2 * HORIZON + 1)
    expected = [(THETA * (t % HORIZON + 1)) ** 2 for t in range(2 * HORIZON + 1)]
    np.testing.assert_allclose(estimates.meta_loss, expected, rtol=0.05)
    np.testing.assert_array_equal(estimates.num_diverged, 0)


def test_pes_forgets_its_perturbations_when_an_episode_ends():
    """With episodes of one truncation PES is plain ES, 2 theta eps^2 / sigma^2: its variance does not grow from call to call.

    It is 2 (2 theta)^2, and a sixth perturbation remembered would make it 7. The kurtosis of eps^2 is 15.
    """
    num_runs = 2000
    call = jax.jit(jax.vmap(lambda key: run(PES(Walk(horizon=1), num_tasks=1), 6, key=key).gradient.theta[-1]))
    draws = call(jax.random.split(jax.random.key(2), num_runs)) / (2 * THETA)
    np.testing.assert_allclose(jnp.mean(draws), 1.0, atol=4 * (2 / num_runs) ** 0.5)
    np.testing.assert_allclose(jnp.var(draws), 2.0, atol=4 * 2 * (14 / num_runs) ** 0.5)


@pytest.mark.parametrize("make", [BPTT, PES])
def test_a_diverged_episode_is_counted_and_started_afresh(make):
    """With theta = 1 and a limit of 2.5 the third step of each episode diverges, before the horizon of four."""
    estimates = run(make(Walk(limit=2.5), num_tasks=5), 7, theta=1.0)
    np.testing.assert_array_equal(estimates.num_diverged, [0, 0, 5, 0, 0, 5, 0])
    np.testing.assert_allclose(estimates.meta_loss, [1, 4, np.inf, 1, 4, np.inf, 1], rtol=0.05)


def test_bptt_in_batches_is_bptt():
    problem = l2o.InnerTraining(lambda key: bowl(start=1.5), horizon=6, truncation=3)
    optimizer = Descent(jnp.asarray(-2.0))
    results = []
    for batch_size in (None, 1, 4, 100):
        estimator = BPTT(problem, num_tasks=6, batch_size=batch_size)
        state = eqx.filter_jit(estimator.init)(optimizer, jax.random.key(0))
        results.append(eqx.filter_jit(estimator.estimate)(optimizer, state, jax.random.key(1))[0])
    for other in results[1:]:
        np.testing.assert_allclose(other.meta_loss, results[0].meta_loss, rtol=1e-6)
        np.testing.assert_allclose(other.gradient.log_rate, results[0].gradient.log_rate, rtol=1e-6)


def test_bptt_over_the_whole_horizon_is_exact_where_gradients_are_constant():
    """x <- x - e^a from 1 on f(x) = x: losses 1 - t e^a, and d/da of their mean over three steps is -e^a."""
    task = l2o.FunctionTask(lambda key: jnp.ones(()), lambda x, key: x)
    estimator = BPTT(l2o.InnerTraining(lambda key: task, horizon=3, truncation=3), num_tasks=2)
    optimizer = Descent(jnp.log(0.1))
    state = estimator.init(optimizer, jax.random.key(0))
    estimate, _ = estimator.estimate(optimizer, state, jax.random.key(1))
    np.testing.assert_allclose(estimate.meta_loss, 0.9, rtol=1e-6)
    np.testing.assert_allclose(estimate.gradient.log_rate, -0.1, rtol=1e-5)


def test_a_mixture_is_the_weighted_mean_of_clipped_gradients():
    """The third step of Walk has the gradient 2 theta t = 3, clipped to 2; that of an episode of one step always 1."""
    mixture = l2o.Mixture([BPTT(Walk(), num_tasks=2), BPTT(Walk(horizon=1), num_tasks=3)], [3.0, 1.0], max_norm=2.0)
    estimates = run(mixture, 5)
    clipped = np.minimum(2.0, [1, 2, 3, 4, 1])
    np.testing.assert_allclose(estimates.gradient.theta, (3 * clipped + 1) / 4, rtol=1e-6)
    # Each part's episodes end on their own.
    losses = (THETA * np.array([1, 2, 3, 4, 1])) ** 2
    np.testing.assert_allclose(estimates.meta_loss, (3 * losses + THETA**2) / 4, rtol=1e-6)


def test_in_a_mixture_each_divergence_is_counted_and_stays_with_its_family():
    mixture = l2o.Mixture([BPTT(Walk(limit=2.5), num_tasks=5), BPTT(Walk(), num_tasks=1)])
    estimates = run(mixture, 6, theta=1.0)
    np.testing.assert_array_equal(estimates.num_diverged, [0, 0, 5, 0, 0, 5])
    other = [1, 4, 9, 16, 1, 4]
    np.testing.assert_allclose(estimates.meta_loss[:2], [(1 + 1) / 2, (4 + 4) / 2])
    np.testing.assert_allclose(estimates.meta_loss[3:5], [(1 + other[3]) / 2, (4 + other[4]) / 2])


@pytest.mark.parametrize("estimators", [[], [RecordedLoop(lambda make, seed: None, num_tasks=1)]])
def test_a_mixture_refuses_what_it_cannot_mix(estimators):
    with pytest.raises(ValueError, match="at least one estimator, and none that runs PyTorch loops"):
        l2o.Mixture(estimators)


@pytest.mark.parametrize(
    "options", [{"weights": [1.0]}, {"weights": [1.0, 0.0]}, {"weights": [1.0, math.nan]}, {"max_norm": 0.0}]
)
def test_a_mixture_refuses_bad_weights_and_norms(options):
    with pytest.raises(ValueError, match="must be"):
        l2o.Mixture([BPTT(Walk(), num_tasks=1)] * 2, **options)
