"""A run folder: metrics, events and checkpoints that a killed run goes on from.

Layout: settings.txt (optimizer and estimator, so that no other is resumed), metrics.jsonl (a row per meta-step up to the last
checkpoint), events.out.tfevents.* (TensorBoard), checkpoints/STEP (orbax, written whole or not at all; the last two are kept).
"""

import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from l2o._files import check_writable, write_whole


class Checkpoints:
    """Checkpoints and records of one run, in one folder.

    **Raises:** `FileExistsError` if the folder holds a run and `resume` is not set, `FileNotFoundError` if it does not and
    `resume` is, `OSError` if it cannot be written to; all before anything is computed.
    """

    def __init__(self, folder: Path, *, resume: bool, settings: str):
        import orbax.checkpoint as ocp

        self.folder = folder.absolute()
        self.metrics = self.folder / "metrics.jsonl"
        if not resume:
            check_free(folder)
        elif not _holds_run(folder):
            raise FileNotFoundError(f"{folder} holds no run to resume. Leave `resume` out to start one there.")
        check_writable(self.folder)
        recorded = self.folder / "settings.txt"
        if not recorded.exists():
            write_whole(recorded, settings.encode())
        elif (before := recorded.read_text()) != settings:
            old, new = next((a, b) for a, b in zip_longest(before.split("\n"), settings.split("\n")) if a != b)
            raise ValueError(
                f"The run in {folder} was started with other settings: {str(old).strip()!r} there, {str(new).strip()!r} here. "
                "Resume with the optimizer, estimator and tasks it was started with, or choose another folder."
            )
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder / "checkpoints", options=options)

    def save(self, run: PyTree, history: list[dict[str, Any]]) -> None:
        """Writes the metrics up to here, then the checkpoint."""
        import orbax.checkpoint as ocp

        rows = "".join(json.dumps(row) + "\n" for row in history)
        write_whole(self.metrics, rows.encode())
        step = int(run["step"])
        leaves = {f"{i:05d}": np.asarray(x) for i, x in enumerate(_to_raw(run))}
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(leaves))

    def restore(self, like: PyTree) -> tuple[PyTree, list[dict[str, Any]]]:
        """The last checkpoint, in the structure of `like` (which is returned if none was written yet), and its history.

        **Raises:** `ValueError` if the checkpoint is of a run with other arrays (another optimizer, number of tasks, ...).
        """
        import orbax.checkpoint as ocp

        step = self._manager.latest_step()
        if step is None:
            return like, []
        expected = {f"{i:05d}": np.asarray(x) for i, x in enumerate(_to_raw(like))}
        saved = self._manager.restore(step, args=ocp.args.StandardRestore())
        shapes = {k: (v.shape, str(v.dtype)) for k, v in expected.items()}
        found = {k: (v.shape, str(v.dtype)) for k, v in saved.items()}
        if shapes != found:
            name = next(k for k in sorted(shapes | found) if shapes.get(k) != found.get(k))
            raise ValueError(
                f"The run in {self.folder} was made with other settings (array {name}: {found.get(name)} there, "
                f"{shapes.get(name)} here). Resume with the optimizer, tasks and number of devices that it was started with."
            )
        leaves, treedef = jax.tree.flatten(like)
        restored = [_from_raw(saved[f"{i:05d}"], x) for i, x in enumerate(leaves)]
        rows = [json.loads(line) for line in self.metrics.read_text().splitlines()]
        return jax.tree.unflatten(treedef, restored), [row for row in rows if row["step"] <= step]

    def events(self, step: int):
        """A TensorBoard writer that discards what was written after `step` by a run that was then killed."""
        import tensorboardX

        return tensorboardX.SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)


def check_free(folder: Path) -> None:
    """Makes sure that a new run in `folder` would not be mixed with an old one.

    **Raises:** `FileExistsError` if the folder holds a run.
    """
    if _holds_run(folder):
        raise FileExistsError(
            f"{folder} already holds a run. Pass resume=True (`--resume`) to go on with it, or choose another folder."
        )


def _holds_run(folder):
    return (folder / "checkpoints").exists() or (folder / "metrics.jsonl").exists()


def _to_raw(tree):
    return [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]


def _from_raw(saved, like):
    if isinstance(like, np.ndarray | np.generic):
        return np.asarray(saved)
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        saved = jax.random.wrap_key_data(jnp.asarray(saved), impl=jax.random.key_impl(like))
    return jax.device_put(jnp.asarray(saved) if not isinstance(saved, jax.Array) else saved, like.sharding)
