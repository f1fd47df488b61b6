"""What a learned rule takes for params: complex numbers, shards on explicit meshes, donated buffers, and all else Adam takes."""

import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, Momentum, Normalised, assert_trees_close, tiny_lstm
from jax.flatten_util import ravel_pytree

import l2o
from l2o.core import plugins, scale
from l2o.evaluation import timing
from l2o.evaluation.surrogates import Surrogate
from l2o.optimizers import lstm, ntm_bfgs

KEY = jax.random.key(0)
START = jnp.asarray([1 + 2j, -3j])
FORMS = [l2o.Stored(), l2o.Blocks(3), l2o.SecondOrder()]


def rules():
    tiny = {"num_layers": 2, "num_units": 3}
    built = {name: plugins.get("optimizers", name).build(KEY, **tiny, **more) for name, more in _ARGUMENTS.items()}
    built["global"] = lstm.build(KEY, num_global=2, **tiny)
    built["pairs"] = ntm_bfgs.build(KEY, num_global=2, memory_pairs=3, **tiny)
    built["rescaled"] = l2o.Rescaled(built["lstm"], 0.1)
    built["partitioned"] = l2o.Partitioned({"a": built["lstm"], "b": built["rescaled"]})
    ones = [jnp.ones(())] * 5
    built["surrogate"] = Surrogate(jnp.full((2, 3), 0.01), jnp.asarray([1.0, 10.0]), *ones)
    return built


# Rules on the vector of all coordinates. Of the others, as of optax's, a complex number has one square, that of its magnitude.
_SHAPES = {n: eqx.filter_eval_shape(plugins.get("optimizers", n).build, KEY) for n in plugins.names("optimizers")}
FLAT = [n for n, optimizer in _SHAPES.items() if isinstance(optimizer, l2o.AbstractFlat)]
NAMES = [*FLAT, "global", "pairs", "rescaled", "partitioned", "surrogate"]
_ARGUMENTS = {name: {"num_global": 2} if name == "ntm_bfgs" else {} for name in FLAT}


def sphere(dtype=jnp.complex64):
    return l2o.FunctionTask(lambda key: START.astype(dtype), lambda z, key: jnp.sum(jnp.abs(z) ** 2))


def test_w8_every_rule_brings_complex_params_to_rest():
    """The sum of |z|^2 from 14 (along the real axis alone to 13): both parts fall, with SGD at gradient descent's rate."""
    _, losses = l2o.unroll(sphere(), optax.sgd(0.1), l2o.start(sphere(), optax.sgd(0.1), KEY), KEY, length=6)
    np.testing.assert_allclose(losses, 14 * 0.64 ** np.arange(6), rtol=1e-5)
    for optimizer in (optax.adam(0.3), Descent(jnp.log(0.3)), Momentum(jnp.asarray(0.1), jnp.asarray(0.5))):
        final, losses = l2o.unroll(sphere(), optimizer, l2o.start(sphere(), optimizer, KEY), KEY, length=100)
        assert losses[0] == pytest.approx(14)
        assert losses[-1] < 0.02
        assert final.params.dtype == START.dtype
    optimizer = l2o.load("lstm-mnist")
    final, losses = l2o.unroll(sphere(), optimizer, l2o.start(sphere(), optimizer, KEY), KEY, length=200)
    assert losses[-1] < 0.2
    assert jnp.abs(final.params.imag).max() < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_w8_a_complex_number_is_its_two_parts(name):
    """Complex params move as the same numbers do that are given as pairs of real ones."""
    optimizer = rules()[name]
    z = {"a": jnp.asarray([[1 + 2j, -3j]], jnp.complex64), "b": jnp.asarray([0.5 - 1j, 2.0], jnp.complex64)}
    pairs = jax.tree.map(lambda x: jnp.stack([x.real, x.imag], axis=-1), z)
    state, paired = optimizer.init(z), optimizer.init(pairs)
    assert_trees_close(state, paired)
    for step in range(3):
        gradient = jax.tree.map(lambda x, s=step: x * (1 + s), z)
        updates, state = optimizer.update(gradient, state, z)
        as_pairs = jax.tree.map(lambda x: jnp.stack([x.real, x.imag], axis=-1), gradient)
        expected, paired = optimizer.update(as_pairs, paired, pairs)
        assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, z)
        actual = jax.tree.map(lambda x: jnp.stack([x.real, x.imag], axis=-1), updates)
        assert_trees_close(actual, expected, rtol=1e-6)
        z, pairs = optax.apply_updates(z, updates), optax.apply_updates(pairs, expected)


