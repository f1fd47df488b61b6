"""Global averaging cells: what they average, what that does to equivariance and meta-gradients, and their PyTorch twin."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import assert_trees_close, assert_trees_equal, regression, tiny_lstm

import l2o
from l2o.optimizers import lstm, pretrained

KEY = jax.random.key(0)
NUM = 6


def steps(optimizer, gradients, order=slice(None)):
    """Updates of every step, [num_steps, num], and the last state, with the coordinates in this order."""
    state, rows = optimizer.init_coordinates(gradients.shape[1]), []
    for gradient in gradients[:, order]:
        updates, state = optimizer.update_coordinates(gradient, state, None)
        rows.append(updates)
    return jnp.stack(rows), state


def test_the_first_units_of_every_layer_are_the_mean_of_those_of_cells_alone():
    """By hand: the step of each cell, and then the mean."""
    optimizer = tiny_lstm(num_layers=2, num_units=4, num_global=2, preset="raw")
    gradients = jax.random.normal(KEY, (2, NUM))
    updates, state = steps(optimizer, gradients)
    hs, cs = np.zeros((2, 4, NUM)), np.zeros((2, 4, NUM))
    for gradient in np.asarray(gradients):
        x = gradient[None]
        for layer, cell in enumerate(optimizer.cells):
            gates = np.asarray(cell.weight) @ np.concatenate([x, hs[layer]]) + np.asarray(cell.bias)[:, None]
            i, f, o = 1 / (1 + np.exp(-gates[:12].reshape(3, 4, NUM)))
            cs[layer] = f * cs[layer] + i * np.tanh(gates[12:])
            x = o * np.tanh(cs[layer])
            x[:2] = x[:2].mean(axis=1, keepdims=True)
            hs[layer] = x
        expected = np.asarray(optimizer.readout) @ x + np.asarray(optimizer.bias)
    np.testing.assert_allclose(updates[-1], expected, rtol=1e-4, atol=1e-6)
    for layer, (h, c) in enumerate(state):
        np.testing.assert_allclose(h, hs[layer], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(c, cs[layer], rtol=1e-4, atol=1e-6)
        assert np.ptp(c[:2], axis=1).min() > 1e-4  # memories are each coordinate's own


def test_a_coordinate_hears_of_another_only_through_global_units():
    gradients = jnp.ones((2, NUM))
    moved = gradients.at[:, 0].set(5.0)
    for num_global, hears in ((0, False), (1, True)):
        optimizer = tiny_lstm(num_global=num_global, preset="raw")
        before, after = (np.asarray(steps(optimizer, g)[0])[:, 1:] for g in (gradients, moved))
        assert (not np.array_equal(before, after)) == hears


@pytest.mark.parametrize("num_global", [0, 2, 3])
def test_the_order_of_coordinates_does_not_matter(num_global):
    optimizer = tiny_lstm(num_global=num_global)
    gradients = jax.random.normal(KEY, (3, NUM))
    order = np.array([3, 0, 5, 1, 4, 2])
    expected, state = steps(optimizer, gradients)
    actual, permuted = steps(optimizer, gradients, order)
    np.testing.assert_allclose(actual, expected[:, order], rtol=1e-5, atol=1e-7)
    assert_trees_close(permuted, jax.tree.map(lambda x: x[..., order], state), rtol=1e-5, atol=1e-7)


def test_without_global_units_it_is_the_coordinatewise_lstm():
    plain, zero = tiny_lstm(), tiny_lstm(num_global=0)
    assert type(zero) is type(plain) is lstm.LSTM
    assert isinstance(plain, l2o.AbstractCoordinatewise)
    assert not isinstance(tiny_lstm(num_global=1), l2o.AbstractCoordinatewise)


def test_blocks_and_samples_of_coordinates_are_refused():
    task, optimizer = regression(), tiny_lstm(num_global=1)
    state = l2o.start(task, optimizer, KEY)
    for form in (l2o.Blocks(2), l2o.Sampled(0.5)):
        with pytest.raises(ValueError, match=r"needs a coordinatewise optimizer, got GlobalLSTM, .*Use `Stored\(\)`"):
            l2o.unroll(task, optimizer, state, KEY, length=2, meta_gradient=form)


def test_bad_numbers_of_global_units():
    with pytest.raises(ValueError, match="`num_global` must be at least 0, got -1"):
        tiny_lstm(num_global=-1)
    with pytest.raises(ValueError, match="`num_global` must be from 0 to `num_units`, got num_global=4"):
        tiny_lstm(num_global=4)


def test_weights_say_which_of_the_two_they_are(tmp_path):
    """The arrays are of the same shapes."""
    plain, coupled = tiny_lstm(), tiny_lstm(num_global=1)
    path = tmp_path / "it.safetensors"
    pretrained.save(path, coupled)
    assert isinstance(l2o.load(path), lstm.GlobalLSTM)
    assert pretrained.header(path)["arguments"]["num_global"] == 1
    with pytest.raises(ValueError, match="not for the optimizer asked for"):
        l2o.load(path, like=plain)
    pretrained.save(path, plain)
    assert isinstance(l2o.load(path), lstm.LSTM)
    assert "num_global" not in pretrained.header(path)["arguments"]
    with pytest.raises(ValueError, match=r"not for the optimizer asked for \(num_global: None vs 1\)"):
        l2o.load(path, like=coupled)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_torch_twin_takes_the_same_steps_and_keeps_the_same_state(dtype):
    """Through `l2o.torch.LearnedOptimizer`, on two tensors: the mean is over both."""
    torch = pytest.importorskip("torch")
    from l2o.torch import LearnedOptimizer, _optimizer

    with jax.enable_x64(dtype == "float64"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_optimizer, "_BLOCK", 2)  # no blocks for rules that average
        optimizer = jax.tree.map(lambda leaf: leaf.astype(dtype), tiny_lstm(num_layers=2, num_global=2))
        params = [torch.nn.Parameter(torch.zeros(shape, dtype=getattr(torch, dtype))) for shape in ((2, 2), (3,))]
        learned = LearnedOptimizer(params, pretrained.as_dict(optimizer))
        gradients = np.random.default_rng(0).normal(size=(20, 7)).astype(dtype)
        expected, state = steps(optimizer, jnp.asarray(gradients))
        for gradient in gradients:
            for p, part in zip(params, np.split(gradient, [4]), strict=True):
                p.grad = torch.tensor(part).reshape(p.shape)
            learned.step()
        ours = torch.cat([p.detach().reshape(-1) for p in params]).numpy()
        tolerance = 1e-10 if dtype == "float64" else 1e-4
        np.testing.assert_allclose(ours, np.sum(expected, axis=0), rtol=tolerance, atol=tolerance / 100)
        rule = learned._rule(0, torch.device("cpu"))
        parts = rule.unpack(torch.cat([learned.state[p]["state"] for p in params], dim=1))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            actual = parts[jax.tree_util.keystr(path)].numpy()
            np.testing.assert_allclose(actual, leaf, rtol=tolerance, atol=tolerance / 100)


def test_states_go_both_ways_between_jax_and_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from l2o.optimizers import states
    from l2o.torch import LearnedOptimizer, load_state, save_state

    optimizer = tiny_lstm(num_global=2)
    p = torch.nn.Parameter(torch.zeros(3))
    learned = LearnedOptimizer([p], pretrained.as_dict(optimizer))
    p.grad = torch.tensor([0.1, -0.2, 0.3])
    learned.step()
    path = tmp_path / "state.safetensors"
    save_state(path, learned)
    params = jnp.asarray(p.detach().numpy())
    state = states.load(path, optimizer, params)
    updates, state = optimizer.update(jnp.asarray([0.3, 0.2, -0.1]), state, params)
    before, p.grad = p.detach().clone(), torch.tensor([0.3, 0.2, -0.1])
    learned.step()
    np.testing.assert_allclose((p.detach() - before).numpy(), updates, rtol=1e-4, atol=1e-6)
    states.save(path, optimizer, state, params)
    q = torch.nn.Parameter(p.detach().clone())
    again = LearnedOptimizer([q], pretrained.as_dict(optimizer))
    load_state(path, again)
    for parameter, rule in ((p, learned), (q, again)):
        parameter.grad = torch.tensor([0.5, 0.5, -0.5])
        rule.step()
    torch.testing.assert_close(q, p)


def test_the_stored_meta_gradient_is_that_of_plain_autodiff(x64):
    optimizer = jax.tree.map(lambda leaf: leaf.astype(float), tiny_lstm(num_global=2, output_scale=0.5))
    assert_first_order(optimizer)


def assert_first_order(optimizer):
    """`Stored` against the inner loop as one would write it, its gradients held constant."""
    task = regression()

    def stored(optimizer):
        state = l2o.start(task, optimizer, KEY)
        return jnp.sum(l2o.unroll(task, optimizer, state, KEY, length=5, meta_gradient=l2o.Stored())[1])

    def obvious(optimizer):
        params, total = task.init(KEY), 0.0
        state = optimizer.init(params)
        for t in range(5):
            key = jax.random.fold_in(KEY, t)
            loss, gradient = jax.value_and_grad(task.loss)(params, key)
            total += loss
            updates, state = optimizer.update(jax.lax.stop_gradient(gradient), state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return total

    actual, expected = (eqx.filter_jit(eqx.filter_grad(loss))(optimizer) for loss in (stored, obvious))
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert scale > 1e-6
    assert_trees_close(actual, expected, rtol=1e-7, atol=1e-9 * scale)


@pytest.mark.parametrize("num_global", [0, 2])
def test_chrono_draws_the_biases_that_set_how_long_a_unit_remembers_and_nothing_else(num_global):
    optimizer = tiny_lstm(num_layers=2, num_units=20, num_global=num_global)
    started = lstm.chrono(optimizer, 1000, key=KEY)
    for before, after in zip(optimizer.cells, started.cells, strict=True):
        forget = after.bias[20:40]
        assert 0.5 <= forget.min() < 2 < 5 < forget.max() <= np.log(1000)
        np.testing.assert_array_equal(after.bias[:20], -forget)
        np.testing.assert_array_equal(after.bias[40:], before.bias[40:])
    assert not jnp.array_equal(started.cells[0].bias, started.cells[1].bias)
    biases = eqx.tree_at(lambda o: [cell.bias for cell in o.cells], started, [cell.bias for cell in optimizer.cells])
    assert_trees_equal(biases, optimizer)
    with pytest.raises(ValueError, match=r"`num_steps` must be above 2, .* got 1"):
        lstm.chrono(optimizer, 1, key=KEY)


@pytest.mark.slowest
@pytest.mark.slow
def test_chrono_tells_late_from_early():
    """A constant gradient: after it has been there for hundreds of steps, only long memories still move."""
    gradients = jnp.ones((600, 1))

    def drift(optimizer):
        updates, _ = steps(optimizer, gradients)
        return float(jnp.abs(updates[599] - updates[300])[0])

    usual = lstm.build(KEY, preset="raw")
    assert drift(usual) < 1e-6 < 1e-4 < drift(lstm.chrono(usual, 1000, key=KEY))
