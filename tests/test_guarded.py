"""The safety net: what it promises, on rules that are good, bad, worse and NaN."""

import importlib.util
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, assert_trees_close, assert_trees_equal, bowl, bowls, regression
from jaxtyping import Array, Float

import l2o
from l2o.optimizers.wrappers.guarded import Reason

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
SGD, SLOW = optax.sgd(0.05), optax.sgd(1e-3)
BOWL, REGRESSION = bowl(), regression()


class Turning(l2o.AbstractLearnedOptimizer):
    """u = -a g for `turn` steps, then u = +b g: a rule that works, until it does not."""

    a: Float[Array, ""]
    b: Float[Array, ""]
    turn: int = eqx.field(static=True)

    def init(self, params):
        return jnp.zeros((), jnp.int32)

    def update(self, updates, state, params=None, **extra):
        rate = jnp.where(state < self.turn, -self.a, self.b)
        return jax.tree.map(lambda g: (rate * g).astype(g.dtype), updates), state + 1


def turning(a=0.2, b=0.2, turn=10**6):
    return Turning(jnp.asarray(a), jnp.asarray(b), turn)


@eqx.filter_jit
def run(optimizer, task, length, key=KEY):
    """Losses and final state."""
    state, losses = l2o.unroll(task, optimizer, l2o.start(task, optimizer, key), key, length=length)
    return losses, state


def told(optimizer, *, value):
    """The optimizer as a loop sees it that passes the loss but no `value_fn`, or neither."""

    def update(updates, state, params=None, *, value_fn, **extra):
        return optimizer.update(updates, state, params, **({"value": extra["value"]} if value else {}))

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def averages(losses, window=10):
    """The moving average by hand."""
    found = [losses[0]]
    for loss in losses[1:]:
        found.append(found[-1] + 2 / (window + 1) * (loss - found[-1]))
    return np.asarray(found)


def test_a_rule_that_does_better_is_left_alone():
    task = REGRESSION
    guarded, state = run(l2o.Guarded(turning(), SGD), task, 60)
    bare, _ = run(turning(), task, 60)
    np.testing.assert_allclose(guarded, bare, rtol=1e-6)
    assert not state.opt_state.handed_over
    assert state.opt_state.num_learned == 60


@pytest.mark.parametrize("rate", [-0.5, 0.0, 0.001, 50.0], ids=["climbs", "rests", "crawls", "leaps"])
def test_in_the_first_race_it_is_at_most_the_margin_worse_or_the_fallback_itself(rate):
    """The first two lines of the guarantee, against both runs done separately."""
    task = REGRESSION
    losses, state = run(l2o.Guarded(turning(rate), SGD), task, 60)
    fallback, _ = run(SGD, task, 60)
    assert state.opt_state.handed_over
    assert state.opt_state.reason == Reason.BEHIND
    over = int(state.opt_state.num_learned)  # the step at which it went over
    assert 0 < over < 60
    ours, theirs = averages(np.asarray(losses)), averages(np.asarray(fallback))
    assert (ours[:over] <= 1.1 * theirs[:over]).all()
    assert ours[over] > 1.1 * theirs[over]
    np.testing.assert_allclose(losses[over + 1 :], fallback[over + 1 :], rtol=1e-4)


def test_the_race_goes_on_until_it_is_decided():
    """A rule that is better, but by less than the margin: the second gradient is paid for to the end."""
    _, state = run(l2o.Guarded(turning(0.0501), SGD, race=20), BOWL, 60)
    assert state.opt_state.racing
    assert state.opt_state.num_raced == 60


def test_a_race_won_ends_the_second_gradient():
    _, state = run(l2o.Guarded(turning(0.1), SLOW, race=20), BOWL, 30)
    assert not state.opt_state.racing
    assert state.opt_state.num_raced == 20


class TwoBasins(l2o.AbstractTask):
    """2 + x⁴/4 - x²/2 - 0.3 x: 1.43 at x = 1.13, 2.02 at x = -0.79."""

    def init(self, key):
        return {"x": jnp.asarray(2.0)}

    def loss(self, params, key, *, split="train"):
        x = params["x"]
        return 2 + x**4 / 4 - x**2 / 2 - 0.3 * x


@pytest.mark.parametrize("race", [None, 20])
def test_a_lead_into_a_worse_basin_is_followed_only_where_a_race_can_be_won(race):
    task = TwoBasins()
    losses, state = run(
        l2o.Guarded(turning(0.5), SLOW, race=race, margin=0.05), task, 3_000
    )  # it leaps over the better one
    fallback, _ = run(SLOW, task, 3_000)
    assert losses[1] < 0.7 * fallback[1]
    if race is None:
        assert state.opt_state.reason == Reason.BEHIND
        np.testing.assert_allclose(losses[-1], fallback[-1], rtol=1e-5)
    else:
        assert losses[-1] > 1.4 * fallback[-1]


