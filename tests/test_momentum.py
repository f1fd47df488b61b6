"""`l2o.Momentum`: the rules that everyone knows are points of it, and its constants may be learned in every way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_close

import l2o
from l2o.optimizers import momentum

KEY = jax.random.key(0)
HORIZON = 30
RATE = 0.03

# optax's, and the point of ours. `lr` is a rate or a schedule.
KNOWN = {
    "sgd": (lambda lr: optax.sgd(lr), 1.0),
    "momentum": (lambda lr: optax.sgd(lr, momentum=0.9), 10.0),
    "nag": (lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True), 10.0),
    "rmsprop": (lambda lr: optax.rmsprop(lr, eps_in_sqrt=False), 1.0),
    "adam": (lambda lr: optax.adam(lr), 1.0),
    "nadam": (lambda lr: optax.nadam(lr), 1.0),
}
SCHEDULES = {
    "constant": (optax.constant_schedule(RATE), 0.0),
    "linear": (optax.linear_schedule(RATE, 0.1 * RATE, HORIZON), 0.1),
    "cosine": (optax.cosine_decay_schedule(RATE, HORIZON, 0.1), 0.1),
}


def gradients(step):
    """Of params with a scalar, a matrix and complex numbers among them."""
    k = jax.random.split(jax.random.fold_in(KEY, step), 3)
    z = jax.lax.complex(*jax.random.normal(k[2], (2, 4)))
    return {"a": jax.random.normal(k[0], ()), "b": 3 * jax.random.normal(k[1], (3, 2)), "c": z}


def trajectory(rule, num_steps):
    params = jax.tree.map(jnp.zeros_like, gradients(0))

    def step(carry, t):
        params, state = carry
        updates, state = rule.update(gradients(t), state, params)
        return (optax.apply_updates(params, updates), state), params

    return jax.lax.scan(step, (params, rule.init(params)), jnp.arange(num_steps))[1]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", KNOWN)
def test_rules_that_everyone_knows_are_points_of_it(name, schedule):
    make, factor = KNOWN[name]
    optax_schedule, least = SCHEDULES[schedule]
    theirs = make(optax_schedule)
    ours = momentum.build(preset=name, horizon=HORIZON, rate=factor * RATE, decay=schedule, least=least)
    assert_trees_close(trajectory(ours, HORIZON + 5), trajectory(theirs, HORIZON + 5), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5, 0.37])
def test_a_learned_power_is_the_fixed_one(power):
    rules = [l2o.Momentum(HORIZON, rate=RATE, power=power, eps=1e-4, learn_power=learn) for learn in (True, False)]
    if power == 0:  # then the fixed one has no denominator, of which eps would be a part
        rules[0] = l2o.Momentum(HORIZON, rate=RATE, power=0.0, eps=0.0, learn_power=True)
    assert_trees_close(*(trajectory(rule, 10) for rule in rules), rtol=1e-4, atol=1e-6)


def test_the_rate_rises_falls_and_follows_its_curve():
    rule = l2o.Momentum(100, rate=2.0, warmup=0.1, decay="linear", least=0.1, rate_curve=[0.0, 1.0])
    rates = np.asarray(rule.rates(jnp.arange(301)))
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10 * (1 - 0.9 * np.arange(10) / 100), rtol=1e-5)
    np.testing.assert_allclose(rates[50], 2.0 * 0.55, rtol=1e-5)
    np.testing.assert_allclose(rates[75], 2.0 * (0.1 + 0.9 * 0.25) * np.exp(0.5), rtol=1e-5)
    np.testing.assert_allclose(rates[100:], 2.0 * 0.1 * np.e, rtol=1e-5)


def test_b1_follows_its_curve_and_its_bias_stays_corrected():
    rule = l2o.Momentum(10, rate=1.0, b1=0.5, b1_curve=[2.0], power=0.0, nesterov=False)
    np.testing.assert_allclose(rule.b1s(jnp.asarray([0, 5, 10, 20])), jax.nn.sigmoid(jnp.asarray([0.0, 1.0, 2.0, 2.0])))
    state = rule.init(jnp.zeros(()))
    for _ in range(20):  # of equal gradients every mean is the same, however its weights move
        update, state = rule.update(jnp.asarray(3.0), state)
        np.testing.assert_allclose(update, -3.0, rtol=1e-5)


def test_a_gradient_of_zero_moves_nothing_and_has_derivatives():
    rule = l2o.Momentum(10, eps=0.0, learn_power=True)

    def moved(rule):
        update, _ = rule.update(jnp.zeros(3), rule.init(jnp.zeros(3)))
        return jnp.sum(update)

    value, gradient = jax.value_and_grad(moved)(rule)
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("meta_gradient", [l2o.Stored(), l2o.SecondOrder()])
def test_its_meta_gradient_is_the_slope_of_the_meta_loss(meta_gradient):
    """On a linear loss, whose gradient is constant: first and second order are the same, and so is a difference quotient."""
    slope = jnp.asarray([1.0, -2.0, 0.5])
    family = lambda key: l2o.FunctionTask(lambda key: jnp.zeros(3), lambda params, key: params @ slope)
    rule = l2o.Momentum(
        8, rate=0.1, warmup=0.5, decay="cosine", least=0.2, rate_curve=[0.1, 0.2], learn_power=True, eps=0.1
    )
    problem = l2o.InnerTraining(family, 8, 8, meta_gradient=meta_gradient)

    def meta_loss(rule):
        return problem.advance(rule, problem.init(rule, KEY))[1]

    gradient = jax.grad(meta_loss)(rule)
    for name in ("log_rate", "log_warmup", "logit_least", "logit_power", "log_eps"):
        at = lambda x, name=name: meta_loss(
            jax.tree_util.tree_map_with_path(lambda p, v: v + x if p[0].name == name else v, rule)
        )
        np.testing.assert_allclose(getattr(gradient, name), (at(1e-2) - at(-1e-2)) / 2e-2, rtol=2e-2, atol=1e-5)


def test_it_is_saved_and_loaded(tmp_path):
    rule = l2o.Momentum(
        50, rate=0.2, warmup=0.1, decay="cosine", least=0.05, rate_curve=[0.3, -0.1], power=0.25, b1=0.0
    )
    l2o.save(tmp_path / "rule.safetensors", rule, recipe={"horizon": 50})
    loaded = l2o.load(tmp_path / "rule.safetensors", beyond=None)
    assert jax.tree.structure(loaded) == jax.tree.structure(rule)
    assert_trees_close(loaded, rule, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"horizon": 0}, "horizon"),
        ({"rate": -1.0}, "rate"),
        ({"b1": 1.0}, "would never move"),
        ({"power": 2.0}, "from 0 to 1"),
        ({"decay": "exponential"}, "constant, linear, cosine"),
        ({"rate_curve": 3.0}, "rate_curve"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        l2o.Momentum(**{"horizon": 10, **arguments})
    with pytest.raises(ValueError, match="nadam"):
        momentum.build(preset="adamax")
