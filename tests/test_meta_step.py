"""Meta-training by single steps: a pure function of a pytree, that `meta_train` is a loop over."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import Descent, bowls

import l2o

KEY = jax.random.key(0)
PROBLEM = l2o.InnerTraining(bowls, horizon=8, truncation=2)
ESTIMATORS = [l2o.BPTT(PROBLEM, num_tasks=4), l2o.PES(PROBLEM, num_tasks=4, std=0.1)]


def start():
    return Descent(jnp.asarray(-3.0))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_meta_train_is_a_loop_over_it(estimator):
    training = l2o.MetaTraining(estimator, average=0.5)
    train_key, init_key, _ = jax.random.split(KEY, 3)
    state = training.init(start(), train_key, init_key)
    rows = []
    for _ in range(5):
        state, metrics = training.step(state)
        rows.append(float(metrics["meta_loss"]))
    result = l2o.meta_train(start(), estimator, num_steps=5, key=KEY, average=0.5)
    assert result.last.log_rate == state.averaged.log_rate != state.optimizer.log_rate
    assert [row["meta_loss"] for row in result.history] == rows
    assert int(state.step) == 5


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_it_is_pure_and_goes_into_jit_scan_and_vmap(estimator):
    training = l2o.MetaTraining(estimator)
    state = training.init(start(), KEY)
    first, again = training.step(state)[0], training.step(state)[0]
    assert first.optimizer.log_rate == again.optimizer.log_rate != state.optimizer.log_rate
    second = training.step(first)[0].optimizer.log_rate

    arrays, static = eqx.partition(state, eqx.is_array)

    def step(arrays, _):
        state, metrics = training.step(eqx.combine(arrays, static))
        return eqx.filter(state, eqx.is_array), metrics["meta_loss"]

    last, losses = jax.jit(lambda arrays: jax.lax.scan(step, arrays, length=2))(arrays)
    np.testing.assert_allclose(last.optimizer.log_rate, second, rtol=1e-6)
    assert losses.shape == (2,)
    many = jax.tree.map(lambda x: jnp.stack([x, x]), arrays)
    both = jax.vmap(lambda arrays: step(arrays, None)[0])(many)
    np.testing.assert_allclose(both.optimizer.log_rate, jnp.stack([first.optimizer.log_rate] * 2), rtol=1e-6)


def test_staggered_episodes_end_at_different_times_and_keep_doing_so():
    for estimator in ESTIMATORS:
        staggered = dataclasses.replace(estimator, staggered=True)
        training = l2o.MetaTraining(staggered)
        state = training.init(start(), KEY)
        of = lambda state: getattr(state.episodes[0], "positive", state.episodes[0])
        assert sorted(of(state).end.tolist()) == [2, 4, 6, 8]
        for _ in range(4):
            state, _ = training.step(state)
        # Each of the four starts anew at another of every four steps.
        assert sorted(of(state).inner.step.tolist()) == [0, 2, 4, 6]
        assert set(of(state).end.tolist()) == {8}


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
import l2o
l2o.use_all_cores(2)
from fakes import Descent, bowls

devices = jax.local_devices()
assert len(devices) == 2
problem = l2o.InnerTraining(bowls, horizon=8, truncation=2)
for estimator in (l2o.BPTT(problem, num_tasks=4), l2o.PES(problem, num_tasks=4, std=0.1)):
    rates = []
    for sharded in (True, False):
        training = l2o.MetaTraining(estimator, sharded=sharded)
        assert training.sharded == sharded and len(training.devices) == 2
        state = training.init(Descent(jnp.asarray(-3.0)), jax.random.key(0))
        for _ in range(6):
            state, metrics = training.step(state)
        rates.append([float(state.optimizer.log_rate), float(metrics["meta_loss"]), float(metrics["gradient_norm"])])
    np.testing.assert_allclose(*rates, rtol=1e-5)
    assert abs(rates[0][0] + 3.0) > 1e-4
print("done")
"""


@pytest.mark.slow
def test_one_sharded_program_gives_what_a_program_on_each_device_gives():
    source = str(Path(l2o.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([source, str(Path(__file__).parent)])}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")


def test_a_callback_ends_the_run():
    result = l2o.meta_train(start(), ESTIMATORS[0], num_steps=50, key=KEY, on_step=lambda row: row["step"] == 3)
    assert result.num_steps == len(result.history) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"average": 1.0}, "`average` must be"), ({"max_diverged": 2.0}, "`max_diverged` is a share")],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        l2o.MetaTraining(ESTIMATORS[0], **options)
