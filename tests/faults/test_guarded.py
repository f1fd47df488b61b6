"""The guard holds: losses of any scale, params of any dtype, and a way back that is exact."""

import hostile
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_equal

import l2o
from faults.guarded_rules import DESCENT, GROWING, UPHILL, Rule, steps
from l2o.optimizers.wrappers.guarded import Reason


def hill(x):
    """1 - exp(-(x - 12)² / 8): a plateau at 1 with a hole at 12."""
    return 1 - jnp.exp(-jnp.sum((x - 12) ** 2) / 8)


def finite(tree):
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def test_w9_the_reported_case_ends_where_the_fallback_does():
    """The plateau hides a rule that grows 500-fold a step, to where params + (reserve - params) loses the reserve."""
    found = steps(l2o.Guarded(GROWING, optax.sgd(1.0)), hill, jnp.asarray(7.4), 60)
    alone = steps(optax.with_extra_args_support(optax.sgd(1.0)), hill, jnp.asarray(7.4), 60)
    assert found[-1][1].handed_over
    assert_trees_equal(found[-1][0], alone[-1][0])
    assert hill(found[-1][0]) == 0


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])
def test_w9_the_way_back_is_exact_in_every_coordinate(dtype):
    """Coordinates from 1e-6 to 1, each lost to the rounding of a step of a thousand: a few steps bring back all bits."""
    start = jnp.asarray([1e-6, -3e-4, 0.07, -1.0]).astype(dtype)
    if dtype == jnp.complex64:
        start = start + 1j * start[::-1]
    rule = Rule(lambda x, g, step: jnp.full_like(x, 300.7))
    plateau = lambda x: jnp.where(jnp.max(jnp.abs(x)) > 10, 5.0, 1.0) + 0 * jnp.sum(jnp.abs(x))
    found = steps(l2o.Guarded(rule, optax.sgd(0.1)), plateau, start, 12)
    far = next(i for i, (_, state) in enumerate(found) if state.handed_over)
    assert jnp.max(jnp.abs(found[far - 1][0])) > 100
    assert_trees_equal(found[-1][0], start)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("told", [("value",), ()], ids=["loss", "nothing"])
def test_w9_without_a_race_the_way_back_is_exact_too(told):
    """At its first step the rule is sent away by a cliff, and the fallback (of no effect) takes over at the best params."""
    start = jnp.asarray([1e-6, 0.3])
    rule = Rule(lambda x, g, step: jnp.full_like(x, 700.7))
    cliff = lambda x: jnp.where(jnp.max(jnp.abs(x)) > 10, 1e6, 1e-3) * (1 + jnp.sum(jnp.abs(x)))
    found = steps(l2o.Guarded(rule, optax.sgd(0.0)), cliff, start, 8, told=told)
    assert found[-1][1].reason == Reason.ROSE
    assert_trees_equal(found[-1][0], start)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("sign", [1, -1])
def test_w9_the_way_back_is_finite_where_the_difference_overflows(sign):
    """From -3e38 to 3e38 is further than the largest float: two steps."""
    start = jnp.asarray([3e38 * sign, 1.0])
    rule = Rule(lambda x, g, step: jnp.where(step == 0, -x, -3e38 * sign))
    loss_fn = lambda x: jnp.where(x[0] * sign < -1e38, 2.0, 1.0) + 0 * jnp.sum(x)
    found = steps(l2o.Guarded(rule, optax.sgd(0.1)), loss_fn, start, 8)
    assert all(finite(params) for params, _ in found)
    assert min(float(params[0] * sign) for params, _ in found) < -1e38
    assert_trees_equal(found[-1][0], start)


@pytest.mark.slow
@pytest.mark.slowest
def test_w9_a_rule_may_not_walk_away_further_than_reach():
    """Each step is short beside the params, which grow; it is the distance from the reserve that ends it."""
    found = steps(l2o.Guarded(GROWING, optax.sgd(0.0)), lambda x: 1.0 + 0 * x, jnp.asarray(7.4), 20)
    assert found[-1][1].reason == Reason.UPDATE
    assert max(float(params) for params, _ in found) <= 1e3 * (1 + 7.4) + 7.4


