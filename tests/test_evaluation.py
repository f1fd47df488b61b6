"""Loss curves, intervals, tuning and baselines: closed forms, and procedures that must find a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from fakes import Descent, bowl, bowls

import l2o

KEY = jax.random.key(0)


def noisy(key):
    """|x - c|^2 with a c and a start drawn, and minibatch noise added to the loss."""
    centre = jax.random.normal(key, (2,))
    return l2o.FunctionTask(
        lambda key: jax.random.normal(key, (2,)),
        lambda x, key: jnp.sum((x - centre) ** 2) + jax.random.normal(key),
    )


class Scored(l2o.AbstractTask):
    """x^2 with metrics, and another loss on the other splits."""

    def init(self, key):
        return jnp.ones(())

    def loss(self, params, key, *, split="train"):
        return params**2 + {"train": 0.0, "test": 5.0}[split]

    def metrics(self, params, key, *, split="test"):
        return {"x": params, "is_test": jnp.asarray(split == "test")}


def test_entry_t_is_the_loss_after_t_steps():
    curves = l2o.loss_curves(optax.sgd(0.1), bowl, horizon=4, num_tasks=2, key=KEY)
    np.testing.assert_allclose(curves, np.tile(0.8 ** (2 * np.arange(5)), (2, 1)), rtol=1e-5)


def test_evaluate_reports_the_split_asked_for_and_metrics():
    curves = l2o.evaluate(optax.sgd(0.1), lambda key: Scored(), horizon=2, num_tasks=3, key=KEY, split="test")
    np.testing.assert_allclose(curves.losses, np.tile(5 + 0.8 ** (2 * np.arange(3)), (3, 1)), rtol=1e-5)
    assert curves.metrics["x"].shape == (3,)
    assert curves.metrics["is_test"].all()


def test_metrics_are_of_the_params_after_the_horizon():
    """Those whose loss is the last of the curve."""
    curves = l2o.evaluate(optax.sgd(0.1), lambda key: Scored(), horizon=2, num_tasks=1, key=KEY)
    np.testing.assert_allclose(curves.metrics["x"] ** 2, curves.losses[:, -1], rtol=1e-5)


def test_optimizers_are_compared_on_the_same_tasks_starts_and_minibatches():
    """A rule that stays put sees the same noise under any name; only the key changes it."""
    options = {"horizon": 3, "num_tasks": 4}
    still = l2o.loss_curves(optax.sgd(0.0), noisy, key=KEY, **options)
    learned = l2o.loss_curves(Descent(jnp.asarray(-jnp.inf)), noisy, key=KEY, **options)
    np.testing.assert_array_equal(still, learned)
    moving = l2o.loss_curves(optax.adam(0.1), noisy, key=KEY, **options)
    np.testing.assert_array_equal(moving[:, 0], still[:, 0])
    assert not np.any(moving[:, 1] == still[:, 1])
    assert np.unique(still).size == still.size
    assert not np.any(l2o.loss_curves(optax.sgd(0.0), noisy, key=jax.random.key(1), **options) == still)


def test_batches_change_nothing():
    whole, parts = (
        l2o.loss_curves(optax.adam(0.1), noisy, horizon=3, num_tasks=4, key=KEY, batch_size=size) for size in (None, 3)
    )
    np.testing.assert_allclose(whole, parts, rtol=1e-6)


def test_divergence_is_reported_as_it_is():
    curves = l2o.loss_curves(optax.sgd(1e4), bowl, horizon=20, num_tasks=1, key=KEY)
    assert np.isfinite(curves[0, 0])
    assert not np.isfinite(curves[0, -1])


def test_the_bootstrap_interval_covers():
    """95 % intervals for the mean of 100 normals hold it 95 % of the time; the standard error is half a percent."""
    rng, num_trials, covered = np.random.default_rng(0), 2000, 0
    for trial in range(num_trials):
        low, high = l2o.bootstrap_interval(rng.normal(3.0, 2.0, 100), num_resamples=400, seed=trial)
        covered += low <= 3.0 <= high
    assert 0.93 <= covered / num_trials <= 0.97


def test_the_bootstrap_interval_of_a_median_and_of_less_confidence():
    values = np.random.default_rng(1).normal(size=200)
    low, high = l2o.bootstrap_interval(values, np.median)
    assert low < np.median(values) < high
    wide, narrow = (l2o.bootstrap_interval(values, confidence=c) for c in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    # Half of a normal law lies within 0.674 standard deviations.
    np.testing.assert_allclose(narrow[1] - narrow[0], 2 * 0.674 * values.std() / 200**0.5, rtol=0.15)


def test_the_ratio_interval_is_paired():
    """Tasks differ a thousandfold, the ratio hardly: pairing sees the latter only."""
    rng = np.random.default_rng(2)
    denominator = 10 ** rng.uniform(0, 3, 50)
    assert l2o.ratio_interval(0.8 * denominator, denominator) == pytest.approx((0.8, 0.8, 0.8))
    ratio, low, high = l2o.ratio_interval(denominator * rng.normal(0.8, 0.05, 50), denominator)
    assert low < ratio < high
    assert high - low < 0.1


def test_tune_finds_the_known_best_rate():
    """Gradient descent on x^2 multiplies by 1 - 2 r: best at r = 1/2, and beyond 1 it diverges."""
    grid = np.array([0.01, 0.1, 0.5, 0.9, 50.0])
    tuned = l2o.tune(optax.sgd, grid, bowl, horizon=20, num_tasks=2, key=KEY, final_steps=1)
    assert tuned.value == 0.5
    assert not tuned.at_edge
    np.testing.assert_allclose(tuned.losses[:4], (1 - 2 * grid[:4]) ** 40, rtol=1e-4, atol=1e-30)
    assert tuned.losses[4] == np.inf


def test_tune_scores_the_mean_of_the_last_steps():
    tuned = l2o.tune(optax.sgd, np.array([0.1, 0.2]), bowl, horizon=4, num_tasks=1, key=KEY, final_steps=3)
    expected = [np.mean((1 - 2 * r) ** (2 * np.arange(2, 5))) for r in (0.1, 0.2)]
    np.testing.assert_allclose(tuned.losses, expected, rtol=1e-5)


@pytest.mark.parametrize("grid", [[0.01, 0.1], [0.9, 0.95], [0.5]])
def test_tune_flags_the_edge_of_the_grid(grid):
    assert l2o.tune(optax.sgd, np.array(grid), bowl, horizon=5, num_tasks=1, key=KEY).at_edge


def test_one_diverged_run_rules_a_value_out():
    """Half of the tasks are so steep that the larger rate diverges on them."""

    def family(key):
        steep = jnp.where(jax.random.bernoulli(key), 100.0, 1.0)
        return l2o.FunctionTask(lambda key: jnp.ones(()), lambda x, key: steep * x**2)

    tuned = l2o.tune(optax.sgd, np.array([0.004, 0.3]), family, horizon=60, num_tasks=8, key=KEY)
    assert tuned.value == 0.004
    assert tuned.losses[1] == np.inf


def test_tune_raises_if_everything_diverges():
    with pytest.raises(ValueError, match=r"Every run diverged .* grid \[50\.0, 100\.0\]\. Try smaller values\."):
        l2o.tune(optax.sgd, np.array([50.0, 100.0]), bowl, horizon=40, num_tasks=1, key=KEY)


def test_schedule_free_is_judged_at_its_average():
    rate, task = 0.3, bowls(jax.random.key(3))
    ours = l2o.baselines.get("schedule_free_adam").make(rate)
    _, losses = l2o.unroll(task, ours, l2o.start(task, ours, KEY), KEY, length=5)

    theirs = optax.contrib.schedule_free_adamw(rate)
    params = task.init(KEY)
    state, at_average, at_iterate = theirs.init(params), [], []
    for _ in range(5):
        at_average.append(task.loss(optax.contrib.schedule_free_eval_params(state, params), KEY))
        at_iterate.append(task.loss(params, KEY))
        updates, state = theirs.update(jax.grad(task.loss)(params, KEY), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(losses, at_average, rtol=1e-5)
    assert not np.allclose(losses, at_iterate, rtol=1e-2)


@pytest.mark.parametrize("name", l2o.baselines.BASELINES)
def test_every_baseline_reduces_the_loss(name):
    def family(key):
        target = jax.random.normal(key, (2, 2))
        return l2o.FunctionTask(
            lambda key: {"matrix": jnp.zeros((2, 2)), "bias": jnp.ones(2)},
            lambda x, key: jnp.sum((x["matrix"] - target) ** 2) + jnp.sum(x["bias"] ** 2),
        )

    baseline = l2o.baselines.get(name)
    tuned = l2o.tune(baseline.make, np.array([1e-2, 1e-1]), family, horizon=30, num_tasks=2, key=jax.random.key(1))
    start = np.mean(l2o.loss_curves(optax.sgd(0.0), family, horizon=0, num_tasks=2, key=jax.random.key(1)))
    assert tuned.losses.min() < 0.5 * start
    if not baseline.tuned:
        assert tuned.losses[0] == tuned.losses[1]


def test_baselines_keep_optaxs_defaults():
    """The rate is the only thing we set (and momentum, for which optax has no default)."""
    params, gradient = jnp.ones(3), jnp.asarray([0.1, -2.0, 5.0])
    for name in ("rmsprop", "adagrad", "adam", "adamw", "lion"):
        ours, theirs = l2o.baselines.get(name).make(0.1), getattr(optax, name)(0.1)
        updates = [o.update(gradient, o.init(params), params)[0] for o in (ours, theirs)]
        np.testing.assert_array_equal(*updates)


def test_an_unknown_baseline_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"No baseline named 'adm'\. Baselines: sgd, momentum, .*lbfgs\."):
        l2o.baselines.get("adm")


def test_the_default_grid_has_half_decade_steps():
    rates = l2o.baselines.learning_rates()
    np.testing.assert_allclose(rates[[0, -1]], [1e-4, 10.0])
    np.testing.assert_allclose(rates[1:] / rates[:-1], 10**0.5)


def test_the_metrics_of_schedule_free_are_at_its_average():
    ours = l2o.baselines.get("schedule_free_adam").make(0.3)
    curves = l2o.evaluate(ours, lambda key: Scored(), horizon=5, num_tasks=1, key=KEY)
    np.testing.assert_allclose(curves.metrics["x"] ** 2, curves.losses[:, -1], rtol=1e-5)
