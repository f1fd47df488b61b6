"""The inner loop and its meta-gradients: every form against an obvious reference."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, Momentum, Normalised, assert_trees_close, bowl, regression, tiny_lstm
from jax.flatten_util import ravel_pytree

import l2o

KEY = jax.random.key(0)
LENGTH = 4


def rule(name):
    if name == "lstm":
        return tiny_lstm()
    if name == "normalised":
        return Normalised(jnp.asarray(0.1))
    return Momentum(jnp.asarray(0.1), jnp.asarray(0.7))


def obvious(task, optimizer, state, key, *, length, split="train", second_order=False):
    """The inner loop as one would write it on paper, for plain autodiff."""

    def step(state, _):
        params, opt_state, t = state
        step_key = jax.random.fold_in(key, t)
        gradient = jax.grad(task.loss)(params, step_key)
        outer_key = step_key if split == "train" else jax.random.fold_in(step_key, 1)
        loss = task.loss(params, outer_key, split=split)
        if not second_order:
            gradient = jax.lax.stop_gradient(gradient)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (jax.tree.map(jnp.add, params, updates), opt_state, t + 1), loss

    final, losses = jax.lax.scan(step, (state.params, state.opt_state, state.step), length=length)
    return l2o.InnerState(*final), losses


def objective(loop, weights=None, **options):
    """A number that depends on all of an unroll's results: weighted losses, final params, final optimizer state."""

    def value(differentiable, task, step, key):
        optimizer, params, opt_state = differentiable
        state, losses = loop(task, optimizer, l2o.InnerState(params, opt_state, step), key, **options)
        w = jnp.ones(losses.shape) if weights is None else weights
        final = [jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((state.params, state.opt_state))]
        return jnp.sum(w * losses) + 0.3 * sum(final)

    return value


def meta_gradient(loop, optimizer, weights=None, batch_size=4, **options):
    """Of `objective`, with respect to the optimizer, the initial params and the initial optimizer state."""
    task = regression(batch_size)
    state = l2o.start(task, optimizer, jax.random.key(1))
    opt_state = jax.tree.map(lambda x: x + 0.1, state.opt_state)
    grad = eqx.filter_jit(eqx.filter_grad(objective(loop, weights, length=LENGTH, **options)))
    return grad((optimizer, state.params, opt_state), task, state.step, KEY)


def test_unroll_of_gradient_descent_on_x_squared_is_a_geometric_series():
    task, optimizer = bowl(), Descent(jnp.log(0.1))
    state, losses = l2o.unroll(task, optimizer, l2o.start(task, optimizer, KEY), KEY, length=6)
    np.testing.assert_allclose(losses, 0.8 ** (2 * np.arange(6)), rtol=1e-5)
    np.testing.assert_allclose(state.params, 0.8**6, rtol=1e-5)
    assert state.step == 6


@pytest.mark.parametrize("cut", [1, 7])
@pytest.mark.parametrize("split", ["train", "outer"])
def test_unroll_can_be_cut_anywhere(cut, split):
    task, optimizer = regression(), rule("momentum")
    start = l2o.start(task, optimizer, KEY)
    whole, losses = l2o.unroll(task, optimizer, start, KEY, length=10, split=split)
    half, first = l2o.unroll(task, optimizer, start, KEY, length=cut, split=split)
    again, rest = l2o.unroll(task, optimizer, half, KEY, length=10 - cut, split=split)
    assert_trees_close(again, whole, rtol=1e-6)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), losses, rtol=1e-6)
    assert np.unique(losses).size == 10  # every step has its own minibatch


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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere memory is stored for longer")
def test_on_a_cpu_states_beyond_the_cache_are_replayed_unless_asked_otherwise():
    """Of a momentum of 4 bytes a coordinate, 50 steps of 40,000 coordinates fit (8 MB), and 50 of 100,000 do not (20 MB)."""

    def temporaries(num, form):
        task = l2o.FunctionTask(lambda key: jnp.ones(num), lambda x, key: jnp.sum(x**2))

        def meta_loss(optimizer, state):
            return jnp.sum(l2o.unroll(task, optimizer, state, KEY, length=50, meta_gradient=form)[1])

        optimizer = rule("momentum")
        compiled = jax.jit(jax.grad(meta_loss)).lower(optimizer, l2o.start(task, optimizer, KEY)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(40_000, None) == temporaries(40_000, l2o.Stored()) != temporaries(40_000, l2o.Blocks())
    assert temporaries(100_000, None) == temporaries(100_000, l2o.Blocks()) < temporaries(100_000, l2o.Stored())


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


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.1), optax.adam(0.1), optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9))],
    ids=["sgd", "adam", "chain"],
)
def test_optax_transformations_unroll_as_in_a_loop_of_ones_own(optimizer):
    task = regression()
    state = l2o.start(task, optimizer, KEY)
    final, losses = l2o.unroll(task, optimizer, state, KEY, length=3)
    expected, expected_losses = obvious(task, optimizer, state, KEY, length=3)
    assert_trees_close(final.params, expected.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)


def test_lbfgs_is_given_what_its_line_search_needs():
    """On a quadratic of 3 dimensions it is at the minimum within a few steps."""
    scale = jnp.asarray([1.0, 10.0, 100.0])
    task = l2o.FunctionTask(lambda key: jnp.ones(3), lambda x, key: jnp.sum(scale * x**2))
    optimizer = optax.lbfgs()
    _, losses = jax.jit(lambda: l2o.unroll(task, optimizer, l2o.start(task, optimizer, KEY), KEY, length=15))()
    assert losses[0] == 111.0
    assert losses[-1] < 1e-6


def test_begin_depends_on_the_key_alone():
    """Optimizers are compared on the same tasks, starts and minibatches."""

    def family(key):
        return l2o.FunctionTask(
            lambda init_key: jax.random.normal(init_key, (2,)),
            lambda x, batch_key: jnp.sum((x - jax.random.normal(key, (2,)) - jax.random.normal(batch_key, (2,))) ** 2),
        )

    first = [l2o.begin(family, optimizer, KEY) for optimizer in (optax.adam(0.1), rule("momentum"))]
    (task_a, state_a, key_a), (task_b, state_b, key_b) = first
    assert_trees_close(state_a.params, state_b.params, rtol=0)
    assert task_a.loss(state_a.params, key_a) == task_b.loss(state_b.params, key_b)
    assert not np.allclose(state_a.params, l2o.begin(family, optax.adam(0.1), jax.random.key(1))[1].params)


@pytest.mark.parametrize(("horizon", "truncation"), [(10, 4), (10, 0), (4, 8)])
def test_truncation_must_divide_horizon(horizon, truncation):
    message = rf"`truncation` must divide `horizon`, got truncation={truncation} and horizon={horizon}\."
    with pytest.raises(ValueError, match=message):
        l2o.InnerTraining(bowl, horizon, truncation)


def test_step_weights_must_be_as_many_as_steps():
    with pytest.raises(ValueError, match=r"one weight per step of the horizon, got shape \(3,\) and horizon=4"):
        l2o.InnerTraining(bowl, 4, 2, step_weights=jnp.ones(3))
