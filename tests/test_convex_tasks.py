"""Quadratics of a condition number, logistic regression on tables, LASSO with its minimum, sparse recovery."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o.tasks import lasso, logistic, quadratic, sparse_recovery

KEY = jax.random.key(0)


# ---- quadratic


@pytest.mark.parametrize("condition", [1.0, 1000.0])
def test_quadratic_has_the_condition_number_asked_for_and_even_eigenvalues(condition, x64):
    task = quadratic.family(dim=5, condition=condition)(KEY)
    eigenvalues = np.linalg.eigvalsh(task.W.T @ task.W)
    np.testing.assert_allclose(eigenvalues, np.geomspace(1 / condition, 1, 5), rtol=1e-9)


def test_conditioned_quadratics_are_rotated_at_random():
    first, second = (quadratic.family(dim=5, condition=10.0)(jax.random.key(seed)).W for seed in range(2))
    assert np.abs(first - second).max() > 0.1
    assert np.count_nonzero(np.abs(first) > 1e-6) == 25  # no axis is an eigenvector


@pytest.mark.parametrize(("preset", "draw"), [("paper", jax.random.normal), ("code", jax.random.uniform)])
def test_quadratic_without_a_condition_number_draws_independent_entries(preset, draw):
    """Frozen: other draws would silently change every number that was measured on these."""
    task = quadratic.family(dim=3, preset=preset)(KEY)
    w_key, y_key = jax.random.split(KEY)
    np.testing.assert_array_equal(task.W, draw(w_key, (3, 3)))
    np.testing.assert_array_equal(task.y, draw(y_key, (3,)))


@pytest.mark.parametrize("settings", [{"condition": 0.5}, {"condition": 10.0, "preset": "code"}])
def test_quadratic_refuses_an_impossible_condition_number(settings):
    with pytest.raises(ValueError, match=rf"at least 1, .*preset 'paper' only, got condition={settings['condition']}"):
        quadratic.family(**settings)


# ---- logistic


@pytest.mark.parametrize(
    ("name", "num_classes", "shape"), [("breast_cancer", 2, (456, 30)), ("digits", 10, (1442, 64))]
)
def test_tables_are_standardised_and_split(name, num_classes, shape):
    task = logistic.family(data=name)(KEY)
    assert task.x.shape == shape
    assert task.num_classes == num_classes
    np.testing.assert_allclose(task.x.mean(axis=0), 0, atol=1e-4)
    std = np.asarray(task.x.std(axis=0))
    np.testing.assert_allclose(std[std > 0], 1, rtol=1e-4)  # a pixel that is always 0 stays 0
    assert task.loss(task.init(KEY), KEY) == pytest.approx(np.log(num_classes), rel=1e-5)
    assert task.loss(task.init(KEY), KEY, split="test") == pytest.approx(np.log(num_classes), rel=1e-5)


def test_two_classes_are_three_of_which_one_is_impossible(x64):
    x = jax.random.normal(KEY, (7, 4))
    y = jnp.array([0, 1, 1, 0, 1, 0, 0])
    w = jnp.arange(4.0)
    two = logistic.Logistic(x, 2.0 * y - 1, 0.0)
    three = logistic.Logistic(x, y, 0.0, num_classes=3)
    params = {"w": jnp.stack([-w / 2, w / 2, 0 * w], axis=1), "b": jnp.array([-0.1, 0.1, -1e9])}
    expected = two.loss({"w": w, "b": jnp.asarray(0.2)}, KEY)
    np.testing.assert_allclose(three.loss(params, KEY), expected, rtol=1e-12)
    accuracies = two.metrics({"w": w, "b": jnp.asarray(0.2)}, KEY), three.metrics(params, KEY)
    assert accuracies[0]["accuracy"] == accuracies[1]["accuracy"]


def test_growers_of_wine_are_linearly_separable():
    """As UCI's description says; and a third of the wines, never seen, are mostly told apart."""
    import optax

    family = logistic.family(data="wine", weight_decay=1e-4)
    task = family(KEY)
    state, losses = l2o.unroll(task, optax.adam(0.1), l2o.start(task, optax.adam(0.1), KEY), KEY, length=200)
    assert losses[-1] < 0.01
    assert task.metrics(state.params, KEY, split="train")["accuracy"] == 1
    assert task.metrics(state.params, KEY)["accuracy"] > 0.9


