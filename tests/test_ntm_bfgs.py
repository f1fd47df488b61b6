"""The memory against loops in NumPy, what the rule starts as and can express, and its two forms against each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import assert_trees_close
from test_global_lstm import assert_first_order

import l2o
from l2o.optimizers import ntm_bfgs, pretrained
from l2o.tasks import quadratic

pytestmark = [pytest.mark.slow, pytest.mark.slowest]

KEY = jax.random.key(0)
NUM = 5


def tiny(**arguments):
    return ntm_bfgs.build(KEY, **{"num_layers": 1, "num_units": 4, "num_global": 2, "num_write": 2, **arguments})


def drawn(**arguments):
    """One whose writes are not the zero that it starts with."""
    optimizer = tiny(**arguments)
    keys = jax.random.split(jax.random.key(1))
    readout, bias = (x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(_readout(optimizer), keys, strict=True))
    return eqx.tree_at(_readout, optimizer, (readout, bias))


def _readout(optimizer):
    return optimizer.readout, optimizer.bias


def run(optimizer, gradients, params):
    """Updates of every step for given gradients, and the states after them."""
    state, rows, states = optimizer.init_coordinates(gradients.shape[1]), [], []
    for gradient in gradients:
        updates, state = optimizer.update_coordinates(gradient, state, params)
        params = params + updates
        rows.append(updates)
        states.append(state)
    return jnp.stack(rows), states


def bfgs():
    """The rule with its gates set to those of BFGS: no read, write or update comes from the controller's units."""
    optimizer = tiny()
    readout, bias = _readout(optimizer)
    q = optimizer.num_units  # column of the first scalar
    a_gates = jnp.zeros((4, readout.shape[1])).at[0, q].set(1.0)
    constants = {
        "a_gates": jnp.asarray([1.0, -1.0, -1.0, 0.0]),  # (1 + q) s - M y; -s
        "b_gates": jnp.asarray([1.0, 0.0, 0.0, 1.0]),  # s; M y
        "read_gate": jnp.ones(1),
    }
    heads = optimizer._assembled({"a_gates": a_gates}, readout), optimizer._assembled(constants, bias)
    return eqx.tree_at(_readout, optimizer, heads)


