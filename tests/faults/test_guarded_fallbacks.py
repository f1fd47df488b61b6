"""Any optax transformation is a fallback, in whatever loop, and buffers may be donated."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_equal, bowl, tiny_lstm

import l2o
from faults.guarded_rules import DESCENT, GROWING, UPHILL, steps

pytestmark = [pytest.mark.slow, pytest.mark.slowest]

KEY = jax.random.key(0)


TREES = {
    "f32": {"a": jnp.ones(3), "b": (jnp.zeros(()), None)},
    "bf16": {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(2)},
    "f16": jnp.ones(4, jnp.float16),
    "complex": [jnp.ones(2, jnp.complex64), jnp.zeros(3)],
    "empty leaf": {"a": jnp.zeros((0, 2)), "b": jnp.ones(1)},
    "nothing": {},
}


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def pointers(tree):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) if leaf.size]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", TREES)
def test_b2_no_two_arrays_share_a_buffer(name, jit):
    params, guarded = TREES[name], l2o.Guarded(optax.chain(optax.trace(0.9), tiny_lstm()), optax.adam(0.01))
    if name == "complex":
        guarded = l2o.Guarded(UPHILL, optax.adam(0.01))
    state = (jax.jit(guarded.as_optax().init) if jit else guarded.init)(params)
    found = pointers((params, state))
    assert len(found) == len(set(found))


@pytest.mark.parametrize("rule", [DESCENT, UPHILL, GROWING], ids=["good", "uphill", "absurd"])
@pytest.mark.slowest
@pytest.mark.slow
def test_b2_params_and_state_may_be_donated(rule):
    loss_fn = lambda p: jnp.sum((p["a"] - 0.3) ** 2) + jnp.sum(p["b"] ** 2)
    make = lambda: {"a": jnp.ones(3), "b": jnp.zeros(3)}
    found = steps(l2o.Guarded(rule, optax.adam(0.01)), loss_fn, make(), 6, donate=True)
    kept = steps(l2o.Guarded(rule, optax.adam(0.01)), loss_fn, make(), 6)
    assert_trees_equal(found[-1], kept[-1])


FALLBACKS = {
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(20, store_grad=True)),
    "polyak": optax.polyak_sgd(),
    "momo": optax.contrib.momo(0.3),
    "momo_adam": optax.contrib.momo_adam(0.1),
    "schedule_free": optax.contrib.schedule_free_adamw(0.1),
    "schedule_free_sgd": optax.contrib.schedule_free_sgd(0.1),
    "plateau": optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "prodigy": optax.contrib.prodigy(1.0, estim_lr0=1e-2),
    "noise": optax.chain(optax.add_noise(1e-6, 0.5, 0), optax.sgd(0.1)),
    "masked": optax.chain(optax.masked(optax.trace(0.5), {"w": True, "b": False}), optax.sgd(0.1)),
    "injected": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "learned": DESCENT,
    "chain of learned": optax.chain(optax.clip_by_global_norm(1.0), DESCENT),
}


def rosy(params):
    return jnp.sum((params["w"] - 0.5) ** 2) + 0.3 * jnp.sum((params["b"] + 0.2) ** 4)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("name", FALLBACKS)
def test_b4_any_optax_transformation_is_a_fallback_and_runs_as_it_does_alone(name):
    """`value` and `value_fn` are all that is passed. The race's run, and then the run itself, are the fallback's own."""
    params = {"w": jnp.ones((2, 2)), "b": jnp.asarray([0.4, 1.0])}
    fallback = FALLBACKS[name]
    found = steps(l2o.Guarded(UPHILL, fallback), rosy, params, 25)
    alone = steps(WithGrad(fallback), rosy, params, 25)
    over = next(i for i, (_, state) in enumerate(found) if state.handed_over)
    assert over < 20
    for (ours, _), (theirs, _) in list(zip(found, alone, strict=True))[over:]:
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


class WithGrad(l2o.AbstractLearnedOptimizer):
    """An optax transformation that is also given `grad`."""

    rule: object = eqx.field(static=True)

    def init(self, params):
        return self.rule.init(params)

    def update(self, updates, state, params=None, **extra):
        rule = self.rule
        rule = rule if isinstance(rule, l2o.AbstractLearnedOptimizer) else optax.with_extra_args_support(rule)
        return rule.update(updates, state, params, grad=updates, **extra)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("name", ["lbfgs", "backtracking", "polyak", "momo", "plateau", "schedule_free"])
def test_b4_so_it_may_be_the_guarded_rule(name):
    params = {"w": jnp.ones((2, 2)), "b": jnp.asarray([0.4, 1.0])}
    rule = FALLBACKS[name]
    found = steps(l2o.Guarded(rule, optax.sgd(1e-3)), rosy, params, 10)
    alone = steps(WithGrad(rule), rosy, params, 10)
    assert not found[-1][1].handed_over
    for a, b in zip(jax.tree.leaves(found[-1][0]), jax.tree.leaves(alone[-1][0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
@pytest.mark.slowest
@pytest.mark.slow
def test_b4_lbfgs_is_a_fallback_for_other_dtypes_too(dtype):
    start = jnp.asarray([1.0, -2.0]).astype(dtype)
    target = jnp.asarray([0.5, 0.25]).astype(dtype) * (1 + 1j if dtype == jnp.complex64 else 1)
    loss_fn = lambda x: jnp.sum(jnp.abs(x - target) ** 2)
    found = steps(l2o.Guarded(UPHILL, optax.lbfgs()), loss_fn, start, 25)
    assert loss_fn(found[-1][0]) < 1e-2
    assert types(found[-1][1]) == types(found[0][1])


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("name", ["lbfgs", "backtracking", "polyak", "momo", "plateau"])
def test_b4_what_a_rule_lacks_is_said_in_the_caller_s_words(name):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    lacks = r"`value`" if name in ("polyak", "momo", "plateau") else r"`value` and `value_fn`"
    for who, guarded in (
        ("fallback", l2o.Guarded(DESCENT, FALLBACKS[name])),
        ("learned rule", l2o.Guarded(FALLBACKS[name], optax.sgd(0.1))),
    ):
        state = guarded.init(params)
        with pytest.raises(ValueError, match=rf"The {who} asks for {lacks}, which `update` was not given\. Call `opt"):
            guarded.update(params, state, params)
        with pytest.raises(ValueError, match=rf"The {who} asks for {lacks}, which"):
            jax.jit(guarded.as_optax().update)(params, state, params)


@pytest.mark.slow
@pytest.mark.slowest
def test_b4_value_without_value_fn_is_said_too():
    guarded = l2o.Guarded(DESCENT, optax.lbfgs())
    with pytest.raises(ValueError, match=r"fallback asks for `value_fn`, which .* value=loss, value_fn=loss_of_this"):
        guarded.update(jnp.ones(2), guarded.init(jnp.ones(2)), jnp.ones(2), value=1.0)


@pytest.mark.slow
@pytest.mark.slowest
def test_b4_inside_unroll_vmap_scan_and_checkpoint():
    task, guarded = bowl(), l2o.Guarded(UPHILL, optax.lbfgs())

    @jax.jit
    def final(key):
        run = jax.checkpoint(lambda key: l2o.unroll(task, guarded, l2o.start(task, guarded, key), key, length=12)[1])
        return run(key)[-1]

    one = final(KEY)
    assert one < 1e-6
    np.testing.assert_allclose(jax.vmap(final)(jax.random.split(KEY, 2)), one, atol=1e-6)
