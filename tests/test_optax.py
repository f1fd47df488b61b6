"""A shipped optimizer wherever an optax transformation goes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_close, bowl

import l2o

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.full(3, 0.5)}


@pytest.fixture(scope="module")
def optimizer():
    return l2o.load("lstm-mnist")


def loss_fn(params):
    return jnp.sum((params["w"] - 0.3) ** 2) + jnp.sum(params["b"] ** 2)


def steps(optimizer, params=PARAMS, num=3, **extra):
    """The params after a few jitted steps."""

    @jax.jit
    def step(params, state):
        gradient = jax.grad(loss_fn)(params)
        updates, state = optimizer.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(num):
        params, state = step(params, state)
    return params


@pytest.fixture(scope="module")
def plain(optimizer):
    return steps(optimizer)


def moved(after, before=PARAMS):
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after, before)


def test_as_optax_is_optax_s_own_type_and_the_same_rule(optimizer, plain):
    pair = optimizer.as_optax()
    assert isinstance(pair, optax.GradientTransformationExtraArgs)
    assert_trees_close(steps(pair), plain, rtol=1e-6)
    update = jax.jit(pair.update)
    updates, _ = update(jax.grad(loss_fn)(PARAMS), jax.jit(pair.init)(PARAMS), PARAMS)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)


def test_a_clip_before_and_weight_decay_and_a_schedule_after(optimizer):
    """One step: the rule's own update of the clipped gradient, times 0.5, and the decay."""
    schedule = optax.linear_schedule(0.5, 1.0, 10)
    chain = optax.chain(
        optax.clip_by_global_norm(1.0), optimizer, optax.add_decayed_weights(-0.01), optax.scale_by_schedule(schedule)
    )
    clipped, _ = optax.clip_by_global_norm(1.0).update(jax.grad(loss_fn)(PARAMS), optax.EmptyState())
    updates, _ = optimizer.update(clipped, optimizer.init(PARAMS), PARAMS)
    expected = jax.tree.map(lambda p, u: p + 0.5 * (u - 0.01 * p), PARAMS, updates)
    assert_trees_close(steps(chain, num=1), expected, rtol=1e-5)


def test_partition(optimizer):
    """The matrix by the learned rule, the vector by SGD."""
    both = optax.partition({"learned": optimizer, "sgd": optax.sgd(0.1)}, {"w": "learned", "b": "sgd"})
    after = steps(both)
    alone = steps(optimizer)  # coordinatewise: the vector does not matter to the matrix
    np.testing.assert_allclose(after["w"], alone["w"], rtol=1e-5)
    np.testing.assert_allclose(after["b"], 0.8**3 * PARAMS["b"], rtol=1e-5)


def test_masked(optimizer, plain):
    masked = optax.chain(
        optax.masked(optimizer, {"w": True, "b": False}), optax.masked(optax.set_to_zero(), {"w": False, "b": True})
    )
    after = steps(masked)
    np.testing.assert_allclose(after["w"], plain["w"], rtol=1e-5)
    np.testing.assert_array_equal(after["b"], PARAMS["b"])


def test_inject_hyperparams(optimizer):
    """A factor on the learned rule's updates that can be changed in the middle of a run."""

    def scaled(factor):
        return optax.chain(optimizer, optax.scale(factor))

    injected = optax.inject_hyperparams(scaled)(factor=1.0)
    state = injected.init(PARAMS)
    gradient = jax.grad(loss_fn)(PARAMS)
    whole, _ = injected.update(gradient, state, PARAMS)
    state.hyperparams["factor"] = jnp.asarray(0.5)
    half, _ = injected.update(gradient, state, PARAMS)
    assert_trees_close(half, jax.tree.map(lambda u: 0.5 * u, whole), rtol=1e-6)


def test_apply_if_finite(optimizer):
    safe = optax.apply_if_finite(optimizer, max_consecutive_errors=3)
    state = safe.init(PARAMS)
    gradient = jax.grad(loss_fn)(PARAMS)
    updates, after = safe.update(jax.tree.map(lambda g: g * jnp.nan, gradient), state, PARAMS)
    assert all((u == 0).all() for u in jax.tree.leaves(updates))
    assert_trees_close(after.inner_state, state.inner_state)
    expected, _ = optimizer.update(gradient, state.inner_state, PARAMS)
    assert_trees_close(safe.update(gradient, after, PARAMS)[0], expected, rtol=1e-6)


def test_multi_steps(optimizer, plain):
    """Every gradient twice: half as many steps."""
    twice = optax.MultiSteps(optimizer, every_k_schedule=2)
    params, state = PARAMS, twice.init(PARAMS)
    for _ in range(6):
        updates, state = twice.update(jax.grad(loss_fn)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert_trees_close(params, plain, rtol=1e-5)


def test_under_scan_and_vmap(optimizer, plain):
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss_fn)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=3)[0][0]

    several = jax.tree.map(lambda p: jnp.stack([p, p + 0.1]), PARAMS)
    after = jax.jit(jax.vmap(run))(several)
    assert_trees_close(jax.tree.map(lambda x: x[0], after), plain, rtol=1e-5)


def test_bfloat16_params(optimizer, plain):
    """The state stays in single precision, the updates are the params' dtype and, to 8 bits, the same."""
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    state = optimizer.init(half)
    updates, after = optimizer.update(jax.grad(loss_fn)(half), state, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves((state, after))} == {jnp.dtype(jnp.float32)}
    after = jax.tree.map(lambda p: p.astype(jnp.float32), steps(optimizer, half))
    assert_trees_close(moved(after), moved(plain), rtol=0.1, atol=0.01)


def test_value_reaches_a_guarded_rule_in_a_chain(optimizer):
    """By way of `as_optax`; a module in a chain gets the gradient only, as any optax transformation that asks for no more."""
    guarded = l2o.Guarded(optimizer)
    for rule, seen in ((guarded.as_optax(), 7.0), (guarded, None)):
        chain = optax.chain(rule, optax.scale(1.0))
        gradient = jax.grad(loss_fn)(PARAMS)
        _, (state, _) = chain.update(gradient, chain.init(PARAMS), PARAMS, value=jnp.asarray(7.0))
        assert state.watch.average == pytest.approx(seen or float(optax.tree.norm(gradient)))


def test_unroll_takes_the_pair_too(optimizer):
    task = bowl()
    key = jax.random.key(0)
    losses = [l2o.unroll(task, o, l2o.start(task, o, key), key, length=4)[1] for o in (optimizer, optimizer.as_optax())]
    np.testing.assert_allclose(*losses, rtol=1e-6)