def test_alone_and_rising_it_goes_back_to_the_best_params_and_the_fallback_starts_there():
    """x <- 0.98 x for 30 steps, then x <- 1.2 x until the average loss has doubled."""
    guarded = l2o.Guarded(turning(0.01, 0.1, turn=30), SLOW, race=20)
    losses, state = run(guarded, BOWL, 60)
    assert state.opt_state.reason == Reason.ROSE
    np.testing.assert_allclose(losses[30], 0.98**60, rtol=1e-5)
    over = int(state.opt_state.num_learned)
    assert losses[over] > 0.98**40  # more than the mean over the window
    best = losses[over + 1]
    assert 0.9999 * 0.98**60 < best < 1.3 * 0.98**60  # the average lags: a few steps past the least
    steps = np.arange(60 - over - 1)
    np.testing.assert_allclose(losses[over + 1 :], best * 0.998 ** (2 * steps), rtol=1e-4)


def test_alone_and_stalled_it_races_the_fallback_from_the_best_params():
    guarded = l2o.Guarded(turning(0.05, 0.0, turn=25), optax.sgd(0.01), race=20)
    losses, state = run(guarded, BOWL, 300)
    assert 20 < state.opt_state.num_raced < 100
    assert state.opt_state.reason == Reason.BEHIND
    assert losses[-1] < 1e-2 * losses[26]  # the rule would have stayed there
    np.testing.assert_allclose(losses[200:] / losses[199:-1], 0.98**2, rtol=1e-4)


def test_without_value_fn_stalling_hands_over_at_once():
    guarded = l2o.Guarded(turning(0.05, 0.0, turn=25), optax.sgd(0.01))
    losses, state = run(told(guarded, value=True), BOWL, 300)
    assert state.opt_state.reason == Reason.STALLED
    assert state.opt_state.num_raced == 0
    assert state.opt_state.num_learned < 8 * 25
    assert losses[-1] < 1e-1 * losses[26]


@pytest.mark.parametrize("value", [True, False])
def test_divergence_is_caught_whatever_it_is_told(value):
    losses, state = run(told(l2o.Guarded(turning(0.1, 0.5, turn=20), SGD), value=value), BOWL, 100)
    assert state.opt_state.reason == Reason.ROSE
    assert np.max(losses[20:]) < 10
    assert losses[-1] < losses[20]


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf, 1e10])
def test_an_update_that_is_not_finite_or_absurd_is_never_taken(wrong):
    losses, state = run(l2o.Guarded(turning(0.1, wrong, turn=5), SGD), bowls(KEY), 40)
    assert state.opt_state.reason == Reason.UPDATE
    assert state.opt_state.num_learned == 5
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses[6:], run(SGD, bowls(KEY), 40)[0][6:], rtol=1e-4)  # the race's own run


class Poisoned(l2o.AbstractTask):
    """A bowl whose loss and gradient are not finite where `bad` says so of the minibatch."""

    share: float = eqx.field(static=True)

    def init(self, key):
        return {"x": jnp.ones(2)}

    def loss(self, params, key, *, split="train"):
        return jnp.where(jax.random.bernoulli(key, self.share), jnp.nan, 1.0) * jnp.sum(params["x"] ** 2)


@pytest.mark.parametrize("learned", [turning(0.1), turning(-0.1)], ids=["good", "bad"])
def test_gradients_that_are_not_finite_are_skipped_and_counted(learned):
    losses, state = run(l2o.Guarded(learned, SGD), Poisoned(0.2), 100)
    assert 5 < np.isnan(losses).sum() == state.opt_state.num_skipped
    assert np.isfinite(state.params["x"]).all()
    plain, _ = run(optax.apply_if_finite(SGD, 100), Poisoned(0.2), 100)
    assert not losses[-1] > 1.1 * plain[-1]
    if state.opt_state.handed_over:  # and the fallback's run is the one with the same skips
        np.testing.assert_allclose(losses[50:], plain[50:], rtol=1e-4)


def test_nothing_but_nan_leaves_the_params_where_they_were():
    _, state = run(l2o.Guarded(turning(), SGD), Poisoned(1.0), 20)
    np.testing.assert_array_equal(state.params["x"], jnp.ones(2))
    assert state.opt_state.reason == Reason.GRADIENT
    assert state.opt_state.num_skipped == 20
    assert state.opt_state.num_learned == 0


