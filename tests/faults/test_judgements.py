"""Faults once seen in what results are judged by: minibatches, tuned rates, ratios, labels and tables of numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, bowls

import l2o
from faults.awkward_rules import KEY
from l2o.core.task import is_deterministic

# W6: minibatches


def softmax_regression(batch_size):
    x_key, y_key = jax.random.split(KEY)
    x, y = jax.random.normal(x_key, (60, 3)), jax.random.randint(y_key, (60,), 0, 4)

    def loss(params, key):
        index = jax.random.randint(key, (batch_size,), 0, 60) if batch_size else jnp.arange(60)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x[index] @ params), y[index][:, None], axis=1))

    return lambda key: l2o.FunctionTask(lambda key: jnp.zeros((3, 4)), loss)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (softmax_regression(8), False),  # the loss at zero is log 4 for any batch
        (softmax_regression(0), True),
        (bowls, True),
        # No noise at the start, nor in the gradient there; in some tasks only.
        (
            lambda key: l2o.FunctionTask(lambda k: jnp.zeros(2), lambda x, k: jnp.sum(x**4) * jax.random.normal(k)),
            False,
        ),
        (lambda key: l2o.FunctionTask(lambda k: jnp.ones(2), lambda x, k: jnp.sum(x) + jax.random.normal(k)), False),
    ],
    ids=["minibatches", "full batch", "bowls", "far from the start", "the loss alone"],
)
def test_w6_minibatches_are_seen_away_from_a_start_that_hides_them(family, expected):
    assert is_deterministic(family, KEY) is expected


# W13: settings, ratios and labels


def _tune(make, grid):
    return l2o.tune(make, grid, bowls, horizon=5, num_tasks=2, key=KEY)


def test_w13_the_rate_is_looked_for_by_its_name():
    """JAX sorts the keys of a dict: b1 comes first."""
    grid = {"learning_rate": np.array([0.1, 0.5, 0.9]), "b1": np.array([0.0, 0.0, 0.1])}
    tuned = _tune(lambda v: optax.sgd(v["learning_rate"], momentum=v["b1"]), grid)
    assert tuned.value["learning_rate"] == tuned.rate == 0.5  # solves a bowl in one step
    assert not tuned.at_edge
    assert _tune(optax.sgd, np.array([0.5, 0.1, 0.2])).rate == 0.5
    assert _tune(optax.sgd, np.array([0.5, 0.1, 0.2])).at_edge
    trials = l2o.Search(num_trials=3, rates=(0.1, 0.9)).trials(KEY)
    assert np.isclose(_tune(lambda trial: optax.sgd(trial.rate), trials).rate, 0.3)


def test_w13_which_is_the_rate_is_not_guessed():
    tuned = _tune(lambda v: optax.sgd(0.5, momentum=v["b1"]), {"b1": np.array([0.0, 0.1])})
    with pytest.raises(ValueError, match=r"Which of the tuned hyperparameters is the learning rate.*`learning_rate`"):
        _ = tuned.rate


@pytest.mark.parametrize(("shift", "factor"), [(0.0, 0.0), (-5.0, 1.0)], ids=["zero", "negative"])
def test_w13_losses_without_ratios_are_compared_by_difference(shift, factor):
    from l2o.evaluation import analysis, comparison
    from l2o.evaluation.panel import Panel

    def family(key):
        centre = jax.random.normal(key, (2,))
        return l2o.FunctionTask(lambda key: jnp.zeros(2), lambda x, key: factor * jnp.sum((x - centre) ** 2) + shift)

    panels = {"one": Panel(lambda: family, 4, 4, "ours")}
    rivals = {"half": Descent(jnp.log(0.45)), "slow": Descent(jnp.log(1e-3)), "sgd": "sgd"}
    options = {"num_tasks": 6, "tune_tasks": 2, "measure_costs": False, "key": KEY}
    found = comparison.compare(panels, rivals, search=l2o.Search(num_trials=2, rates=(0.01, 0.02)), **options)
    judged = analysis.verdicts(found)
    for name in ("half", "slow"):
        verdict = judged[name]["one"]
        assert np.isnan([verdict.ratio, verdict.low, verdict.high]).all()
        assert verdict.num_diverged == 0
    outcomes = {name: judged[name]["one"].outcome for name in ("half", "slow")}
    assert outcomes == ({"half": "won", "slow": "lost"} if factor else {"half": "undecided", "slow": "undecided"})
    assert analysis.scores(found) == {}
    assert np.isnan(analysis.overall(found)["half"].ratio.value)
    assert analysis.overall(found)["half"].num_diverged == 0


@pytest.mark.parametrize(("x", "y"), [([-1.0, -2.0], [1.0, 2.0]), ([1.0, 2.0], [-1.0, -2.0]), ([1.0, 1.0], [0.0, 0.0])])
def test_w13_ratios_of_what_is_not_positive_are_none(x, y):
    assert np.isnan(l2o.ratio_interval(np.array(x), np.array(y))).all()


@pytest.mark.parametrize("label", [-1, 10**12, 2**31, 5000])
def test_w13_labels_are_numbers_of_classes(label, tmp_path):
    from l2o.io.data._formats import read_npz

    images, labels = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 3
    np.savez(tmp_path / "good.npz", x=images, y=labels)
    np.savez(tmp_path / "bad.npz", x=images, y=np.where(np.arange(20) == 7, label, labels))
    assert read_npz(tmp_path / "good.npz").y_train.max() == 2
    with pytest.raises(ValueError, match=r"Cannot read .*bad\.npz .*labels"):
        read_npz(tmp_path / "bad.npz")


@pytest.mark.parametrize("entry", [np.nan, np.inf, 1e300])
def test_w13_tables_are_of_finite_numbers(entry, tmp_path):
    from l2o.io.data._formats import read_npz

    table = np.ones((20, 3))
    table[4, 1] = entry
    np.savez(tmp_path / "bad.npz", x=table, y=np.arange(20) % 2)
    with pytest.raises(ValueError, match=r"finite numbers, in single precision, but 1 of its entries are none"):
        read_npz(tmp_path / "bad.npz", table=True)
