"""Faults once seen in meta-training: nothing to train, and tasks that diverge."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Affine, Descent, assert_trees_close, bowl, regression, tiny_lstm

import l2o
from faults.awkward_rules import KEY
from l2o.meta.estimators.bptt import BPTT
from l2o.meta.estimators.pes import PES

# W3: nothing to train


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.chain(optax.clip(1.0), tiny_lstm()),
        tiny_lstm().as_optax(),
        l2o.chain(optax.adam(0.1)),
        l2o.Guarded(optax.sgd(0.1)),
        l2o.baselines.ScheduleFree(optax.sgd(0.1)),
    ],
    ids=["adam", "chain", "as optax", "l2o.chain", "guarded", "schedule-free"],
)
def test_w3_nothing_to_train_is_an_error_before_anything_is_run(optimizer):
    def family(key):
        pytest.fail("it ran")

    estimator = BPTT(l2o.InnerTraining(family, 4, 2), num_tasks=1)
    with pytest.raises(ValueError, match=r"There is nothing to train.*l2o\.chain"):
        l2o.meta_train(optimizer, estimator, num_steps=1, key=KEY)


def test_w3_a_learned_rule_among_optaxs_is_trained():
    """x^2 from 1, gradients clipped to 1, updates halved: x_1 = 1 - r / 2. To first order d(x_1^2)/da = 2 x_1 (-r / 2)."""
    rate = 0.2
    rule = l2o.chain(optax.clip(1.0), Descent(jnp.log(rate)), optax.scale(0.5))
    estimator = BPTT(l2o.InnerTraining(bowl, horizon=2, truncation=2), num_tasks=1)
    result = l2o.meta_train(rule, estimator, optax.sgd(1.0), num_steps=1, key=KEY)
    after = 1 - rate / 2
    slope = 2 * after * (-rate / 2) / 2  # of the mean over two losses
    np.testing.assert_allclose(result.history[0]["meta_loss"], (1 + after**2) / 2, rtol=1e-6)
    np.testing.assert_allclose(result.optimizer.rules[1].log_rate, np.log(rate) - slope, rtol=1e-5)


def test_w3_a_chain_is_optaxs_chain():
    """Extra arguments go to those rules that take them, and states are the parts' own."""
    task, params = regression(0), regression(0).init(KEY)
    parts = optax.clip(0.05), tiny_lstm(), optax.scale(0.3), optax.add_decayed_weights(0.1)
    ours, theirs = l2o.chain(*parts), optax.chain(*parts)
    gradient = jax.grad(task.loss)(params, KEY)
    updates, state = ours.update(gradient, ours.init(params), params, value=jnp.ones(()), value_fn=lambda p: 0.0)
    expected, expected_state = theirs.update(gradient, theirs.init(params), params)
    assert_trees_close(updates, expected, rtol=1e-6)
    assert_trees_close(state, expected_state, rtol=1e-6)
    assert not ours.uses_value
    assert l2o.chain(optax.clip(1.0), l2o.Guarded(tiny_lstm())).uses_value
    assert len(jax.tree.leaves(ours)) == len(jax.tree.leaves(tiny_lstm()))  # so that `jax.jit` takes it


@pytest.mark.parametrize(("rules", "error"), [((), ValueError), ((0.1,), TypeError)])
def test_w3_a_chain_is_of_rules(rules, error):
    with pytest.raises(error):
        l2o.chain(*rules)


# W4: tasks that diverge


class Sometimes(l2o.AbstractInnerProblem):
    """An episode is a number c from 0 to 9 by its key, its loss c a. Where c is `bad`, the loss or its gradient is not finite."""

    bad: int
    only_gradient: bool = False

    def init(self, optimizer, key):
        return jax.random.randint(key, (), 0, 10), jnp.zeros((), jnp.int32)

    def advance(self, optimizer, state):
        c, t = state
        is_bad = c == self.bad
        loss = c * optimizer.a
        if self.only_gradient:  # the root of zero
            loss += jnp.sqrt(jnp.where(is_bad, optimizer.a - jax.lax.stop_gradient(optimizer.a), 0.25))
        else:
            loss *= jnp.where(is_bad, jnp.inf, 1.0)
        return (c, t + 1), loss

    def finished(self, state):
        return state[1] >= 10


@pytest.mark.parametrize("only_gradient", [False, True])
def test_w4_the_mean_is_over_what_is_finite(only_gradient):
    optimizer = Affine(jnp.asarray(2.0), jnp.zeros(()))
    problem = Sometimes(3, only_gradient)
    estimator = BPTT(problem, num_tasks=40)
    state = estimator.init(optimizer, KEY)
    drawn = np.asarray(state[0])
    estimate, after = estimator.estimate(optimizer, state, KEY)
    kept = drawn[drawn != 3]
    assert 0 < len(kept) < 40
    np.testing.assert_allclose(estimate.gradient.a, kept.mean(), rtol=1e-6)
    np.testing.assert_allclose(estimate.meta_loss, 2 * kept.mean() + 0.5 * only_gradient, rtol=1e-6)
    assert estimate.num_diverged == 40 - len(kept)
    np.testing.assert_array_equal(after[1], np.where(drawn == 3, 0, 1))  # started afresh


