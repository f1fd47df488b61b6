"""Work spread over two host devices gives what one gives. In a process of its own: JAX counts its devices once."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import l2o
from l2o.core import parallel

SCRIPT = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np, optax
import l2o
l2o.use_all_cores(2)
from fakes import Descent, bowl, bowls
from l2o.meta.estimators.bptt import BPTT

devices, key = jax.local_devices(), jax.random.key(0)
assert len(devices) == 2

curves = [
    l2o.evaluate(optax.adam(0.1), bowls, horizon=5, num_tasks=4, key=key, devices=d).losses
    for d in (devices, devices[:1])
]
np.testing.assert_allclose(*curves, rtol=1e-6)
assert len(np.unique(curves[0][:, -1])) == 4

# Where all tasks are one and end together, so are their meta-gradients, and the number of devices cannot matter.
bptt = BPTT(l2o.InnerTraining(bowl, horizon=4, truncation=2), num_tasks=2, staggered=False)
for estimator in (bptt, l2o.Mixture([bptt, dataclasses.replace(bptt, num_tasks=4)])):
    rates = [
        l2o.meta_train(Descent(jnp.asarray(-3.0)), estimator, num_steps=6, key=key, devices=d).last.log_rate
        for d in (devices, devices[:1])
    ]
    np.testing.assert_allclose(*rates, rtol=1e-6)
    assert abs(float(rates[0]) + 3.0) > 1e-4
print("done")
"""


@pytest.mark.slow
def test_two_devices_give_what_one_gives():
    source = str(Path(l2o.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([source, str(Path(__file__).parent)])}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")


@pytest.mark.parametrize(
    ("num_items", "num_devices", "expected"), [(4, 2, 2), (3, 2, 1), (1, 4, 1), (6, 4, 3), (8, 4, 4)]
)
def test_items_are_shared_evenly(num_items, num_devices, expected):
    assert len(parallel.share(num_items, jax.local_devices() * num_devices)) == expected


def test_it_is_too_late_once_jax_has_started():
    jax.devices()
    with pytest.raises(RuntimeError, match="before"):
        l2o.use_all_cores(2)


def test_jit_for_now_compiles_once_and_frees_what_it_compiled():
    def scaled(x, factor):
        traced.append(factor)
        return factor * x

    def num_programs():
        gc.collect()
        return len(x.device.client.live_executables())

    traced, x, y = [], jnp.ones(()), jnp.zeros(())
    before = num_programs()
    jitted = parallel.jit_for_now(scaled)
    results = [jitted(x, 2), jitted(y, 2), jitted(x, 3)]
    assert traced == [2, 3]
    assert num_programs() == before + 2
    del jitted
    assert num_programs() == before
    assert [float(result) for result in results] == [2, 0, 3]
