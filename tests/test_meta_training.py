"""Meta-training improves a rule, keeps the best of it, and refuses what cannot be trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Affine, Descent, assert_trees_close, assert_trees_equal, bowl, bowls

import l2o
from l2o.meta.estimators.bptt import BPTT

KEY = jax.random.key(0)
SMALL = Descent(jnp.log(jnp.asarray(0.01, jnp.float32)))
VALIDATION = l2o.Validation(bowl, horizon=4, num_tasks=1, every=1, final_steps=1)
# An outer optimizer that ignores the gradient and adds 0.5 to every meta-parameter.
CLIMB = optax.GradientTransformation(
    lambda params: (),
    lambda updates, state, params=None: (jax.tree.map(lambda x: 0.5 * jnp.ones_like(x), updates), state),
)


def estimator(family=bowl, horizon=4, truncation=2, num_tasks=1):
    return BPTT(l2o.InnerTraining(family, horizon=horizon, truncation=truncation), num_tasks=num_tasks)


def test_it_learns_the_rate_of_gradient_descent():
    """On |x - c|^2 the best rate of all is 1/2, which solves every task in one step."""
    result = l2o.meta_train(SMALL, estimator(bowls, num_tasks=4), optax.adam(0.1), num_steps=80, key=KEY)
    first, last = (np.mean([row["meta_loss"] for row in rows]) for rows in (result.history[:4], result.history[-4:]))
    assert last < 0.6 * first
    assert 0.2 < float(jnp.exp(result.optimizer.log_rate)) < 0.7
    assert [row["step"] for row in result.history] == list(range(1, 81))
    assert (result.num_steps, result.num_skipped, result.num_diverged) == (80, 0, 0)
    assert result.num_episodes == 80 * 4 / 2
    assert result.best_score is None


def test_the_first_meta_loss_and_gradient_are_those_of_a_truncation():
    """Losses x_t^2 of x_t = (1 - 2 r)^t, t = 0, 1; to first order d/da of their mean is 2 x_1 (-2 r) / 2 with a = log r."""
    history = l2o.meta_train(SMALL, estimator(), num_steps=1, key=KEY).history
    np.testing.assert_allclose(history[0]["meta_loss"], (1 + 0.98**2) / 2, rtol=1e-6)
    np.testing.assert_allclose(history[0]["gradient_norm"], 0.98 * 2 * 0.01, rtol=1e-5)


@pytest.mark.slow
def test_a_mixture_meta_trains_on_families_of_different_shapes():
    """One in two dimensions and one in none; the parts' inner steps and episodes are counted, in all of them."""
    mixture = l2o.Mixture([estimator(bowls, num_tasks=4), estimator(bowl, horizon=8, num_tasks=2)])
    result = l2o.meta_train(SMALL, mixture, optax.adam(0.1), num_steps=80, key=KEY)
    first, last = (np.mean([row["meta_loss"] for row in rows]) for rows in (result.history[:4], result.history[-4:]))
    assert last < 0.6 * first
    assert 0.2 < float(jnp.exp(result.optimizer.log_rate)) < 0.7
    assert result.num_inner_steps == 80 * (4 * 2 + 2 * 2)
    assert result.num_episodes == 80 * (4 * 2 / 4 + 2 * 2 / 8)


def test_the_best_by_validation_is_kept_when_training_gets_worse():
    """The rate climbs by e^(1/2) a step, through the best one (1/2) and on to where descent diverges."""
    result = l2o.meta_train(SMALL, estimator(), CLIMB, num_steps=12, key=KEY, validation=VALIDATION)
    scores = [row["validation_loss"] for row in result.history]
    rates = 0.01 * np.exp(0.5 * np.arange(1, 13))
    np.testing.assert_allclose(scores, (1 - 2 * rates) ** 8, rtol=2e-3)
    best = int(np.argmin(scores))
    assert 0 < best < 11
    assert scores[-1] > 1e3
    np.testing.assert_allclose(np.exp(result.optimizer.log_rate), rates[best], rtol=1e-4)
    np.testing.assert_allclose(np.exp(result.last.log_rate), rates[-1], rtol=1e-4)
    assert result.best_score == scores[best]


def test_the_average_is_what_is_validated_and_returned():
    """The log rate climbs by 1/2 a step: phi_n = phi_0 + n/2, and its average with decay 0.8 follows in closed form."""
    result = l2o.meta_train(SMALL, estimator(), CLIMB, num_steps=6, key=KEY, validation=VALIDATION, average=0.8)
    average = climbed = np.log(0.01)
    for row in result.history:
        climbed += 0.5
        average = 0.8 * average + 0.2 * climbed
        np.testing.assert_allclose(row["validation_loss"], (1 - 2 * np.exp(average)) ** 8, rtol=1e-4)
    np.testing.assert_allclose(result.last.log_rate, average, rtol=1e-5)
    assert_trees_equal(result.optimizer, result.last)