def test_w4_pairs_of_pes_that_diverge_are_left_out():
    optimizer = Affine(jnp.asarray(2.0), jnp.zeros(()))
    estimator = PES(Sometimes(3), num_tasks=40, std=0.1)
    state = estimator.init(optimizer, KEY)
    drawn = np.asarray(state.positive[0])
    estimate, after = estimator.estimate(optimizer, state, KEY)
    assert estimate.num_diverged == np.sum(drawn == 3) > 0
    np.testing.assert_allclose(estimate.meta_loss, 2 * drawn[drawn != 3].mean(), rtol=1e-5)
    assert np.isfinite(estimate.gradient.a)
    assert np.all(np.asarray(after.accumulated.a)[drawn == 3] == 0)


def test_w4_a_family_that_diverged_is_left_out_of_a_mixture():
    optimizer = Affine(jnp.asarray(2.0), jnp.zeros(()))
    whole = BPTT(Sometimes(99), num_tasks=4)
    mixture = l2o.Mixture([whole, BPTT(Always(), num_tasks=2)], [1.0, 5.0], max_norm=100.0)
    state = mixture.init(optimizer, KEY)
    estimate, _ = mixture.estimate(optimizer, state, KEY)
    alone, _ = whole.estimate(optimizer, state[0], KEY)
    np.testing.assert_allclose(estimate.gradient.a, alone.gradient.a, rtol=1e-6)
    np.testing.assert_allclose(estimate.meta_loss, alone.meta_loss, rtol=1e-6)
    assert estimate.num_diverged == 2


class Always(Sometimes):
    """Every loss is infinite."""

    bad: int = 0

    def advance(self, optimizer, state):
        return state, jnp.inf * optimizer.a


def rarely(key):
    """A bowl; one in eight tasks is not finite after its first step."""
    broken = jax.random.bernoulli(key, 0.125)
    return l2o.FunctionTask(lambda key: jnp.ones(()), lambda x, key: x**2 * jnp.where(broken & (x != 1), jnp.nan, 1.0))


def test_w4_a_few_that_diverge_do_not_stop_meta_training():
    """The bowls left all are the same: every meta-loss and norm is theirs. With a limit below the share, steps are skipped."""
    estimator = BPTT(l2o.InnerTraining(rarely, horizon=2, truncation=2), num_tasks=16)
    still = optax.sgd(0.0)
    options = {"num_steps": 6, "key": KEY}
    result = l2o.meta_train(Descent(jnp.log(0.01)), estimator, still, **options)
    alone = l2o.meta_train(Descent(jnp.log(0.01)), BPTT(l2o.InnerTraining(bowl, 2, 2), num_tasks=1), still, **options)
    assert result.num_skipped == 0 < result.num_diverged
    for name in ("meta_loss", "gradient_norm"):
        values, expected = ([row[name] for row in one.history] for one in (result, alone))
        np.testing.assert_allclose(values, expected, rtol=1e-5)
    shares = np.array([row["share_diverged"] for row in result.history])
    np.testing.assert_allclose(result.share_diverged, shares.mean())
    assert result.num_diverged == round(shares.sum() * 16)
    strict = l2o.meta_train(Descent(jnp.log(0.01)), estimator, still, max_diverged=0.1, **options)
    assert strict.num_skipped == np.sum(shares > 0.1) > 0
    assert alone.share_diverged == 0


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_w4_the_limit_is_a_share(share):
    estimator = BPTT(l2o.InnerTraining(bowl, horizon=2, truncation=2), num_tasks=1)
    with pytest.raises(ValueError, match="`max_diverged` is a share of the tasks, from 0 to 1"):
        l2o.meta_train(Descent(jnp.log(0.01)), estimator, num_steps=1, key=KEY, max_diverged=share)


@pytest.mark.slowest
@pytest.mark.slow
def test_b10_the_example_of_mixtures_runs():
    """The docstring's own lines, on smaller nets and for one step."""
    (block,) = re.findall(r"```python\n(.*?)```", l2o.Mixture.__doc__, re.DOTALL)
    code = textwrap.dedent(block).replace("num_steps=1000", "num_steps=1").replace("horizon=100", "horizon=20")
    scope = {}
    exec(compile(code, "Mixture", "exec"), scope)
    assert scope["result"].num_steps == 1
