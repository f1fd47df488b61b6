"""What happens after the horizon: closed forms, one warning."""

import math
import warnings

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, Momentum, Normalised, assert_trees_close, assert_trees_equal, bowl, bowls, tiny_lstm
from unrolls import run

import l2o
from l2o.core import horizons
from l2o.core.optimizer import silenced
from l2o.optimizers.wrappers.beyond import bare, horizon_of

HOWS = ("hold", "anneal", "fallback")


def descent(rate=0.1):
    return Descent(jnp.asarray(math.log(rate)))


@pytest.mark.parametrize("how", HOWS)
def test_up_to_the_horizon_it_is_the_rule(how):
    np.testing.assert_array_equal(run(l2o.beyond(descent(), 5, how), 5), run(descent(), 5))


def test_hold_keeps_the_params_bit_for_bit_whatever_the_rule_and_the_gradient():
    wild = Descent(jnp.asarray(5.0))  # multiplies the params by 1 - 2 e^5 a step
    path = run(l2o.beyond(wild, 3), 20, gradient=lambda p, t: jnp.where(t < 10, 2 * p, jnp.nan))
    np.testing.assert_array_equal(path[4:], jnp.broadcast_to(path[3], (17, 2)))


def test_anneal_is_half_a_cosine():
    path = run(l2o.beyond(descent(), 4, "anneal"), 12, gradient=lambda p, t: jnp.ones(2))
    factors = [1] * 4 + [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)] + [0] * 4
    np.testing.assert_allclose(np.diff(path[:, 0]), [-0.1 * f for f in factors], atol=1e-6)


def test_anneal_does_not_multiply_what_is_not_finite_by_zero():
    path = run(
        l2o.beyond(descent(), 2, "anneal"), 8, gradient=lambda p, t: jnp.where(t < 4, 1.0, jnp.inf) * jnp.ones(2)
    )
    assert jnp.isfinite(path).all()


def test_fallback_is_adam_at_the_rate_of_the_rules_last_steps():
    """On a constant gradient Adam's direction is its sign, and so every step is T / t times the rule's own."""
    path = run(l2o.beyond(descent(), 20, "fallback"), 60, gradient=lambda p, t: jnp.asarray([3.0, -0.5]))
    steps = np.diff(path, axis=0)
    for t in (21, 30, 60):
        np.testing.assert_allclose(steps[t - 1], [-0.3 * 20 / t, 0.05 * 20 / t], rtol=1e-5)


def test_fallback_equals_optax_adam():
    """With b2 = 0.99, and the bias of both averages corrected from the first gradient on."""
    horizon, num = 5, 40
    key = jax.random.key(0)
    gradients = jax.random.normal(key, (num, 3))
    path = run(l2o.beyond(descent(), horizon, "fallback"), num, jnp.zeros(3), lambda p, t: gradients[t])
    adam = optax.scale_by_adam(b2=0.99, eps=0.0)
    state, directions = adam.init(jnp.zeros(3)), []
    for g in gradients:
        u, state = adam.update(g, state)
        directions.append(u)
    size = jnp.abs(0.1 * gradients[horizon - 1])  # a tenth of the horizon is less than a step: the last one counts
    expected = jnp.stack([-size * horizon / (t + 1) * directions[t] for t in range(horizon, num)])
    np.testing.assert_allclose(np.diff(path, axis=0)[horizon:], expected, rtol=2e-4, atol=1e-6)


def test_fallback_leaves_out_gradients_that_are_not_finite():
    path = run(l2o.beyond(descent(), 3, "fallback"), 12, gradient=lambda p, t: jnp.where(t == 6, jnp.nan, 1.0) * p)
    assert jnp.isfinite(path).all()
    np.testing.assert_array_equal(path[7], path[6])


def test_parts_are_wrapped_each_for_itself():
    pair = l2o.Partitioned({"a": descent(0.1), "b": descent(0.2)})
    wrapped = l2o.beyond(pair, 3, name="pair")
    assert {type(part).__name__ for part in wrapped.parts.values()} == {"CoordinatewiseBeyond"}
    assert [part.name for part in wrapped.parts.values()] == ["pair", "pair"]  # and warn once
    again = l2o.Partitioned(wrapped.parts, lambda path, leaf: "b" if path[0].key == "x" else "a")
    params = {"x": jnp.ones(1), "y": jnp.ones(2)}
    state = again.init(params)
    for _ in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            updates, state = again.update(params, state, params)
    assert_trees_equal(updates, jax.tree.map(jnp.zeros_like, params))


def test_bare_and_twice():
    once = l2o.beyond(descent(), 3)
    assert_trees_equal(bare(once), descent())
    assert_trees_equal(l2o.beyond(once, 7, "anneal"), l2o.beyond(descent(), 7, "anneal"))
    assert horizon_of(once) == 3
    assert horizon_of(descent()) is None
    inside = l2o.Rescaled(l2o.beyond(tiny_lstm(), 3), 1.0)
    assert_trees_equal(bare(inside), l2o.Rescaled(tiny_lstm(), 1.0))


def test_constants_are_read_through_it():
    wrapped = l2o.beyond(tiny_lstm(num_units=5), 3)
    assert wrapped.num_units == 5
    with pytest.raises(AttributeError, match=r"LSTM.* has no attribute 'units'"):
        wrapped.units  # noqa: B018


