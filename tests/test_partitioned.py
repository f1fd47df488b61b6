"""Several optimizers for one set of params: each is on its own leaves what it would be alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Momentum, Normalised, assert_trees_close, assert_trees_equal, regression, tiny_lstm
from jax.flatten_util import ravel_pytree
from unrolls import LENGTH, meta_gradient, objective, obvious

import l2o
from l2o.meta.estimators.bptt import BPTT
from l2o.optimizers import pretrained
from l2o.tasks import convnet

KEY = jax.random.key(0)
PARAMS = {"hidden": {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(3)}, "out": jnp.arange(3.0)}


def momentum(rate=0.1, decay=0.7):
    return Momentum(jnp.asarray(rate), jnp.asarray(decay))


def mixed():
    """An LSTM for the hidden layer of the regression net (9 coordinates), momentum for its output (3)."""
    return l2o.Partitioned({"hidden": tiny_lstm(), "out": momentum()})


def matrices(path, leaf):
    return "matrix" if leaf.ndim == 2 else "rest"


def by_kind():
    return l2o.Partitioned({"rest": momentum(0.3), "matrix": momentum()}, matrices)


def steps(optimizer, params=PARAMS, num=3):
    """Updates and final state, with gradients that depend on the step."""
    state = optimizer.init(params)
    update = eqx.filter_jit(lambda g, s: optimizer.update(g, s, params))
    outputs = []
    for t in range(num):
        updates, state = update(jax.tree.map(lambda x, t=t: jnp.sin(x + t), params), state)
        outputs.append(updates)
    return outputs, state


def test_each_part_is_what_it_would_be_alone():
    updates, state = steps(mixed())
    for name, part in mixed().parts.items():
        alone, state_alone = steps(part, {name: PARAMS[name]})
        assert_trees_equal([{name: u[name]} for u in updates], alone)
        assert_trees_equal(state[name], state_alone)
    assert jax.tree.structure(updates[0]) == jax.tree.structure(PARAMS)


def test_a_part_need_not_be_coordinatewise():
    """Normalised gradients: a part's norm is over its own leaves."""
    optimizer = l2o.Partitioned({"hidden": Normalised(jnp.asarray(1.0)), "out": Normalised(jnp.asarray(2.0))})
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    norms = {name: optax.tree.norm(u) for name, u in updates.items()}
    np.testing.assert_allclose([norms["hidden"], norms["out"]], [1.0, 2.0], rtol=1e-2)


def test_leaves_named_by_a_function():
    updates, _ = steps(by_kind())
    matrix, _ = steps(momentum(), PARAMS["hidden"]["w"])
    rest, _ = steps(momentum(0.3), (PARAMS["hidden"]["b"], PARAMS["out"]))
    assert_trees_equal([u["hidden"]["w"] for u in updates], matrix)
    assert_trees_equal([(u["hidden"]["b"], u["out"]) for u in updates], rest)


def test_the_default_names_are_top_level_keys_fields_or_positions():
    class Pair(eqx.Module):
        first: jax.Array
        second: list[jax.Array]

    x = jnp.ones(2)
    for params, names in [
        ({"a": x, "b": {"c": x}}, ["a", "b"]),
        (Pair(x, [x, x]), ["first", "second", "second"]),
        ((x, [x]), ["0", "1"]),
    ]:
        optimizer = l2o.Partitioned({name: momentum() for name in names})
        assert jax.tree.leaves(optimizer.labels(params)) == names


def test_the_order_of_parts_and_of_coordinates_is_of_no_account():
    optimizer = mixed()
    turned = l2o.Partitioned(dict(reversed(optimizer.parts.items())))
    assert_trees_equal(steps(turned)[0], steps(optimizer)[0])
    flipped, _ = steps(optimizer, jax.tree.map(lambda x: x[::-1], PARAMS))
    back = jax.tree.map(lambda x: x[::-1], flipped)
    assert_trees_close(back, steps(optimizer)[0], rtol=1e-6, atol=1e-7)


