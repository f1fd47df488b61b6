"""The meta-gradient in all its forms: against autodiff, finite differences, and each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import assert_trees_close, regression
from jax.flatten_util import ravel_pytree
from unrolls import LENGTH, meta_gradient, objective, obvious, rule

import l2o

KEY = jax.random.key(0)


@pytest.mark.parametrize("form", [l2o.Stored(), l2o.Blocks(5)], ids=str)
def test_meta_gradients_can_be_cut_anywhere(form, x64):
    def in_two(task, optimizer, state, key, *, length, **options):
        state, first = l2o.unroll(task, optimizer, state, key, length=1, **options)
        state, rest = l2o.unroll(task, optimizer, state, key, length=length - 1, **options)
        return state, jnp.concatenate([first, rest])

    whole = meta_gradient(l2o.unroll, rule("momentum"), meta_gradient=form)
    assert_trees_close(meta_gradient(in_two, rule("momentum"), meta_gradient=form), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "split"), [("momentum", "train"), ("momentum", "outer"), ("lstm", "outer"), ("normalised", "train")]
)
def test_stored_is_autodiff_with_gradients_stopped(name, split, x64):
    weights = jnp.linspace(0.2, 2.0, LENGTH)
    fast = meta_gradient(l2o.unroll, rule(name), weights, split=split, meta_gradient=l2o.Stored())
    assert_trees_close(fast, meta_gradient(obvious, rule(name), weights, split=split), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("split", ["train", "outer"])
def test_second_order_is_plain_autodiff_and_not_the_first_order(split, x64):
    full = meta_gradient(l2o.unroll, rule("momentum"), split=split, meta_gradient=l2o.SecondOrder())
    plain = meta_gradient(obvious, rule("momentum"), split=split, second_order=True)
    assert_trees_close(full, plain, rtol=1e-9, atol=1e-12)
    first = meta_gradient(l2o.unroll, rule("momentum"), split=split, meta_gradient=l2o.Stored())
    assert not np.allclose(full[0].rate, first[0].rate, rtol=1e-5)


@pytest.mark.parametrize(  # of 12 coordinates
    ("name", "size"), [("momentum", 4), ("momentum", 5), ("momentum", 100), ("lstm", 5)]
)
def test_blocks_are_stored(name, size, x64):
    weights = jnp.linspace(0.2, 2.0, LENGTH)
    stored = meta_gradient(l2o.unroll, rule(name), weights, split="outer", meta_gradient=l2o.Stored())
    blocks = meta_gradient(l2o.unroll, rule(name), weights, split="outer", meta_gradient=l2o.Blocks(size))
    assert_trees_close(blocks, stored, rtol=1e-9, atol=1e-12)


def partly_unseen():
    """A least-squares task of 12 coordinates, of which the losses see those with an even number."""
    seen = jnp.arange(12) % 2 == 0
    return l2o.FunctionTask(
        lambda key: jnp.ones(12), lambda x, key: jnp.mean((jax.random.normal(key, (12,)) - x) ** 2 * seen)
    )


@pytest.mark.parametrize("name", ["momentum", "lstm"])
def test_coordinates_that_no_loss_sees_may_be_left_out(name, x64):
    """A state that losses come back to from outside is seen, though, by whoever asks for its derivative."""
    task, optimizer = partly_unseen(), rule(name)
    state = l2o.start(task, optimizer, KEY)

    def gradient(form, and_final):
        def value(optimizer):
            final, losses = l2o.unroll(task, optimizer, state, KEY, length=LENGTH, meta_gradient=form)
            return jnp.sum(losses) + and_final * jnp.sum(final.params**3)

        return eqx.filter_grad(value)(optimizer)

    for and_final in (False, True):
        stored = gradient(l2o.Stored(), and_final)
        assert_trees_close(gradient(l2o.Blocks(4), and_final), stored, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("and_final", "num_blocks"), [(False, 2), (True, 3)])
def test_only_blocks_that_some_loss_sees_are_replayed(and_final, num_blocks):
    replayed = []

    class Counting(type(rule("momentum"))):
        def run_coordinates(self, gradients, state, params):
            jax.debug.callback(lambda: replayed.append(1))
            return super().run_coordinates(gradients, state, params)

    task, optimizer = partly_unseen(), Counting(*jax.tree.leaves(rule("momentum")))

    def value(optimizer):
        state = l2o.start(task, optimizer, KEY)
        final, losses = l2o.unroll(task, optimizer, state, KEY, length=LENGTH, meta_gradient=l2o.Blocks(4))
        return jnp.sum(losses) + (jnp.sum(final.params**2) if and_final else 0.0)

    eqx.filter_jit(eqx.filter_grad(value))(optimizer)
    jax.effects_barrier()
    assert len(replayed) == num_blocks  # of 4 coordinates: 6 are seen, or all 12


@pytest.mark.parametrize("form", [l2o.Stored(), l2o.Blocks(5), l2o.SecondOrder()], ids=str)
def test_meta_gradients_run_side_by_side(form):
    """Under `vmap`, and through `InnerTraining` with step weights."""
    task = regression()
    weights = jnp.linspace(0.0, 1.0, 6)
    problem = l2o.InnerTraining(lambda key: task, 6, 3, step_weights=weights, meta_gradient=form)
    optimizer = rule("momentum")

    @eqx.filter_grad
    def gradient(optimizer, key):
        state, _ = problem.advance(optimizer, problem.init(optimizer, key))
        return problem.advance(optimizer, state)[1]  # the second truncation: weights 0.6, 0.8, 1

    keys = jax.random.split(KEY, 2)
    together = eqx.filter_jit(eqx.filter_vmap(gradient, in_axes=(None, 0)))(optimizer, keys)
    for i, key in enumerate(keys):

        def meta_loss(optimizer, key=key):
            task, state, batch_key = l2o.begin(problem.family, optimizer, key)
            second_order = isinstance(form, l2o.SecondOrder)
            _, losses = obvious(task, optimizer, state, batch_key, length=6, second_order=second_order)
            return jnp.mean(losses[3:] * weights[3:])

        alone = eqx.filter_jit(eqx.filter_grad(meta_loss))(optimizer)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], together), alone, rtol=2e-5)


def directional(value, optimizer, step=1e-5, num=3):
    """Central differences and the gradient's own slopes along random directions."""
    arrays, static = eqx.partition(optimizer, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(arrays)
    f = jax.jit(lambda flat: value(eqx.combine(unravel(flat), static)))
    directions = jax.random.normal(jax.random.key(5), (num, flat.size))
    slopes = [(f(flat + step * d) - f(flat - step * d)) / (2 * step) for d in directions]
    return directions @ jax.jit(jax.grad(f))(flat), jnp.stack(slopes)


@pytest.mark.parametrize("form", [l2o.Stored(), l2o.Blocks(3)], ids=str)
@pytest.mark.parametrize("name", ["momentum", "lstm"])
def test_first_order_against_finite_differences_where_gradients_are_constant(name, form, x64):
    """Of a linear loss, the gradient does not depend on the meta-parameters: nothing is dropped."""
    slope = jnp.asarray([0.5, -1.0, 2.0, 0.1])
    task = l2o.FunctionTask(lambda key: jnp.ones(4), lambda x, key: jnp.dot(slope, x))

    def meta_loss(optimizer):
        state, losses = l2o.unroll(
            task, optimizer, l2o.start(task, optimizer, KEY), KEY, length=LENGTH, meta_gradient=form
        )
        return jnp.sum(losses**2) + jnp.sum(state.params**3)

    ours, differences = directional(meta_loss, rule(name))
    np.testing.assert_allclose(ours, differences, rtol=1e-6)


@pytest.mark.parametrize("name", ["momentum", "lstm"])
def test_second_order_against_finite_differences(name, x64):
    task = regression()

    def meta_loss(optimizer, form):
        _, losses = l2o.unroll(task, optimizer, l2o.start(task, optimizer, KEY), KEY, length=LENGTH, meta_gradient=form)
        return jnp.sum(losses)

    ours, differences = directional(lambda optimizer: meta_loss(optimizer, l2o.SecondOrder()), rule(name))
    np.testing.assert_allclose(ours, differences, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("momentum", l2o.Sampled(0.25)),
        ("momentum", l2o.Sampled(0.1, uniform=0.5)),
        ("momentum", l2o.Sampled(0.25, uniform=1.0)),
        ("lstm", l2o.Sampled(0.25)),
    ],
    ids=str,
)
def test_sampled_is_unbiased(name, form):
    """The mean of many draws is within four standard errors of the full gradient, component by component."""
    task, optimizer, num_draws = (
        regression(batch_size=0),
        rule(name),
        2000,
    )  # the loss ignores the key; the draws do not
    state = l2o.start(task, optimizer, jax.random.key(1))

    def gradient(key, form):
        value = objective(l2o.unroll, length=LENGTH, meta_gradient=form)
        grad = eqx.filter_grad(
            lambda optimizer: value((optimizer, state.params, state.opt_state), task, state.step, key)
        )
        return ravel_pytree(grad(optimizer))[0]

    full = jax.jit(gradient, static_argnums=1)(KEY, l2o.Stored())
    draws = jax.jit(jax.vmap(lambda key: gradient(key, form)))(jax.random.split(KEY, num_draws))
    error = jnp.std(draws, axis=0) / num_draws**0.5
    assert jnp.linalg.norm(error) < 0.1 * jnp.linalg.norm(full)  # or the next line would say little
    np.testing.assert_array_less(jnp.abs(jnp.mean(draws, axis=0) - full), 4 * error + 1e-6)