@pytest.mark.slow
def test_forms_of_the_meta_gradient_agree_through_it():
    task, key = bowls(jax.random.key(0)), jax.random.key(1)
    rule = Momentum(jnp.asarray(0.1), jnp.asarray(0.8))
    for how in HOWS:
        optimizer = l2o.beyond(rule, 4, how)

        def meta_loss(optimizer, form):
            state = l2o.start(task, optimizer, key)
            return jnp.sum(l2o.unroll(task, optimizer, state, key, length=8, meta_gradient=form)[1])

        stored, blocks = (jax.grad(meta_loss)(optimizer, form) for form in (l2o.Stored(), l2o.Blocks()))
        assert_trees_close(blocks, stored, rtol=1e-5)


@pytest.mark.parametrize("wrong", [0, -3, True])
def test_a_horizon_is_a_number_of_steps(wrong):
    with pytest.raises(ValueError, match="`horizon` must be "):
        l2o.beyond(descent(), wrong)


def test_refused():
    with pytest.raises(ValueError, match="must be one of 'hold', 'anneal', 'fallback', or None, got 'stop'"):
        l2o.beyond(descent(), 3, "stop")
    with pytest.raises(ValueError, match="AbstractFlat"):
        l2o.beyond(Normalised(jnp.asarray(0.1)), 3, "fallback")


def test_w11_warns_once_in_eager_jit_scan_and_vmap():
    optimizer = l2o.beyond(descent(), 3, name="mine")
    step = jax.jit(lambda p, s: optimizer.update(2 * p, s, p))

    def eager(num):
        run(optimizer, num)

    def jitted(num):
        params = jnp.ones(2)
        state = optimizer.init(params)
        for _ in range(num):
            _, state = step(params, state)

    def scanned(num):
        def body(carry, _):
            updates, state = optimizer.update(2 * carry[0], carry[1], carry[0])
            return (carry[0] + updates, state), None

        def whole(params):
            return jax.lax.scan(body, (params, optimizer.init(params)), length=num)[0][0]

        jax.block_until_ready(jax.jit(jax.vmap(whole))(jnp.ones((4, 2))))

    for loop in (eager, jitted, scanned):
        for num, expected in ((3, 0), (4, 1), (9, 1)):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                loop(num)
                jax.effects_barrier()
            assert len(told) == expected, (loop.__name__, num, [str(w.message) for w in told])
            assert all("mine was meta-trained on runs of 3 steps" in str(w.message) for w in told)


def test_w11_loops_that_know_their_length_warn_before_they_run():
    optimizer = l2o.beyond(descent(), 3, name="mine")
    with pytest.warns(UserWarning, match="runs of 3 steps"):
        silenced(optimizer, 4)
    quiet = silenced(optimizer, 3)
    assert quiet.name is None
    assert_trees_equal(bare(quiet), bare(optimizer))


def test_ratios_are_paired_and_know_rounding():
    losses = np.asarray(
        [[1.0, 0.5, 0.25, 1.0], [1.0, 1e-12, 1e-14, 1e-3], [1.0, 0.5, np.inf, 0.1], [1.0, -0.5, -0.6, -0.7]]
    )
    found = horizons.ratios(losses)
    np.testing.assert_allclose(found[0], [0.5, 2.0])
    np.testing.assert_allclose(found[1], [1.0, 1e-3 / np.finfo(np.float32).eps], rtol=1e-6)
    assert np.isnan(found[2:]).all()


def test_what_is_measured_beyond_is_closed_form():
    """x² from 1 with u = -a g: the loss is (1 - 2a)^(2t)."""
    found = horizons.losses_beyond(descent(0.05), lambda key: bowl(), horizon=3, num_tasks=2)
    np.testing.assert_allclose(found["ratios"], [0.9**6, 0.9**54], rtol=5e-3)
    assert found["ratios"] == found["worst"]
    held = horizons.losses_beyond(l2o.beyond(descent(0.05), 3), lambda key: bowl(), horizon=3)
    assert held["ratios"] == [1.0, 1.0]


def test_a_rescaled_rule_warns_at_its_horizon_too():
    with pytest.warns(UserWarning, match="mine was meta-trained on runs of 3 steps"):
        run(l2o.Rescaled(l2o.beyond(tiny_lstm(), 3, name="mine"), 1.0), 5)


def warned(step, params, state, num):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(num):
            _, state = step(params, state)
        jax.effects_barrier()
    return len(told)


@pytest.mark.parametrize("jitted", [True, False])
@pytest.mark.slow
def test_accumulated_gradients_and_several_parts_warn_once(jitted):
    wrap = jax.jit if jitted else lambda function: function
    rule = l2o.beyond(descent(), 3, name="mine")
    accumulating = optax.MultiSteps(rule.as_optax(), 2)
    step = wrap(lambda p, s: accumulating.update(p, s, p))
    for _ in range(2):
        assert warned(step, jnp.ones(2), accumulating.init(jnp.ones(2)), 12) == 1
    pair, params = l2o.beyond(l2o.Partitioned({"a": descent(), "b": descent()}), 3, name="pair"), {"a": 1.0, "b": 2.0}
    assert warned(wrap(lambda p, s: pair.update(p, s, p)), params, pair.init(params), 6) == 1
    part = pair.parts["b"]  # used alone
    assert warned(wrap(lambda p, s: part.update(p, s, p)), 2.0, part.init(2.0), 6) == 1