def test_minibatches_are_unbiased_and_outer_is_the_whole():
    whole, parts = (logistic.family(data="wine", init_std=1.0, batch_size=size)(KEY) for size in (None, 8))
    params = whole.init(KEY)
    np.testing.assert_array_equal(parts.init(KEY)["w"], params["w"])
    losses = np.asarray(jax.jit(jax.vmap(lambda key: parts.loss(params, key)))(jax.random.split(KEY, 1000)))
    expected = whole.loss(params, KEY)
    assert losses.std() > 0.1
    assert losses.mean() == pytest.approx(float(expected), abs=4 * losses.std() / np.sqrt(1000))
    np.testing.assert_allclose(parts.loss(params, KEY, split="outer"), expected, rtol=1e-6)


def test_logistic_says_which_tables_there_are():
    with pytest.raises(ValueError, match=r"No table named 'mnist'\. Tables: breast_cancer, wine, digits\."):
        logistic.family(data="mnist")


# ---- LASSO


def test_fista_meets_the_optimality_conditions(x64):
    """0 is in the subdifferential: |A'(Ax - b)| <= λ, and = -λ sign(x) where x is not 0 (Tibshirani 2013, eq. 2)."""
    l1 = 0.1
    task = lasso.family(rows=20, dim=40, l1=l1)(KEY)
    x = jax.jit(lambda A, b: lasso.fista(A, b, l1, tolerance=1e-9))(task.A, task.b)
    gradient = task.A.T @ (task.A @ x - task.b)
    support = x != 0
    assert 5 < support.sum() < 40
    np.testing.assert_allclose(gradient[support], -l1 * jnp.sign(x[support]), atol=1e-9)
    assert np.abs(gradient).max() <= l1 + 1e-9


def test_fista_of_orthonormal_columns_is_soft_thresholding(x64):
    A = jax.random.orthogonal(KEY, 4)
    b = jax.random.normal(KEY, (4,))
    v = A.T @ b
    expected = np.sign(v) * np.maximum(np.abs(v) - 0.3, 0)
    np.testing.assert_allclose(lasso.fista(A, b, 0.3), expected, atol=1e-12)


def test_relative_gap_is_zero_at_the_minimum_alone():
    task = lasso.family()(KEY)
    lowest = lasso.fista(task.A, task.b, task.l1)
    assert task.metrics(lowest, KEY)["relative_gap"] == pytest.approx(0, abs=1e-6)
    moved = lowest + 0.1 * jax.random.normal(KEY, lowest.shape)
    expected = float(task.loss(moved, KEY) / task.loss(lowest, KEY)) - 1
    assert task.metrics(moved, KEY)["relative_gap"] == pytest.approx(expected, abs=1e-5)
    assert expected > 0.1


def test_lasso_needs_a_positive_weight():
    with pytest.raises(ValueError, match=r"`l1` must be positive, got 0\.0"):
        lasso.family(l1=0.0)


# ---- sparse recovery


def test_signals_and_measurements_have_the_statistics_asked_for():
    family = sparse_recovery.family(rows=25, dim=50, density=0.2, snr_db=20.0)
    tasks = jax.jit(jax.vmap(family))(jax.random.split(KEY, 400))
    np.testing.assert_allclose(np.linalg.norm(family.A, axis=0), 1, rtol=1e-5)
    assert np.ptp(tasks.A, axis=0).max() == 0  # one matrix for all
    x_true = np.asarray(tasks.x_true)
    values = x_true[x_true != 0]
    assert len(values) / x_true.size == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / x_true.size))
    assert values.std() == pytest.approx(1, abs=4 / np.sqrt(2 * len(values)))
    clean = x_true @ np.asarray(family.A).T
    noise = np.asarray(tasks.b) - clean
    ratio = (noise**2).sum(axis=1) / (clean**2).sum(axis=1)
    assert ratio.mean() == pytest.approx(0.01, abs=4 * 0.01 * np.sqrt(2 / 25 / 400))


def test_short_signals_are_never_all_zeros():
    tasks = jax.jit(jax.vmap(sparse_recovery.family(rows=2, dim=4, density=0.05)))(jax.random.split(KEY, 50))
    assert (np.count_nonzero(tasks.x_true, axis=1) >= 1).all()


def test_lasso_recovers_a_sparse_signal_without_noise():
    task = sparse_recovery.family(rows=60, dim=100, snr_db=np.inf, l1=1e-3)(KEY)
    x = lasso.fista(task.A, task.b, task.l1)
    assert task.metrics(x, KEY)["nmse_db"] < -40
    assert task.metrics(task.init(KEY), KEY)["nmse_db"] == 0
    half = task.metrics(task.x_true / 2, KEY)["nmse_db"]
    assert half == pytest.approx(10 * np.log10(0.25), rel=1e-5)


def test_density_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"`density` must be more than 0 and at most 1, got 0\.0"):
        sparse_recovery.family(density=0.0)