def test_sampling_every_coordinate_evenly_is_exact():
    """All of 12 coordinates in a systematic uniform sample: each is drawn once, with weight one."""
    optimizer, task = rule("momentum"), regression()
    state = l2o.start(task, optimizer, KEY)

    def gradient(form):
        value = objective(l2o.unroll, length=LENGTH, meta_gradient=form)
        meta_loss = lambda o: value((o, state.params, state.opt_state), task, state.step, KEY)
        return eqx.filter_jit(eqx.filter_grad(meta_loss))(optimizer)

    assert_trees_close(gradient(l2o.Sampled(1.0, uniform=1.0)), gradient(l2o.Stored()), rtol=1e-5)


@pytest.mark.parametrize("form", [l2o.Blocks(), l2o.Sampled()], ids=str)
def test_replaying_needs_a_coordinatewise_optimizer(form):
    task, optimizer = regression(), rule("normalised")
    with pytest.raises(ValueError, match=rf"{type(form).__name__} needs a coordinatewise optimizer, got Normalised"):
        l2o.unroll(task, optimizer, l2o.start(task, optimizer, KEY), KEY, length=2, meta_gradient=form)


def test_sampled_refuses_the_gradient_of_the_initial_state():
    with pytest.raises(ValueError, match="`Sampled` estimates the gradient of the meta-parameters only"):
        meta_gradient(l2o.unroll, rule("momentum"), meta_gradient=l2o.Sampled())