def test_w8_double_precision_stays(x64):
    optimizer = tiny_lstm()
    z = {"z": START.astype(jnp.complex128), "r": jnp.ones(2, jnp.float32)}
    updates, _ = optimizer.update(z, optimizer.init(z), z)
    assert updates["z"].dtype == jnp.complex128
    assert updates["r"].dtype == jnp.float32


def test_w8_the_root_mean_square_is_that_of_real_coordinates():
    np.testing.assert_allclose(scale.rms({"z": jnp.asarray([3 + 4j]), "x": jnp.ones(2)}), (27 / 4) ** 0.5, rtol=1e-6)


def mixed():
    """A loss of two complex numbers and a real one that is not a sum over coordinates, and the same of five real ones."""

    def loss(z, x, key):
        noise = jax.random.normal(key, ())
        value = jnp.sum(jnp.abs(z - (0.3 + 0.1j)) ** 2) + jnp.real(z[0] * z[1]) * 0.5 + jnp.imag(z[1] ** 2) * x[0]
        return value + x[0] ** 2 + 0.1 * noise * jnp.imag(z[0])

    complex_task = l2o.FunctionTask(
        lambda key: {"a": START.astype(jnp.complex128), "b": jnp.ones(1)}, lambda p, key: loss(p["a"], p["b"], key)
    )
    real_task = l2o.FunctionTask(
        lambda key: {"a": jnp.stack([START.real, START.imag], axis=-1).astype(jnp.float64), "b": jnp.ones(1)},
        lambda p, key: loss(jax.lax.complex(p["a"][:, 0], p["a"][:, 1]), p["b"], key),
    )
    return complex_task, real_task


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("name", ["momentum", "partitioned"])
def test_w8_meta_gradients_are_those_of_the_real_problem(name, form, x64):
    """By the rule, the start and its state; of losses and of what comes after. Real params have tests of their own."""
    rule = Momentum(jnp.asarray(0.1), jnp.asarray(0.7))
    if name == "partitioned":
        rule = l2o.Partitioned({"a": rule, "b": Momentum(jnp.asarray(0.2), jnp.asarray(0.5))})

    def gradient(task):
        start = l2o.start(task, rule, KEY)

        def value(differentiable):
            optimizer, params, opt_state = differentiable
            state = l2o.InnerState(params, opt_state, start.step)
            final, losses = l2o.unroll(task, optimizer, state, KEY, length=4, meta_gradient=form)
            a = final.params["a"]
            if jnp.iscomplexobj(a):
                a = jnp.stack([a.real, a.imag], axis=-1)
            later = jnp.sum(jnp.sin(a)) + sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(final.opt_state))
            return jnp.sum(losses * jnp.arange(1.0, 5.0)) + later

        return jax.jit(jax.grad(value))((rule, start.params, start.opt_state))

    complex_task, real_task = mixed()
    ours, expected = gradient(complex_task), gradient(real_task)
    assert_trees_close(ours[0], expected[0], rtol=1e-9)
    assert_trees_close(ours[2], expected[2], rtol=1e-9)
    start = jnp.conj(ours[1]["a"])  # JAX's convention
    np.testing.assert_allclose(jnp.stack([start.real, start.imag], axis=-1), expected[1]["a"], rtol=1e-9)
    np.testing.assert_allclose(ours[1]["b"], expected[1]["b"], rtol=1e-9)