@pytest.mark.slow
@pytest.mark.slowest
def test_w9_one_who_changes_the_params_after_us_does_not_keep_the_fallback_waiting():
    """Weight decay after the guard: the params are never the reserve, and the fallback acts all the same."""
    loss_fn = lambda x: jnp.sum((x - 3.0) ** 2)
    found = steps(
        l2o.Guarded(UPHILL, optax.sgd(0.1)),
        loss_fn,
        jnp.ones(2),
        60,
        told=("value",),
        after=lambda updates: jax.tree.map(lambda u: 0.5 * u, updates),
    )
    assert found[-1][1].handed_over
    assert loss_fn(found[-1][0]) < 1e-3
    assert found[-1][1].away == 0


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1.0, 1e30, 1e37])
@pytest.mark.parametrize("sign", [1, -1])
def test_w9_losses_of_every_scale_and_sign_are_told_apart(scale, sign):
    """A rule that rests, on a loss that the fallback lowers by a fifth (negative ones: makes a fifth larger): it is seen."""
    start = jnp.ones(3)
    loss_fn = lambda x: scale * (sign + 0.2 * jnp.mean(jnp.tanh(x)))
    fallback = optax.chain(optax.scale(1 / scale), optax.sgd(1.0))
    found = steps(l2o.Guarded(Rule(lambda x, g, step: 0 * g), fallback, margin=0.05), loss_fn, start, 130)
    state = found[-1][1]
    assert state.reason == Reason.BEHIND
    assert finite(state.watch.average)


@pytest.mark.slow
@pytest.mark.slowest
def test_w9_a_loss_that_overflows_does_not_hold_the_fallback_where_its_gradient_is_finite():
    """1e30 (x - 1e6)² / 2 overflows at 0, its gradient does not: the fallback alone is there in a few steps."""
    loss_fn = lambda x: 0.5 * jnp.sum((jnp.sqrt(1e30) * (x - 1e6)) ** 2)
    fallback = optax.sgd(0.5e-30)
    found = steps(l2o.Guarded(UPHILL, fallback), loss_fn, jnp.zeros(2), 60)
    alone = steps(optax.with_extra_args_support(fallback), loss_fn, jnp.zeros(2), 60)
    assert not jnp.isfinite(loss_fn(jnp.zeros(2)))
    assert_trees_equal(found[-1][0], alone[-1][0])
    np.testing.assert_allclose(found[-1][0], 1e6)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("size", [1e25, 1e30, 3e37])
def test_w9_norms_of_huge_params_and_gradients_are_numbers(size):
    """Their squares overflow: the step that is asked for is within reach all the same, and is taken."""
    start = jnp.full(4, size)
    rule = Rule(lambda x, g, step: -0.5 * x)
    found = steps(l2o.Guarded(rule, optax.sgd(0.0)), lambda x: jnp.mean(jnp.abs(x)), start, 4)
    assert not found[-1][1].handed_over
    np.testing.assert_allclose(found[-1][0], start / 16)
    _, state = l2o.Guarded(DESCENT).update(start, l2o.Guarded(DESCENT).init(start), jnp.zeros(4))
    assert state.num_learned + state.handed_over == 1
    assert state.num_skipped == 0


@pytest.mark.slow
@pytest.mark.slowest
def test_w9_double_precision_losses_are_watched_in_double_precision(x64):
    loss_fn = lambda x: 1e300 * jnp.sum(x**2)
    found = steps(l2o.Guarded(Rule(lambda x, g, step: 0.1 * x), optax.sgd(0.1e-300)), loss_fn, jnp.ones(2), 40)
    alone = steps(optax.with_extra_args_support(optax.sgd(0.1e-300)), loss_fn, jnp.ones(2), 40)
    assert found[-1][1].reason == Reason.BEHIND
    np.testing.assert_allclose(found[-1][0], alone[-1][0])