def test_it_may_be_a_part_itself():
    inner = l2o.Partitioned({"w": momentum(0.3), "b": tiny_lstm()}, lambda path, leaf: path[1].key)
    nested = l2o.Partitioned({"hidden": inner, "out": momentum()})
    updates, _ = steps(nested)
    assert_trees_equal([u["hidden"]["w"] for u in updates], steps(momentum(0.3), PARAMS["hidden"]["w"])[0])
    blocks = meta_gradient(l2o.unroll, nested, meta_gradient=l2o.Blocks(2))
    stored = meta_gradient(l2o.unroll, nested, meta_gradient=l2o.Stored())
    assert_trees_close(blocks, stored, rtol=1e-4, atol=1e-6)


def test_side_by_side():
    """Under `vmap` and `jit`, as one by one."""
    optimizer = mixed()
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)

    @jax.jit
    @jax.vmap
    def one(params):
        return optimizer.update(params, optimizer.init(params))[0]

    for i in range(2):
        params = jax.tree.map(lambda x, i=i: x[i], many)
        alone, _ = optimizer.update(params, optimizer.init(params))
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], one(many)), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.slowest
@pytest.mark.slow
@pytest.mark.parametrize("make", [mixed, by_kind])
@pytest.mark.parametrize("split", ["train", "outer"])
def test_blocks_are_stored_are_autodiff(make, split, x64):
    weights = jnp.linspace(0.2, 2.0, LENGTH)
    plain = meta_gradient(obvious, make(), weights, split=split)
    for form in (l2o.Stored(), l2o.Blocks(2)):
        ours = meta_gradient(l2o.unroll, make(), weights, split=split, meta_gradient=form)
        assert_trees_close(ours, plain, rtol=1e-9, atol=1e-12)


def sampled_gradient(optimizer, form, task):
    """Of `objective` with respect to the optimizer, as a function of the key."""
    state = l2o.start(task, optimizer, jax.random.key(1))
    value = objective(l2o.unroll, length=LENGTH, meta_gradient=form)

    def gradient(key):
        grad = eqx.filter_grad(lambda o: value((o, state.params, state.opt_state), task, state.step, key))
        return ravel_pytree(grad(optimizer))[0]

    return jax.jit(gradient)


def test_sampled_is_unbiased():
    """The mean of many draws is within four standard errors of the full gradient, component by component."""
    task, optimizer, num_draws = regression(batch_size=0), by_kind(), 2000
    full = sampled_gradient(optimizer, l2o.Stored(), task)(KEY)
    draw = sampled_gradient(optimizer, l2o.Sampled(0.25), task)
    draws = jax.jit(jax.vmap(draw))(jax.random.split(KEY, num_draws))
    error = jnp.std(draws, axis=0) / num_draws**0.5
    assert jnp.linalg.norm(error) < 0.1 * jnp.linalg.norm(full)  # or the next line would say little
    np.testing.assert_array_less(jnp.abs(jnp.mean(draws, axis=0) - full), 4 * error + 1e-6)


def test_sampling_every_coordinate_evenly_is_exact():
    task = regression()
    everything = sampled_gradient(mixed(), l2o.Sampled(1.0, uniform=1.0), task)(KEY)
    np.testing.assert_allclose(everything, sampled_gradient(mixed(), l2o.Stored(), task)(KEY), rtol=1e-4, atol=1e-6)


def test_replaying_needs_coordinatewise_parts():
    task = regression()
    optimizer = l2o.Partitioned({"hidden": momentum(), "out": Normalised(jnp.asarray(0.1))})
    state = l2o.start(task, optimizer, KEY)
    with pytest.raises(ValueError, match="Blocks needs a coordinatewise optimizer, got Normalised"):
        l2o.unroll(task, optimizer, state, KEY, length=2, meta_gradient=l2o.Blocks())