def test_w8_sampled_is_unbiased_for_complex_params(x64):
    """Every coordinate once, evenly, is exact."""
    task, rule = mixed()[0], Momentum(jnp.asarray(0.1), jnp.asarray(0.7))
    start = l2o.start(task, rule, KEY)

    def gradient(form):
        value = lambda rule: jnp.sum(l2o.unroll(task, rule, start, KEY, length=4, meta_gradient=form)[1])
        return jax.jit(jax.grad(value))(rule)

    assert_trees_close(gradient(l2o.Sampled(1.0, uniform=1.0)), gradient(l2o.Stored()), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.slowest
def test_w8_meta_gradients_against_finite_differences(x64):
    task, rule = mixed()[0], Normalised(jnp.asarray(0.1))

    @jax.jit
    def value(rate):
        rule = Normalised(rate)
        start = l2o.start(task, rule, KEY)
        return jnp.sum(l2o.unroll(task, rule, start, KEY, length=4, meta_gradient=l2o.SecondOrder())[1])

    slope = (value(rule.rate + 1e-5) - value(rule.rate - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(value)(rule.rate), slope, rtol=1e-7)


def test_w8_families_with_complex_params_are_taken():
    l2o.check_family(lambda key: sphere(), KEY, num_tasks=2)
    losses = l2o.loss_curves(tiny_lstm(), lambda key: sphere(), horizon=3, num_tasks=2, key=KEY)
    assert np.isfinite(losses).all()


def test_w8_costs_are_of_steps_downhill(x64):
    start = START.astype(jnp.complex128)
    moved, losses = timing._gradients(sphere(jnp.complex128), start, KEY, 3)
    np.testing.assert_allclose((start - moved) / 1e-9, 3 * 2 * start, rtol=1e-6)
    assert losses[2] < losses[0]


def sharded(*calls):
    source, tests = Path(l2o.__file__).parents[1], Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (source, tests)))}
    command = [sys.executable, str(Path(__file__).with_name("sharded_params.py")), *calls]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")


@pytest.mark.slow
@pytest.mark.slowest
def test_b1_on_an_explicit_mesh_a_coordinatewise_rule_is_the_same_and_sends_nothing():
    sharded("explicit:lstm")


@pytest.mark.slowest
@pytest.mark.slow
@pytest.mark.parametrize("name", ["global", "rescaled", "ntm_bfgs", "partitioned"])
def test_b1_on_an_explicit_mesh_rules_of_all_coordinates_are_the_same(name):
    sharded(f"explicit:{name}")


@pytest.mark.slowest
@pytest.mark.slow
def test_b1_states_are_divided_where_they_can_be_and_replicated_params_are_taken():
    sharded("divisible", "replicated")


@pytest.mark.slowest
@pytest.mark.slow
def test_b1_on_a_mesh_of_auto_axes_all_goes_on_working():
    sharded("auto:lstm", "auto:global")


PARAMS = {"a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.full(2, 0.5)}


@pytest.mark.parametrize("name", NAMES)
def test_b2_donated_state_of_every_architecture(name):
    """Params and state donated, from the first step on: no buffer is given twice, and none is the rule's own."""
    optimizer = rules()[name]
    pair = optimizer.as_optax()

    def step(params, state):
        updates, state = pair.update(params, state, params)
        return optax.apply_updates(params, updates), state

    copy = lambda: jax.tree.map(jnp.copy, PARAMS)
    expected = (copy(), pair.init(PARAMS))
    for _ in range(2):
        expected = jax.jit(step)(*expected)
    donated = jax.jit(step, donate_argnums=(0, 1))
    for init in (pair.init, jax.jit(pair.init)):
        actual = copy(), init(PARAMS)
        for _ in range(2):
            actual = donated(*actual)
        assert_trees_close(actual[0], expected[0], rtol=1e-5)
    jax.block_until_ready(jax.tree.leaves(optimizer))


def test_b2_a_state_that_starts_as_the_rule_s_own_array_can_be_donated():
    class Learned(l2o.AbstractFlat):
        start: jax.Array

        def init_coordinates(self, num):
            return [self.start, self.start]

        def update_coordinates(self, gradients, state, params):
            return -state[0] * gradients, [0.5 * state[0], state[1]]

    optimizer = Learned(jnp.asarray(0.1))
    step = jax.jit(lambda g, state: optimizer.as_optax().update(g, state), donate_argnums=1)
    step(PARAMS, optimizer.init(PARAMS))
    assert float(optimizer.start) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["lstm", "pairs", "rescaled"])
def test_b2_a_state_never_is_the_caller_s_params_or_gradient(name):
    """One vector of params is its own vector of coordinates: after an eager step, donating the state must not take it."""
    optimizer, params, gradient = rules()[name], jnp.ones(4), jnp.full(4, 0.3)
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
    np.testing.assert_array_equal(params + gradient, np.full(4, 1.3, np.float32))


