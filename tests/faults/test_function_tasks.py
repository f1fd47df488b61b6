"""Tasks made of functions are pytrees of whatever these closed over, and do what the functions do."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent

import l2o
from faults.awkward_rules import KEY

# B10: tasks of functions, and arguments


def closing_family(key):
    """|x - c|^2 + |x|^2 / 2 in three dimensions, written so that what is drawn hides in every way there is."""
    centre = jax.random.normal(key, (3,))
    known = {"centre": centre, "power": 2}

    def distance(x, c=centre, *, power):
        return jnp.sum((x - c) ** power)

    def again(times, x):  # calls itself
        return distance(x, power=known["power"]) if times == 0 else again(times - 1, x)

    module = Descent(0.5 * jnp.sum(centre**2) / jnp.sum(known["centre"] ** 2))
    part = functools.partial(lambda half, x: half * jnp.sum(x**2), module.log_rate)
    return l2o.FunctionTask(lambda key: 0 * centre, lambda x, key: jax.jit(again, static_argnums=0)(1, x) + part(x))


def test_b10_tasks_made_of_functions_are_pytrees():
    keys = jax.random.split(KEY, 4)
    x = jnp.ones(3)
    tasks = jax.vmap(closing_family)(keys)
    together = jax.vmap(lambda task, key: task.loss(task.init(key) + x, key))(tasks, keys)
    centres = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    np.testing.assert_allclose(together, jnp.sum((1 - centres) ** 2, axis=1) + 1.5, rtol=1e-5)
    np.testing.assert_allclose([closing_family(k).loss(x, k) for k in keys], together, rtol=1e-5)
    eager = [leaf.shape for leaf in jax.tree.leaves(tasks)]
    assert eager
    assert all(shape[0] == 4 for shape in eager)


def test_b10_a_new_task_of_the_same_code_does_not_recompile():
    traces = []

    @jax.jit
    def loss(task, x):
        traces.append(None)
        return task.loss(x, KEY)

    values = [float(loss(closing_family(key), jnp.ones(3))) for key in jax.random.split(KEY, 3)]
    assert len(traces) == 1
    assert len(set(values)) == 3
    # The functions take any shapes, as before.
    task = l2o.FunctionTask(jax.random.normal, lambda x, key: jnp.sum(x**2))
    assert loss(task, jnp.ones(2)) == 2
    assert loss(task, jnp.ones((4, 2))) == 8


def test_b10_what_functions_do_besides_they_still_do():
    calls = []
    task = l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, key: (calls.append(1), jnp.sum(x))[1])
    task.loss(task.init(KEY), KEY)
    assert calls == [1]


def test_b10_numpy_arrays_stay_the_constants_that_they_are():
    def family(key):
        centre, size = jax.random.normal(key, (3,)), np.array([3])
        return l2o.FunctionTask(
            lambda key: jnp.zeros(int(size[0])), lambda x, key: jnp.sum((x[: int(size[0])] - centre) ** 2)
        )

    curves = l2o.loss_curves(optax.sgd(0.1), family, horizon=2, num_tasks=2, key=KEY)
    assert np.isfinite(curves).all()


def test_b10_what_is_no_pytree_is_used_as_it_is():
    mixed = {1: 2.0, "a": 3.0}

    def scaled(x):
        return scaled.factor * x

    scaled.factor = 5.0
    task = l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, key: jnp.sum(scaled(x)) + mixed["a"])
    assert float(task.loss(jnp.ones(2), KEY)) == 13.0
    later = l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, key: jnp.sum(x) * bound_later)
    bound_later = 3.0
    assert float(later.loss(jnp.ones(2), KEY)) == 6.0


class Centred:
    """No pytree."""

    def __init__(self, centre):
        self.centre, self.inner = centre, {"owner": self}

    def loss(self, x, key):
        return jnp.sum((x - self.inner["owner"].centre) ** 2)


def _with_rules(kind, loss):
    """`loss` with a derivative of its own, which is twice the true one."""
    own = kind(loss)
    if kind is jax.custom_jvp:
        own.defjvp(lambda at, by: (loss(*at), 2 * jax.jvp(lambda x: loss(x, at[1]), at[:1], by[:1])[1]))
    else:
        own.defvjp(lambda x, key: (loss(x, key), (x, key)), lambda at, by: (2 * by * jax.grad(loss)(*at), None))
    return own


def _looped(loss):
    factors = [1.0]
    factors.append(factors)
    return lambda x, key: factors[0] * loss(x, key)


@pytest.mark.parametrize(
    ("make", "factor"),
    [
        (lambda centre: Centred(centre).loss, 1),
        (lambda centre: functools.partial(lambda o, x, key: o.loss(x, key), Centred(centre)), 1),
        (lambda centre: eqx.filter_jit(lambda x, key: jnp.sum((x - centre) ** 2)), 1),
        (lambda centre: _with_rules(jax.custom_jvp, lambda x, key: jnp.sum((x - centre) ** 2)), 2),
        (lambda centre: _with_rules(jax.custom_vjp, lambda x, key: jnp.sum((x - centre) ** 2)), 2),
        (lambda centre: _looped(lambda x, key: jnp.sum((x - centre) ** 2)), 1),
    ],
    ids=["method", "partial", "filter_jit", "custom_jvp", "custom_vjp", "a list that holds itself"],
)
def test_b10_whatever_holds_what_was_drawn_the_task_is_a_pytree_of_it(make, factor):
    def family(key):
        return l2o.FunctionTask(lambda key: jnp.zeros(3), make(jax.random.normal(key, (3,))))

    keys, x = jax.random.split(KEY, 2), jnp.ones(3)
    tasks = jax.vmap(family)(keys)
    losses, slopes = jax.vmap(lambda task, key: jax.value_and_grad(task.loss)(x, key))(tasks, keys)
    centres = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    np.testing.assert_allclose(losses, jnp.sum((x[None] - centres) ** 2, axis=1), rtol=1e-5)
    np.testing.assert_allclose(slopes, factor * 2 * (x[None] - centres), rtol=1e-5)
    assert "\n" not in repr(tasks.loss_fn)


def test_b10_an_object_without_tracers_is_the_one_that_was_given():
    class Counting:
        calls = 0

        def loss(self, x, key):
            self.calls += 1
            return jnp.sum(x)

    counting = Counting()
    counting.scale = jnp.ones(2)
    task = l2o.FunctionTask(lambda key: jnp.ones(2), counting.loss)
    task.loss(jnp.ones(2), KEY)
    assert counting.calls == 1


def test_b10_objects_that_call_themselves_equal_are_two():
    class Same:
        def __init__(self, rate):
            self.rate = rate

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 0

    def task(rate):
        constants = Same(rate)
        return l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, key: constants.rate * jnp.sum(x))

    loss = eqx.filter_jit(lambda task: task.loss(jnp.ones(2), KEY))
    assert [float(loss(task(rate))) for rate in (1.0, 2.0)] == [2.0, 4.0]
