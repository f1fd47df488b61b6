"""Weights of classes that a file cannot make: saved as they are, and loaded into one that its owner passes, or not at all."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors
import safetensors.numpy
from fakes import Descent, Momentum, Normalised, assert_trees_equal, bowl, tiny_lstm
from jaxtyping import Array, Float

import l2o

KEY = jax.random.key(0)


class Powered(l2o.AbstractCoordinatewise):
    """u = -(a · [1, |g|]) sign(g), with as many coefficients as one likes."""

    coefficients: Float[Array, " num"]
    limit: float = eqx.field(static=True, default=2.0)
    name: str = eqx.field(static=True, default="powered")

    def init_coordinates(self, num):
        return ()

    def update_coordinates(self, gradients, state, params):
        powers = jnp.stack([jnp.minimum(jnp.abs(gradients), self.limit) ** i for i in range(len(self.coefficients))])
        return -(self.coefficients @ powers) * jnp.sign(gradients), state


def powered(*coefficients, **constants):
    return Powered(jnp.asarray(coefficients or (0.01, 0.1), jnp.float32), **constants)


OWN = {
    "rule": powered,
    "no vector rule": lambda: Normalised(jnp.asarray(0.1, jnp.float32)),
    "guarded": lambda: l2o.Guarded(tiny_lstm(), optax.adam(1e-3)),
    "chain": lambda: l2o.chain(optax.clip(1.0), tiny_lstm()),
    "parts": lambda: l2o.Partitioned({"a": powered(), "b": tiny_lstm()}),
    "rescaled": lambda: l2o.Rescaled(powered(), 1.0),
}


def moved(optimizer, by=1.1):
    return jax.tree.map(lambda x: by * x + 0.01 if eqx.is_inexact_array(x) else x, optimizer)


@pytest.fixture(params=OWN)
def made(request):
    return OWN[request.param]()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "it.safetensors"


def test_loaded_into_its_like_it_is_the_same_to_the_last_bit(made, path):
    saved = moved(made)
    l2o.save(path, saved)
    loaded = l2o.load(path, like=made)
    assert_trees_equal(eqx.filter(loaded, eqx.is_array), eqx.filter(saved, eqx.is_array))
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)


def test_held_at_its_horizon_by_default(made, path):
    l2o.save(path, moved(made), recipe={"horizon": 2})
    with pytest.warns(UserWarning, match="was meta-trained on runs of 2 steps"):
        loaded = l2o.load(path, like=made, horizon=5)
    params = {"a": jnp.ones(3), "b": 2 * jnp.ones(3)}
    reference, state = moved(made).init(params), loaded.init(params)
    expected = params
    for step in range(4):
        gradient = jax.tree.map(lambda p: 2 * p, params)
        extra = {"value": optax.tree.norm(params, squared=True)} if made.uses_value else {}
        assert loaded.uses_value == made.uses_value
        updates, state = loaded.update(gradient, state, params, **extra)
        if step < 2:
            wanted, reference = moved(made).update(gradient, reference, expected, **extra)
            expected = optax.apply_updates(expected, wanted)
        params = optax.apply_updates(params, updates)
        assert_trees_equal(params, expected)


def test_annealed_like_any_other_and_falls_back_only_where_it_can(path):
    rule = Normalised(jnp.asarray(0.1, jnp.float32))
    l2o.save(path, rule, recipe={"horizon": 2})
    annealed = l2o.load(path, like=rule, beyond="anneal")
    gradient, lengths = jnp.ones(4), []

    def run(state):
        for _ in range(6):
            updates, state = annealed.update(gradient, state, gradient)
            lengths.append(float(jnp.linalg.norm(updates)))

    with pytest.warns(UserWarning, match="From here on its steps are annealed"):
        run(annealed.init(gradient))
    np.testing.assert_allclose(np.asarray(lengths) / lengths[0], [1, 1, 1, 0.5, 0, 0], atol=1e-6)
    with pytest.raises(ValueError, match=r"goes on with the last steps of each coordinate.* got a Normalised"):
        l2o.load(path, like=rule, beyond="fallback")


@pytest.mark.parametrize("loop", ["jit", "scan"])
def test_a_rule_held_as_a_whole_warns_once(loop):
    held = l2o.beyond(Normalised(jnp.asarray(0.1)), 2, name="mine")

    def step(carry, _):
        params, state = carry
        updates, state = held.update(params, state, params)
        return (params + updates, state), None

    def run(carry):
        if loop == "scan":
            jax.block_until_ready(jax.jit(lambda c: jax.lax.scan(step, c, length=5)[0])(carry))
        else:
            jitted = jax.jit(step)
            for _ in range(5):
                carry, _ = jitted(carry, None)
        jax.effects_barrier()

    with pytest.warns(UserWarning, match="mine was meta-trained on runs of 2 steps") as told:
        run((jnp.ones(2), held.init(jnp.ones(2))))
    assert len(told) == 1


def test_meta_training_takes_off_what_loading_put_on(path):
    rule = Normalised(jnp.asarray(0.1, jnp.float32))
    l2o.save(path, rule, recipe={"horizon": 2})
    problem = l2o.InnerTraining(bowl, horizon=4, truncation=2)
    result = l2o.meta_train(l2o.load(path, like=rule), l2o.BPTT(problem, num_tasks=1), num_steps=1, key=KEY)
    assert type(result.optimizer) is Normalised


def test_without_its_like_it_is_refused(made, path):
    l2o.save(path, made)
    with pytest.raises(ValueError, match=r"of a class of your own, .* and a file does not choose what code runs"):
        l2o.load(path)


def test_with_another_it_is_refused_and_the_difference_named(path):
    l2o.save(path, powered(0.1, 0.2))
    for other, message in (
        (powered(0.1, 0.2, 0.3), r"leaf \.coefficients: \(2,\) vs \(3,\)"),
        (powered(0.1, 0.2, limit=3.0), "limit: 2.0 vs 3.0"),
        (powered(0.1, 0.2, name="another"), "name: 'powered' vs 'another'"),
        (Descent(jnp.asarray(0.1)), "not for the optimizer asked for"),
        (tiny_lstm(), "are for 'own', not 'lstm'"),
        (l2o.Partitioned({"a": powered(0.1, 0.2)}), "are for 'own', not 'partitioned'"),
    ):
        with pytest.raises(ValueError, match=message):
            l2o.load(path, like=other)


def test_of_the_same_arrays_the_class_decides(path):
    class Same(Momentum):
        pass

    l2o.save(path, Momentum(jnp.asarray(0.1, jnp.float32), jnp.asarray(0.5, jnp.float32)))
    with pytest.raises(ValueError, match=r"class: 'fakes:Momentum' vs .*Same"):
        l2o.load(path, like=Same(jnp.asarray(0.1), jnp.asarray(0.5)))


@pytest.mark.parametrize("change", [{"window": 20}, {"race": 100}, {"margin": 0.2}])
def test_a_guard_with_other_constants_is_another(change, path):
    l2o.save(path, OWN["guarded"]())
    ((name, _),) = change.items()
    with pytest.raises(ValueError, match=f"{name}: .* vs "):
        l2o.load(path, like=l2o.Guarded(tiny_lstm(), optax.adam(1e-3), **change))


def rewritten(path, **fields):
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        header = file.metadata()
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    safetensors.numpy.save_file(arrays, path, metadata=header | told)


@pytest.mark.parametrize("claimed", ["os:system", "fakes:Descent", "subprocess:Popen", "l2o.optimizers.lstm:LSTM", ""])
def test_what_a_file_claims_never_chooses_code(claimed, path, monkeypatch):
    l2o.save(path, tiny_lstm())
    rewritten(path, architecture="own", arguments={"class": claimed, "command": "true"})
    before = set(__import__("sys").modules)
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(ValueError, match="of a class of your own"):
        l2o.load(path)
    with pytest.raises(ValueError, match="are for 'own', not 'lstm'"):
        l2o.load(path, like=tiny_lstm())
    with pytest.raises(ValueError, match="not for the optimizer asked for"):
        l2o.load(path, like=powered())
    assert set(__import__("sys").modules) == before


def test_parts_that_claim_a_class_choose_none(path):
    l2o.save(path, l2o.Partitioned({"a": tiny_lstm()}))
    claimed = {"architecture": "own", "arguments": {"class": "os:system"}}
    rewritten(path, arguments={"parts": {"a": claimed}})
    with pytest.raises(ValueError, match="of a class of your own, os:system"):
        l2o.load(path)
    with pytest.raises(ValueError, match="parts: "):
        l2o.load(path, like=l2o.Partitioned({"a": tiny_lstm()}))


def test_a_class_without_a_name_is_refused(path):
    l2o.save(path, powered())
    rewritten(path, arguments={"limit": 2.0})
    with pytest.raises(ValueError, match="class"):
        l2o.load(path, like=powered())