def test_b2_leaves_without_coordinates_are_passed_over():
    """An Equinox module, whole: integers and functions have no gradient, and get no update."""
    optimizer = tiny_lstm()
    floats = {"w": jnp.ones(3), "n": None, "f": None}
    model = {"w": jnp.ones(3), "n": jnp.arange(4), "f": jax.nn.relu}
    expected, _ = optimizer.update(floats, optimizer.init({"w": jnp.ones(3)}), {"w": jnp.ones(3), "n": None, "f": None})
    state = optimizer.init(eqx.filter(model, eqx.is_array))
    updates, _ = optimizer.update(floats, state, model)
    assert_trees_close(updates, expected)
    assert eqx.apply_updates(model, updates)["n"] is model["n"]
    with pytest.raises(TypeError, match=r"a leaf that is no array: \['f'\]"):
        optimizer.init(model)


def test_b2_gradients_that_cannot_be_followed_are_named():
    optimizer = tiny_lstm()
    params = {"w": jnp.ones(3), "n": jnp.arange(4)}
    state = optimizer.init(params)
    float0 = jax.grad(lambda p: jnp.sum(p["w"]), allow_int=True)(params)
    for gradient in (float0, {"w": jnp.ones(3), "n": jnp.arange(4)}):
        with pytest.raises(TypeError, match=r"moves floating and complex params, but the gradient of \['n'\] is"):
            optimizer.update(gradient, state, params)
    with pytest.raises(ValueError, match=r"gradient of \['w'\] is None, but the params have 3 numbers there"):
        optimizer.update({"w": None, "n": None}, state, params)
    with pytest.raises(ValueError, match=r"gradient of \['w'\] is float32\[4\], but the params have float32\[3\]"):
        optimizer.update({"w": jnp.ones(4), "n": None}, state, params)
    with pytest.raises(ValueError, match="gradients have 4 coordinates, but the state is of others"):
        optimizer.update({"w": jnp.ones(4)}, state)


def test_b2_numbers_of_python_and_numpy_empty_leaves_and_no_leaves_at_all():
    optimizer = tiny_lstm()
    params = {"x": 1.0, "y": np.ones(2), "empty": jnp.zeros((0, 3)), "z": jnp.asarray(1j)}
    gradient = {"x": 0.5, "y": np.full(2, 0.1), "empty": jnp.zeros((0, 3)), "z": 1.0}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == {"x": (), "y": (2,), "empty": (0, 3), "z": ()}
    assert updates["z"].dtype == jnp.complex64
    alone, _ = optimizer.update({"x": jnp.asarray(0.5)}, optimizer.init({"x": jnp.asarray(1.0)}))
    np.testing.assert_allclose(updates["x"], alone["x"], rtol=1e-6)
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}


def test_b2_integers_for_gradients_of_floating_params_are_numbers():
    optimizer, params = tiny_lstm(), jnp.ones(2)
    state = optimizer.init(params)
    actual, _ = optimizer.update(jnp.asarray([1, -2]), state, params)
    assert_trees_close(actual, optimizer.update(jnp.asarray([1.0, -2.0]), state, params)[0])


def test_b2_what_optax_s_users_do_with_states():
    """Norms and casts of the whole state, filtered jit, flattening into a checkpoint and back, a scan with donated buffers."""
    optimizer = tiny_lstm()
    state = optimizer.init(PARAMS)
    _, state = eqx.filter_jit(optimizer.update)(PARAMS, state, PARAMS)
    assert optax.tree.norm(state) > 0
    assert {x.dtype for x in jax.tree.leaves(optax.tree.cast(state, jnp.bfloat16))} == {jnp.dtype(jnp.bfloat16)}
    chain = optax.chain(optax.clip_by_global_norm(1.0), optimizer, optax.scale(0.5))
    stored = {
        jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(chain.init(PARAMS))
    }
    assert len(stored) == len(jax.tree.leaves(chain.init(PARAMS)))

    def train(params, state):
        def step(carry, _):
            params, state = carry
            updates, state = chain.update(params, state, params)
            return (optax.apply_updates(params, updates), state), optax.tree.norm(updates)

        return jax.lax.scan(step, (params, state), length=5)

    (params, _), norms = jax.jit(train, donate_argnums=(0, 1))(jax.tree.map(jnp.copy, PARAMS), chain.init(PARAMS))
    expected, again = PARAMS, chain.init(PARAMS)
    for _ in range(5):
        updates, again = chain.update(expected, again, expected)
        expected = optax.apply_updates(expected, updates)
    assert_trees_close(params, expected, rtol=1e-5)
    assert norms.shape == (5,)
    flat, unravel = ravel_pytree(state)
    assert_trees_close(unravel(flat), state)