@pytest.mark.slow
@pytest.mark.slowest
def test_w9_complex_params_are_led_downhill_by_the_fallback():
    """Σ|z|² from [1 + 2j, -3j]: with jax.grad's own gradient, not its conjugate, the imaginary parts would grow."""
    start = jnp.asarray([1 + 2j, -3j], jnp.complex64)
    loss_fn = lambda z: jnp.sum(jnp.abs(z) ** 2)
    found = steps(l2o.Guarded(UPHILL, optax.sgd(0.1)), loss_fn, start, 60)
    assert found[-1][1].handed_over
    assert loss_fn(found[-1][0]) < 1e-4
    alone = steps(optax.with_extra_args_support(optax.sgd(0.1)), loss_fn, start, 60)
    np.testing.assert_allclose(found[-1][0], alone[-1][0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("value", [2, 2.0, np.float64(2), jnp.asarray(2, jnp.bfloat16), np.asarray(2.0, np.float16)])
def test_w9_the_loss_may_be_any_real_number(value):
    guarded = l2o.Guarded(DESCENT)
    params = jnp.ones(2)
    _, state = guarded.update(params, guarded.init(params), params, value=value)
    assert state.watch.average == 2


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("value", [jnp.ones(1), jnp.ones(3), jnp.asarray(1 + 0j)], ids=["one", "three", "complex"])
def test_w9_what_is_not_a_loss_is_refused(value):
    guarded = l2o.Guarded(DESCENT)
    params = jnp.ones(2)
    with pytest.raises(ValueError, match=r"`value` must be the loss, one real number, got shape .* and dtype"):
        guarded.update(params, guarded.init(params), params, value=value)
    with pytest.raises(ValueError, match=r"What `value_fn` returns must be the loss, one real number"):
        guarded.update(params, guarded.init(params), params, value=1.0, value_fn=lambda p: jnp.sum(p) * value)


@pytest.mark.slow
@pytest.mark.slowest
def test_w9_a_value_fn_alone_gives_the_loss_too():
    loss_fn = lambda x: jnp.sum(x**2)
    only = steps(l2o.Guarded(UPHILL, optax.sgd(0.1)), loss_fn, jnp.ones(2), 20, told=("value_fn",))
    both = steps(l2o.Guarded(UPHILL, optax.sgd(0.1)), loss_fn, jnp.ones(2), 20)
    assert_trees_equal(only[-1], both[-1])


@pytest.mark.slowest
@pytest.mark.slow
def test_w9_value_fn_finds_its_other_arguments_among_those_of_update_as_in_optax():
    def loss_fn(x, batch):
        return jnp.sum((x - batch) ** 2)

    guarded, params = l2o.Guarded(UPHILL, optax.lbfgs()), jnp.ones(2)
    state = guarded.init(params)
    for _ in range(20):
        loss, gradient = jax.value_and_grad(loss_fn)(params, 3.0)
        updates, state = guarded.update(gradient, state, params, value=loss, value_fn=loss_fn, batch=3.0)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, 3.0, rtol=1e-3)


TREES = {
    "f32": {"a": jnp.ones(3), "b": (jnp.zeros(()), None)},
    "bf16": {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(2)},
    "f16": jnp.ones(4, jnp.float16),
    "complex": [jnp.ones(2, jnp.complex64), jnp.zeros(3)],
    "empty leaf": {"a": jnp.zeros((0, 2)), "b": jnp.ones(1)},
    "nothing": {},
}


def sizes(tree):
    """Σ|x - 0.3|² of all leaves."""
    return sum((jnp.sum(jnp.abs(x - 0.3) ** 2) for x in jax.tree.leaves(tree)), jnp.zeros(()))


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("name", TREES)
def test_w9_every_dtype_keeps_its_state_s_types_and_is_compiled_once(name):
    params, guarded = TREES[name], l2o.Guarded(UPHILL, optax.adam(0.01))
    traced = 0

    @jax.jit
    def step(params, state):
        nonlocal traced
        traced += 1
        loss, gradient = jax.value_and_grad(sizes)(params)
        updates, state = guarded.update(gradient, state, params, value=loss, value_fn=sizes)
        return optax.apply_updates(params, updates), state

    state = start = guarded.init(params)
    now = params
    for _ in range(8):
        now, state = step(now, state)
    assert traced == 1
    assert types(state) == types(start)
    assert types(now) == types(params)
    assert finite(now)


@pytest.mark.slow
@pytest.mark.slowest
def test_w9_a_fallback_that_falls_faster_than_any_average_is_not_missed():
    """Both losses fall 100-fold a step; at the fourth the rule stops, at 1e-6, where the averages differ by a millionth."""
    rule = Rule(lambda x, g, step: jnp.where(step < 3, -0.45, 0.0) * g)
    found = steps(l2o.Guarded(rule, optax.sgd(0.45)), lambda x: x**2, jnp.asarray(1.0), 20)
    assert found[-1][1].reason == Reason.BEHIND
    assert found[-1][1].num_learned <= 3 + 10 + 1
    assert found[-1][0] ** 2 < 1e-30


def check_duels(seed, dtype, num):
    """None ends non-finite, and at least 99 % end with a loss at most 10 % (of its size) above the fallback's alone."""
    found = {k: np.asarray(v) for k, v in hostile.duel(jax.random.key(seed), jnp.arange(num), dtype).items()}
    assert found["finite"].all()
    ours, alone = found["guarded"], found["alone"]
    diverged = ~np.isfinite(alone)
    assert np.isfinite(ours[~diverged]).all()
    level = diverged | (ours <= alone + 0.1 * np.abs(alone))
    missed = [
        (list(hostile.SHAPES)[found["kind"][i]], hostile.RULES[found["rule"][i]], float(ours[i]), float(alone[i]))
        for i in np.flatnonzero(~level)
    ]
    assert len(missed) <= 0.01 * num, missed
    return found


@pytest.mark.slowest
@pytest.mark.slow
def test_w9_hostile_tasks():
    found = check_duels(0, jnp.float32, 60)
    assert (found["reason"] != Reason.NONE).mean() > 0.5  # they are hostile


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize(
    ("dtype", "num"), [(jnp.float32, 700), (jnp.bfloat16, 100), (jnp.float16, 100), (jnp.complex64, 100)]
)
def test_w9_a_thousand_hostile_tasks(dtype, num):
    check_duels(0, dtype, num)
