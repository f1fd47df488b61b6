"""Faults once seen in what a caller brings: keys of either style, params and weights of different precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, Momentum, bowls, tiny_lstm

import l2o
from faults.awkward_rules import KEY, RULES
from l2o.core import scale
from l2o.core.task import is_deterministic
from l2o.meta.estimators.bptt import BPTT
from l2o.meta.estimators.pes import PES

# B3: keys of either style


@pytest.mark.parametrize("old", [False, True], ids=["typed", "old"])
@pytest.mark.slowest
@pytest.mark.slow
def test_b3_keys_of_either_style_give_the_same_numbers(old):
    typed, mine = jax.random.key(3), jax.random.PRNGKey(3) if old else jax.random.key(3)
    rule = Descent(jnp.log(0.05))

    def results(key):
        problem = l2o.InnerTraining(bowls, horizon=4, truncation=2)
        mixture = l2o.Mixture([BPTT(problem, num_tasks=2), PES(problem, num_tasks=2)])
        validation = l2o.Validation(bowls, horizon=2, num_tasks=2, every=2)
        task, state, batch_key = l2o.begin(bowls, rule, key)
        return (
            l2o.evaluate(rule, bowls, horizon=3, num_tasks=2, key=key).losses,
            l2o.tune(optax.sgd, np.array([0.1, 0.2]), bowls, horizon=3, num_tasks=2, key=key).losses,
            l2o.meta_train(rule, mixture, num_steps=3, key=key, validation=validation).optimizer.log_rate,
            l2o.unroll(task, rule, l2o.start(task, rule, key), key, length=2)[1],
            l2o.unroll(task, rule, state, batch_key, length=2)[1],
            scale.gradient_scale(rule, bowls, horizon=2, num_tasks=2, key=key)["run"],
            is_deterministic(bowls, key),
        )

    for ours, expected in zip(results(mine), results(typed), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("key", [np.zeros(3, np.uint32), np.zeros(2, np.float32), jnp.zeros((3,))], ids=str)
def test_b3_what_is_no_key_is_told_in_one_sentence(key):
    from l2o.core import keys as _keys

    for wrong in (key, 0, 1.5, None):
        with pytest.raises(TypeError, match=r"`key` must be a PRNG key, such as `jax\.random\.key\(0\)`, got "):
            _keys.one(wrong)
    with pytest.raises(TypeError, match=r"`key` must be one PRNG key.*\(2,\) of keys"):
        _keys.one(jax.random.split(KEY, 2))
    assert _keys.typed(jax.random.split(jax.random.PRNGKey(0), 4)).shape == (4,)


# B5: params and weights of different precision


def _dtypes(tree):
    return [x.dtype for x in jax.tree.leaves(tree)]


def _quartic(dtype):
    start = jnp.linspace(-1.0, 1.0, 5).astype(dtype)
    return lambda key: l2o.FunctionTask(lambda key: {"x": start}, lambda p, key: jnp.sum(p["x"] ** 4))


MIXED = [n for n in RULES if n not in ("averaging", "partitioned")]


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", MIXED)
def test_b5_params_and_states_keep_their_dtypes(name, dtype, x64):
    """All weights are float32, as they were before 64 bits were enabled."""
    with jax.enable_x64(False):
        rule = RULES[name]()
    task = _quartic(dtype)(KEY)
    state = l2o.start(task, rule, KEY)
    final, losses = eqx.filter_jit(lambda rule, state: l2o.unroll(task, rule, state, KEY, length=3))(rule, state)
    assert _dtypes(final) == _dtypes(state)
    assert final.params["x"].dtype == dtype
    assert np.isfinite(np.asarray(losses, float)).all()


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", ["pes", "stored", "blocks", "sampled", "second order"])
def test_b5_estimators_take_params_of_any_precision(name, dtype, x64):
    forms = {
        "stored": l2o.Stored(),
        "blocks": l2o.Blocks(2),
        "sampled": l2o.Sampled(0.5),
        "second order": l2o.SecondOrder(),
    }
    problem = l2o.InnerTraining(_quartic(dtype), horizon=4, truncation=2, meta_gradient=forms.get(name))
    estimator = (PES if name == "pes" else BPTT)(problem, num_tasks=2)
    for rule in (tiny_lstm(), Momentum(jnp.asarray(0.1, jnp.float32), jnp.asarray(0.7, jnp.float32))):
        result = l2o.meta_train(rule, estimator, num_steps=3, key=KEY)
        assert result.num_skipped == 0
        assert _dtypes(result.optimizer) == _dtypes(rule)
