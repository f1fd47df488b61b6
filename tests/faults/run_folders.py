"""Small runs in folders, for the tests of what is left there."""

import json

import numpy as np
from comparisons import decay

from l2o.io.names import file_name


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
