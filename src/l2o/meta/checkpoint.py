"""A run folder: metrics, events and checkpoints that a killed run goes on from.

Layout: settings.json (fingerprints of all that decides the run, so that no other is resumed), metrics.jsonl (a row per
meta-step), events.out.tfevents.* (TensorBoard), checkpoints/STEP.safetensors (the last two). Each file is written whole or not at
all, metrics before the checkpoint of the same step: whatever moment a run is killed at, they cover its last checkpoint.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import PyTree

from l2o.io import door, event_files
from l2o.io.described import Described
from l2o.io.files import check_writable, subfolder, write_whole

_CHECKPOINT = re.compile(r"([1-9][0-9]{0,14}|0)\.safetensors")
_HEADER_BYTES = 2**26


class _Settings(msgspec.Struct):
    started_with: dict[str, str | None]


class Checkpoints:
    """Checkpoints and records of one run, in one folder that the caller holds (`l2o.io.files.held`).

    **Arguments:** `settings`: all that decides the run, by name.

    **Raises:** `FileExistsError` if the folder holds a run and `resume` is not set, `FileNotFoundError` if it does not and
    `resume` is, `ValueError` if it holds another run, `OSError` if it cannot be written to; all before anything is computed.
    """

    def __init__(self, folder: Path, *, resume: bool, settings: Mapping[str, Any]):
        self.folder = folder.absolute()
        self.metrics = self.folder / "metrics.jsonl"
        described = Described(settings)
        if not resume:
            check_free(folder)
        elif not holds_run(folder):
            raise FileNotFoundError(f"{folder} holds no run to resume. Leave `resume` out to start one there.")
        else:
            described.check(self._recorded(), f"The run in {folder}")
        check_writable(self.folder)
        event_files.check()
        if not resume:
            write_whole(self.folder / "settings.json", json.dumps({"started_with": described.parts}, indent=1).encode())

    def _recorded(self) -> dict[str, str | None]:
        path = self.folder / "settings.json"
        if not path.is_file():
            raise ValueError(
                f"The run in {self.folder} does not say what it was started with: it is of an older l2o, or settings.json was "
                "deleted. It cannot be resumed; choose another folder."
            )
        return door.read_json(path, _Settings).started_with

    def save(self, run: PyTree, history: list[dict[str, Any]]) -> None:
        """Writes the metrics up to here, then the checkpoint; all but the last two are deleted."""
        self._write_metrics(history)
        step = len(history)
        write_whole(subfolder(self.folder, "checkpoints") / f"{step}.safetensors", _packed(run, step))
        for old in sorted(self._checkpoints())[:-2]:
            self._path(old).unlink()

    def _write_metrics(self, history):
        write_whole(self.metrics, "".join(json.dumps(row) + "\n" for row in history).encode())

    def _checkpoints(self) -> list[int]:
        """The steps of those there are."""
        place = self.folder / "checkpoints"
        files = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
        return [int(found[1]) for path in files if (found := _CHECKPOINT.fullmatch(path.name))]

    def _path(self, step):
        return subfolder(self.folder, "checkpoints") / f"{step}.safetensors"

    def restore(self, like: PyTree) -> tuple[PyTree, list[dict[str, Any]]]:
        """The last checkpoint, in the structure of `like` (which is returned if none was written yet), and its history.

        **Raises:** `ValueError` if the checkpoint or the metrics are damaged, or of a run with other arrays.
        """
        steps = sorted(self._checkpoints())
        if not steps:
            return like, []
        path = self._path(steps[-1])
        before = f"go on from step {steps[-2]}" if len(steps) > 1 else "start again from the beginning"
        run, step = _unpacked(path, like, f"Delete it to {before}.")
        if step != str(steps[-1]):
            raise ValueError(f"{path} holds step {door.one_line(step)}: it was renamed. Delete it to {before}.")
        history = self._history(steps[-1])
        self._write_metrics(history)  # without rows that a killed run wrote after its last checkpoint
        return run, history

    def _history(self, step):
        """The rows up to a step, one for each."""
        try:
            lines = door.read_text(self.metrics).splitlines()
        except FileNotFoundError:
            lines = []
        rows = []
        for number, line in enumerate(lines[:step], 1):
            where = f"line {number}"
            row = door.parse_json(line, dict, path=self.metrics, where=where, finite=False)
            if row.get("step") != number or not all(type(value) in (int, float) for value in row.values()):
                raise ValueError(f"{self.metrics}: {where} is not of step {number}. {self._no_metrics(step)}")
            rows.append(row)
        if len(rows) < step:
            raise ValueError(f"{self.metrics} has {len(rows)} rows. {self._no_metrics(step)}")
        return rows

    def _no_metrics(self, step):
        return f"There must be a row for each of the {step} steps of the last checkpoint: bring the file back."

    def events(self, step: int) -> event_files.Appended:
        """TensorBoard's events from `step` on; it forgets what a run that was then killed wrote after it."""
        return event_files.Appended(self.folder, purge_from=step + 1 if step else None)