@pytest.mark.slowest
@pytest.mark.slow
def test_meta_training_a_pair_for_a_convolutional_net():
    """Both parts learn, on the params that the paper's net has, and the rule goes on to lower the loss."""
    family = convnet.family(channels=(4,), dense=(4,), downscale=4, batch_size=8, outer_batch_size=8)
    optimizer = l2o.Partitioned({"conv": momentum(0.001, 0.5), "dense": momentum(0.001, 0.5)})
    problem = l2o.InnerTraining(family, 10, 5, meta_gradient=l2o.Sampled(0.5))
    outer_opt = l2o.default_outer_optimizer(0.01)
    result = l2o.meta_train(optimizer, BPTT(problem, num_tasks=2), outer_opt, num_steps=10, key=KEY)
    assert result.num_skipped == 0
    trained = result.last
    for name, part in trained.parts.items():
        assert part.rate > 0.02, name
    curves = [l2o.loss_curves(o, family, horizon=10, num_tasks=2, key=KEY) for o in (optimizer, trained)]
    assert curves[1][:, -3:].mean() < curves[0][:, -3:].mean()


def test_save_and_load(tmp_path):
    optimizer = l2o.Partitioned({"hidden": tiny_lstm(), "out": tiny_lstm(1, num_layers=2, preset="raw")})
    path = tmp_path / "pair.safetensors"
    pretrained.save(path, optimizer, recipe={"seed": 3})
    loaded = l2o.load(path)
    assert_trees_equal(loaded, optimizer)
    assert_trees_equal(steps(loaded), steps(optimizer))
    header = pretrained.header(path)
    assert header["architecture"] == "partitioned"
    assert header["arguments"]["parts"]["out"]["arguments"]["output_scale"] == 1.0
    assert_trees_equal(l2o.load(path, like=optimizer), optimizer)
    with pytest.raises(ValueError, match=r"not for the optimizer asked for"):
        l2o.load(path, like=l2o.Partitioned({"hidden": tiny_lstm(), "out": tiny_lstm(num_layers=2)}))
    with pytest.raises(ValueError, match=r"are for 'partitioned', not 'lstm'"):
        l2o.load(path, like=tiny_lstm())


def test_a_function_is_not_saved_but_named(tmp_path):
    named = l2o.Partitioned({"matrix": tiny_lstm(), "rest": tiny_lstm(1)}, matrices)
    with pytest.raises(ValueError, match=r"Weights files hold no functions.*`l2o.Partitioned\(optimizer.parts\)`"):
        pretrained.save(tmp_path / "pair.safetensors", named)
    pretrained.save(tmp_path / "pair.safetensors", l2o.Partitioned(named.parts))
    loaded = l2o.load(tmp_path / "pair.safetensors")
    with pytest.raises(ValueError, match=r"named \['hidden', 'out'\] by their top-level keys, but the parts are"):
        loaded.init(PARAMS)
    assert_trees_equal(steps(l2o.Partitioned(loaded.parts, matrices)), steps(named))


def test_a_part_of_ones_own_class_is_loaded_by_its_owner_alone(tmp_path):
    pretrained.save(tmp_path / "pair.safetensors", mixed())
    assert_trees_equal(pretrained.load(tmp_path / "pair.safetensors", like=mixed()), mixed())
    with pytest.raises(ValueError, match="of a class of your own, fakes:Momentum"):
        pretrained.load(tmp_path / "pair.safetensors")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["hidden"], r"are named \['hidden', 'out'\].*but the parts are \['hidden'\]: no part is named 'out'"),
        (["hidden", "out", "norm"], r"no leaf is given to the part 'norm'.*label=lambda path, leaf"),
    ],
)
def test_leaves_and_parts_must_match(parts, message):
    optimizer = l2o.Partitioned(dict.fromkeys(parts, momentum()))
    with pytest.raises(ValueError, match=message):
        optimizer.init(PARAMS)


def test_a_bare_array_has_no_top_level_key():
    with pytest.raises(ValueError, match=r"leaves are named \[''\]"):
        mixed().init(jnp.ones(3))


def test_what_cannot_be_a_part():
    with pytest.raises(ValueError, match="`parts` is empty"):
        l2o.Partitioned({})
    with pytest.raises(ValueError, match=r"Part 'a' is a Guarded.*Put it outside: Guarded\(Partitioned\(...\)\)"):
        l2o.Partitioned({"a": l2o.Guarded(momentum())})