@pytest.mark.parametrize("seed", range(3))
def test_no_rule_breaks_it(seed):
    """Random rules with random turns, on losses a million times as large: it ends finite, and no worse than it began."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=2) * 10.0 ** rng.uniform(-3, 3, 2)
    big = l2o.FunctionTask(lambda key: jnp.ones(3), lambda x, key: 1e6 * jnp.sum(jnp.cosh(x)))
    losses, state = run(l2o.Guarded(turning(a, b, turn=int(rng.integers(1, 20)))), big, 50)
    assert np.isfinite(state.params).all()
    assert np.sum(~np.isfinite(losses)) <= 1  # a leap to where cosh overflows is seen when it has been made
    assert losses[-1] <= losses[0]


def test_side_by_side_is_one_by_one():
    """Under `vmap`: one task goes over, the other does not."""
    guarded = l2o.Guarded(turning(0.3), optax.sgd(0.1))
    curvatures = jnp.asarray([1.0, 8.0])

    @eqx.filter_jit
    def final(curvature):
        task = l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, key: curvature * jnp.sum(x**2))
        state, losses = l2o.unroll(task, guarded, l2o.start(task, guarded, KEY), KEY, length=30)
        return losses, state

    losses, states = jax.vmap(final)(curvatures)
    assert states.opt_state.handed_over.tolist() == [False, True]
    for i, curvature in enumerate(curvatures):
        np.testing.assert_allclose(losses[i], final(curvature)[0], rtol=1e-5)


def test_half_precision_params():
    """Updates in the params' dtype; the loss is watched in single precision."""
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(3)}
    guarded = l2o.Guarded(turning(0.1), optax.adam(1e-3))
    state, update = guarded.init(params), jax.jit(guarded.as_optax().update)
    for _ in range(3):
        loss, gradient = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2))(params)
        updates, after = update(gradient, state, params, value=loss)
        assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        params, state = optax.apply_updates(params, updates), after


@pytest.mark.slowest
@pytest.mark.slow
def test_it_can_be_cut_anywhere():
    task, guarded = REGRESSION, l2o.Guarded(turning(-0.05), optax.adam(0.01))
    losses, state = run(guarded, task, 30)
    unroll = eqx.filter_jit(l2o.unroll)
    half, first = unroll(task, guarded, l2o.start(task, guarded, KEY), KEY, length=12)
    again, rest = unroll(task, guarded, half, KEY, length=18)
    assert_trees_close(again, state, rtol=1e-5)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), losses, rtol=1e-5)


def test_the_learned_rule_may_be_a_chain_and_the_fallback_learned():
    learned = optax.chain(optax.clip_by_global_norm(1.0), turning(0.1))
    guarded = l2o.Guarded(learned, Descent(jnp.asarray(-3.0)))
    _, state = run(guarded, BOWL, 20)
    assert_trees_equal(state.params, run(learned, BOWL, 20)[1].params)


def test_what_it_refuses():
    with pytest.raises(
        ValueError, match=r"`update` needs them: `optimizer\.update\(gradient, state, params, value=loss"
    ):
        l2o.Guarded(turning()).update(jnp.ones(2), l2o.Guarded(turning()).init(jnp.ones(2)))
    with pytest.raises(ValueError, match="`window` must be at least 1, got 0"):
        l2o.Guarded(turning(), window=0)
    with pytest.raises(ValueError, match=r"`margin` must lie between 0 and 1, got 1\.5"):
        l2o.Guarded(turning(), margin=1.5)


@pytest.mark.slowest
@pytest.mark.slow
def test_the_benchmark_on_a_few_tasks():
    """lstm-quadratic leaves its home, a millionfold: the bare rule is worse than Adam, the guarded one is not."""
    path = Path(__file__).parent.parent / "benchmarks" / "guarded.py"
    spec = importlib.util.spec_from_file_location("benchmark_guarded", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    from l2o.tasks import quadratic

    family = benchmark.BrokenFamily(quadratic.family(), scale=1e6)
    adam = benchmark.run(optax.adam(1e-3), family, 60, 8)
    learned = l2o.load("lstm-quadratic")
    bare, guarded = (benchmark.run(o, family, 60, 8) for o in (learned, l2o.Guarded(learned)))
    line = benchmark.row(guarded, adam, bare)
    assert line["non-finite"] == 0
    assert line["within"] == 1
    assert line["ratio to bare"] < 0.9