def test_a_score_that_is_not_finite_is_never_the_best():
    broken = l2o.Validation(lambda key: bowl(start=jnp.nan), horizon=2, num_tasks=1, every=1)
    result = l2o.meta_train(SMALL, estimator(), CLIMB, num_steps=2, key=KEY, validation=broken)
    assert result.best_score is None
    assert_trees_equal(result.optimizer, result.last)


def test_a_meta_gradient_that_is_not_finite_is_skipped_and_counted():
    """x goes 1, 0.9, 0.81, 0.72 ... and its loss is not a number below 0.75: in every episode's second truncation."""
    task = l2o.FunctionTask(lambda key: jnp.ones(()), lambda x, key: x**2 * jnp.where(x < 0.75, jnp.nan, 1.0))
    start = Affine(jnp.zeros(()), jnp.asarray(-0.1))
    problem = l2o.InnerTraining(lambda key: task, horizon=4, truncation=2)
    tiny = optax.GradientTransformation(
        lambda params: jnp.zeros((), jnp.int32),
        lambda updates, count, params=None: (jax.tree.map(lambda x: 1e-3 * jnp.ones_like(x), updates), count + 1),
    )
    result = l2o.meta_train(start, BPTT(problem, num_tasks=1), tiny, num_steps=6, key=KEY)
    finite = [bool(np.isfinite(row["gradient_norm"])) for row in result.history]
    assert finite == [True, False] * 3
    assert [row["num_skipped"] for row in result.history] == [0, 1, 1, 2, 2, 3]
    assert (result.num_skipped, result.num_diverged, result.num_steps) == (3, 3, 6)
    # Three updates were made, and three were not.
    assert_trees_close(result.optimizer, Affine(jnp.asarray(3e-3), jnp.asarray(-0.1 + 3e-3)), rtol=1e-5)


def test_max_seconds_stops_early_and_still_validates():
    options = {"num_steps": 10**6, "key": KEY, "max_seconds": 4.0}  # compiling counts
    validation = l2o.Validation(bowl, horizon=2, num_tasks=1, every=10**6)
    result = l2o.meta_train(SMALL, estimator(), validation=validation, **options)
    assert 0 < result.num_steps < 10**6
    assert result.best_score == result.history[-1]["validation_loss"]


ONES = lambda key: jnp.ones(2)


@pytest.mark.parametrize(
    ("family", "error", "message"),
    [
        (
            lambda key: jnp.ones(3),
            TypeError,
            r"A task family must return a task, but <lambda> returned ShapeDtypeStruct",
        ),
        (
            lambda key: None,
            TypeError,
            r"must return a task, but <lambda> returned NoneType\. Return an `l2o\.AbstractTask`",
        ),
        (
            lambda key: l2o.FunctionTask(ONES, lambda x, key: x**2),
            ValueError,
            r"must be a scalar, got shape \(2,\)\. Reduce",
        ),
        (lambda key: l2o.FunctionTask(ONES, lambda x, key: 1), ValueError, r"The loss must be a"),
        (
            lambda key: l2o.FunctionTask(ONES, lambda x, key: jnp.sum(x).astype(int)),
            ValueError,
            r"must be a floating number, got dtype int32",
        ),
        (
            lambda key: l2o.FunctionTask(ONES, lambda x, key: jnp.sum(x) * jnp.nan),
            ValueError,
            r"not finite at the start of 8 of 8 tasks drawn \(values: \[nan, .*Check the family's init and loss",
        ),
        (
            lambda key: l2o.FunctionTask(lambda key: {"n": jnp.arange(3)}, lambda x, key: 1.0),
            TypeError,
            r"params must be floating arrays to be optimized, but `init` returned \['n'\]: int32",
        ),
        (lambda key: l2o.FunctionTask(lambda key: {}, lambda x, key: 1.0), TypeError, r"returned no leaves at all"),
    ],
    ids=["array", "none", "vector", "int", "integer", "nan", "integer params", "no params"],
)
def test_bad_tasks_are_refused_before_anything_is_run(tmp_path, family, error, message):
    with pytest.raises(error, match=message):
        l2o.meta_train(SMALL, estimator(family), num_steps=1, key=KEY, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_truncation_that_does_not_divide_the_horizon():
    with pytest.raises(ValueError, match=r"`truncation` must divide `horizon`, got truncation=3 and horizon=4"):
        estimator(horizon=4, truncation=3)


@pytest.mark.parametrize("average", [-0.1, 1.0])
def test_an_average_that_is_none(average):
    with pytest.raises(ValueError, match=rf"`average` must be at least 0 and below 1, got {average}"):
        l2o.meta_train(SMALL, estimator(), num_steps=1, key=KEY, average=average)


def test_no_steps():
    with pytest.raises(ValueError, match=r"`num_steps` must be at least 1, got 0"):
        l2o.meta_train(SMALL, estimator(), num_steps=0, key=KEY)
