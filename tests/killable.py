"""Meta-trains in a folder, saying which step it has done: `python killable.py FOLDER NUM_STEPS [resume] [slowly]`.

The test kills it. It prints the meta-parameters, bit for bit, at the end.
"""

import os
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from fakes import Momentum, bowls

import l2o
from l2o.meta.estimators.pes import PES


def slow(function):
    """Of a system call: with pauses around it in which the process can be killed."""

    def slowed(*arguments):
        time.sleep(0.02)
        function(*arguments)
        time.sleep(0.02)

    return slowed


if __name__ == "__main__":
    if "slowly" in sys.argv:
        os.replace, os.fsync = slow(os.replace), slow(os.fsync)
    problem = l2o.InnerTraining(bowls, horizon=6, truncation=3)
    result = l2o.meta_train(
        Momentum(jnp.asarray(0.01), jnp.asarray(0.5)),
        PES(problem, num_tasks=2),
        num_steps=int(sys.argv[2]),
        key=jax.random.key(0),
        validation=l2o.Validation(bowls, horizon=4, num_tasks=2, every=10),
        folder=sys.argv[1],
        resume="resume" in sys.argv,
        checkpoint_every=7,
        on_step=lambda row: print("step", row["step"], flush=True),
    )
    for which in (result.optimizer, result.last):
        arrays = eqx.filter(which, eqx.is_inexact_array)
        print("phi", b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(arrays)).hex(), flush=True)