def test_reads_and_writes_are_those_of_the_equations():
    """Preset "paper", the controller in NumPy too: M <- M + sum of a b^T, i = M r, i an input of the next step."""
    optimizer = tiny(preset="paper", num_read=2)
    gradients = jax.random.normal(KEY, (4, NUM))
    updates, states = run(optimizer, gradients, jnp.zeros(NUM))
    cell, (h, c) = optimizer.cells[0], np.zeros((2, 4, NUM))
    memory, reads = np.eye(NUM), np.zeros((2, NUM))
    for t, gradient in enumerate(np.asarray(gradients)):
        x = np.concatenate([gradient[None], reads, h])
        gates = np.asarray(cell.weight) @ x + np.asarray(cell.bias)[:, None]
        i, f, o = 1 / (1 + np.exp(-gates[:12].reshape(3, 4, NUM)))
        c = f * c + i * np.tanh(gates[12:])
        h = o * np.tanh(c)
        h[:2] = h[:2].mean(axis=1, keepdims=True)
        u, *r_a_b = np.asarray(optimizer.readout) @ h + np.asarray(optimizer.bias)[:, None]
        r, a, b = np.reshape(r_a_b, (3, 2, NUM))
        for left, right in zip(a, b, strict=True):
            memory = memory + np.outer(left, right)
        reads = np.stack([memory @ vector for vector in r])
        np.testing.assert_allclose(updates[t], u, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(states[t].memory.matrix, memory, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(states[t].reads, reads, rtol=1e-4, atol=1e-6)


def test_as_built_it_is_steepest_descent():
    gradients = jax.random.normal(KEY, (3, NUM))
    updates, states = run(tiny(output_scale=0.02), gradients, jnp.ones(NUM))
    np.testing.assert_allclose(updates, -0.02 * gradients, rtol=1e-5)
    np.testing.assert_array_equal(states[-1].memory.matrix, np.eye(NUM))


@pytest.mark.slowest
@pytest.mark.slow
def test_it_can_be_bfgs(x64, monkeypatch):
    """The textbook's update of the inverse Hessian, with unit steps, from rate x I (Nocedal & Wright 2006, 6.17).

    But for the limits on what runs away: the textbook's steps do grow by more.
    """
    for limit in ("_MAX_READ", "_MAX_SCALAR", "_MAX_GROWTH", "_MAX_RISE"):
        monkeypatch.setattr(ntm_bfgs, limit, 1e9)
    optimizer = jax.tree.map(lambda leaf: leaf.astype(float), bfgs())
    rng = np.random.default_rng(0)
    root = rng.normal(size=(NUM, NUM))
    hessian, theta = root @ root.T, rng.normal(size=NUM)
    state, params = optimizer.init_coordinates(NUM), jnp.asarray(theta)
    inverse, last = optimizer.output_scale * np.eye(NUM), None
    for _ in range(8):
        gradient = hessian @ theta
        if last is not None:
            s, y = theta - last[0], gradient - last[1]
            shift = np.eye(NUM) - np.outer(s, y) / (s @ y)
            inverse = shift @ inverse @ shift.T + np.outer(s, s) / (s @ y)
        last = theta, gradient
        theta = theta - inverse @ gradient
        updates, state = optimizer.update_coordinates(jnp.asarray(gradient), state, params)
        params = params + updates
        np.testing.assert_allclose(params, theta, rtol=1e-8)
        np.testing.assert_allclose(optimizer.output_scale * state.memory.matrix, inverse, rtol=1e-6, atol=1e-9)


def test_as_bfgs_it_solves_ten_dimensional_quadratics():
    curves = l2o.loss_curves(bfgs(), quadratic.family(), horizon=100, num_tasks=32, key=KEY)
    assert np.median(curves[:, 100]) < 1e-9
    assert curves[:, 100].max() < 1e-2


@pytest.mark.parametrize("preset", ["guided", "paper"])
@pytest.mark.slowest
@pytest.mark.slow
def test_the_last_pairs_are_the_whole_memory_until_one_is_dropped(preset):
    gradients = jax.random.normal(KEY, (4, NUM))
    full, few, enough = (drawn(preset=preset, memory_pairs=k) for k in (None, 5, 8))  # 2 heads x 4 steps
    expected, states = run(full, gradients, jnp.ones(NUM))
    actual, pairs = run(enough, gradients, jnp.ones(NUM))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    memory = pairs[-1].memory
    assert memory.left.shape == memory.right.shape == (8, NUM)
    np.testing.assert_allclose(
        np.eye(NUM) + memory.left.T @ memory.right, states[-1].memory.matrix, rtol=1e-4, atol=1e-5
    )
    fewer = run(few, gradients, jnp.ones(NUM))[0]
    np.testing.assert_allclose(fewer[:2], expected[:2], rtol=1e-4, atol=1e-6)
    assert np.abs(fewer[3] - expected[3]).max() > 1e-5


def test_of_the_pairs_the_last_are_kept():
    memory = ntm_bfgs._Pairs(jnp.zeros((3, 1)), jnp.zeros((3, 1)))
    for a in (1.0, 2.0):
        memory = memory.write(jnp.asarray([[a], [10 * a]]), jnp.ones((2, 1)))
    np.testing.assert_array_equal(memory.left[:, 0], [10.0, 2.0, 20.0])
    np.testing.assert_array_equal(memory.read(jnp.asarray([[2.0]])), [[2.0 + 2.0 * 32.0]])


@pytest.mark.parametrize("memory_pairs", [None, 4])
def test_neither_scale_nor_order_matters(memory_pairs, x64):
    """A loss scaled by c has updates scaled by c; c in the params too. Coordinates in another order have theirs so."""
    optimizer = jax.tree.map(lambda leaf: leaf.astype(float), drawn(memory_pairs=memory_pairs))
    gradients, params = jax.random.normal(KEY, (4, NUM)), jnp.linspace(-1.0, 1.0, NUM)
    expected = run(optimizer, gradients, params)[0]
    np.testing.assert_allclose(run(optimizer, 1e3 * gradients, 1e3 * params)[0], 1e3 * expected, rtol=1e-8)
    order = np.array([2, 0, 4, 1, 3])
    permuted = run(optimizer, gradients[:, order], params[order])[0]
    np.testing.assert_allclose(permuted, expected[:, order], rtol=1e-8)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("arguments", [{}, {"memory_pairs": 3}, {"preset": "paper"}], ids=str)
def test_the_stored_meta_gradient_is_that_of_plain_autodiff(arguments, x64):
    assert_first_order(jax.tree.map(lambda leaf: leaf.astype(float), drawn(**arguments)))


def test_a_converged_run_stays_where_it_is():
    """Gradients of zero, and steps lost in rounding: nothing is divided by zero."""
    gradients = jnp.concatenate([jax.random.normal(KEY, (2, NUM)), jnp.zeros((3, NUM))])
    updates, _ = run(drawn(), gradients, jnp.ones(NUM))
    assert np.isfinite(updates).all()
    updates, _ = run(drawn(), 1e-20 * gradients, jnp.ones(NUM))
    assert np.isfinite(updates).all()


def test_a_memory_that_does_not_fit_is_refused_before_it_is_made():
    params = jax.ShapeDtypeStruct((16_385,), jnp.float32)
    with pytest.raises(
        ValueError, match=r"of 16,385 x 16,385 coordinates takes 1,073,872,900 bytes, .*NTM-L-BFGS.*memory_pairs=30"
    ):
        jax.eval_shape(tiny().init, params)
    state = jax.eval_shape(tiny(memory_pairs=30).init, params)
    assert state.memory.left.shape == (30, 16_385)
    jax.eval_shape(tiny().init, jax.ShapeDtypeStruct((16_384,), jnp.float32))  # the largest that fits


def test_it_needs_params_for_differences_only():
    gradient = jnp.ones(NUM)
    with pytest.raises(ValueError, match=r"needs the params: call update\(gradients, state, params\)"):
        tiny().update(gradient, tiny().init(gradient))
    paper = tiny(preset="paper")
    assert paper.update(gradient, paper.init(gradient))[0].shape == (NUM,)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`num_read` must be at least 1, got 0\."):
        tiny(num_read=0, memory_pairs=0)
    with pytest.raises(
        ValueError, match=r"`num_global` must be from 0 to `num_units`, got num_global=5 and num_units=4"
    ):
        tiny(num_global=5)
    with pytest.raises(ValueError, match=r"No preset named 'nope'\. Presets of ntm_bfgs: guided, paper\."):
        tiny(preset="nope")


def test_it_is_not_coordinatewise():
    task = l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, key: jnp.sum(x**2))
    with pytest.raises(ValueError, match="needs a coordinatewise optimizer, got NTMBFGS"):
        l2o.unroll(task, tiny(), l2o.start(task, tiny(), KEY), KEY, length=2, meta_gradient=l2o.Blocks())


def test_torch_refuses_its_weights_and_says_what_has_twins(tmp_path):
    torch = pytest.importorskip("torch")
    import l2o.torch as l2o_torch

    pretrained.save(tmp_path / "ntm.safetensors", tiny())
    with pytest.raises(
        ValueError, match=r"No PyTorch twin of the architecture 'ntm_bfgs'\. Twins: .*lstm.*with JAX and optax"
    ):
        l2o_torch.LearnedOptimizer([torch.nn.Parameter(torch.zeros(2))], tmp_path / "ntm.safetensors")


def test_loading_gives_the_same_rule(tmp_path):
    optimizer = drawn(memory_pairs=3)
    pretrained.save(tmp_path / "ntm.safetensors", optimizer)
    assert_trees_close(l2o.load(tmp_path / "ntm.safetensors", like=optimizer), optimizer, rtol=0)