def check_free(folder: Path) -> None:
    """Makes sure that a new run in `folder` would not be mixed with an old one.

    **Raises:** `FileExistsError` if the folder holds a run.
    """
    if holds_run(folder):
        raise FileExistsError(
            f"{folder} already holds a run. Pass resume=True (`--resume`) to go on with it, or choose another folder."
        )


def holds_run(folder: Path) -> bool:
    """Whether there is a run that can be resumed, if only from its beginning."""
    return any((folder / name).exists() for name in ("settings.json", "settings.txt", "checkpoints", "metrics.jsonl"))


def _raw(tree) -> dict[str, np.ndarray]:
    """The leaves by their paths, keys as the words they are made of."""
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _packed(tree, step) -> bytes:
    """A safetensors file of the leaves. It has no word for some of JAX's dtypes: all are bytes, and `arrays` says of what."""
    leaves = _raw(tree)
    data = b"".join(x.tobytes() for x in leaves.values())
    arrays = json.dumps({name: [str(x.dtype), *x.shape] for name, x in leaves.items()})
    about = {"format": "l2o checkpoint 1", "step": str(step), "arrays": arrays, "sha256": _sum(step, arrays, data)}
    header = {"__metadata__": about, "bytes": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    return len(words).to_bytes(8, "little") + words + data


def _sum(step, arrays, data):
    return hashlib.sha256(f"{step} {arrays}".encode() + data).hexdigest()


class _About(msgspec.Struct):
    format: str
    step: str
    arrays: str
    sha256: str


class _Header(msgspec.Struct):
    about: _About = msgspec.field(name="__metadata__")


def _unpacked(path, like, advice):
    """The leaves of a file in the structure, on the devices and with the kinds of keys of `like`, and its step."""
    expected = _raw(like)
    shapes = {name: [str(x.dtype), *x.shape] for name, x in expected.items()}
    size = sum(x.nbytes for x in expected.values())
    with door.open_bounded(path, size + 2 * _HEADER_BYTES) as file:
        length = int.from_bytes(file.read(8), "little")
        words, data = file.read(min(length, _HEADER_BYTES)), file.read()
    try:
        about = door.parse_json(words.decode(), _Header, path=path).about
        whole = about.format == "l2o checkpoint 1" and about.sha256 == _sum(about.step, about.arrays, data)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or no checkpoint. {advice}") from error
    if not whole:
        raise ValueError(f"{path} is damaged: its contents are not those that were written. {advice}")
    found = door.parse_json(about.arrays, dict, path=path, where="arrays")
    if shapes != found:
        name = next(k for k in sorted(shapes | found) if shapes.get(k) != found.get(k))
        raise ValueError(
            f"{path} is of a run with other settings (array {name}: {found.get(name)} there, {shapes.get(name)} here). Resume "
            "with the optimizer, tasks and number of devices that it was started with."
        )
    if len(data) != size:
        raise ValueError(f"{path} has {len(data):,} bytes of arrays, expected {size:,}. {advice}")
    leaves, start = [], 0
    for x, old in zip(expected.values(), jax.tree.leaves(like), strict=True):
        values = np.frombuffer(data, x.dtype, x.size, start).reshape(x.shape).copy()
        start += x.nbytes
        leaves.append(_as(values, old))
    return jax.tree.unflatten(jax.tree.structure(like), leaves), about.step


def _as(values, like):
    if isinstance(like, np.ndarray | np.generic):
        return values
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.device_put(
            jax.random.wrap_key_data(jnp.asarray(values), impl=jax.random.key_impl(like)), like.sharding
        )
    return jax.device_put(values, like.sharding)
