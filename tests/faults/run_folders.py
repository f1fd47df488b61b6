"""Small runs in folders, for the tests of what is left there."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from comparisons import decay
from fakes import Momentum, bowls

import l2o
from l2o.io.names import file_name
from l2o.meta.estimators.bptt import BPTT


def hostile(folder, panel, optimizer, *, links=False):
    """A comparison whose names were made by someone else."""
    losses = decay(num_tasks=2, run_to=4)
    store = {
        "settings": {
            "num_tasks": 2,
            "tune_tasks": 1,
            "search": {"num_trials": 2, "kind": "grid", "rates": [1e-3, 1.0], "schedules": ["constant"]},
        },
        "panels": {panel: {"horizon": 3, "run_to": 4, "source": "x"}},
        "optimizers": {optimizer: {"learned": True, "fingerprint": "f"}},
        "left_out": {},
    }
    folder.mkdir(exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(store))
    cell = folder / "cells" / file_name(panel) / f"{file_name(optimizer)}.npz"
    cell.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cell, losses=losses, learned=True, seconds=1.0, fingerprint="f")
    return folder


def train(folder, *, num_steps=4, resume=False, **changes):
    options = {
        "optimizer": Momentum(jnp.asarray(0.01), jnp.asarray(0.5)),
        "estimator": BPTT(l2o.InnerTraining(bowls, horizon=2, truncation=2), num_tasks=2),
        "outer_opt": optax.adam(1e-3),
        "key": jax.random.key(0),
        "devices": jax.local_devices()[:1],
        "checkpoint_every": 2,
    } | changes
    return l2o.meta_train(num_steps=num_steps, folder=folder, resume=resume, **options)
