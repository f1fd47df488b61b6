"""What a design has found so far, in a folder from which it goes on: a stage that is written down is not run again."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float

from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.io import door
from l2o.io.described import Described
from l2o.io.files import check_writable, subfolder, write_whole
from l2o.optimizers import pretrained


class _Written(msgspec.Struct):
    started_with: dict[str, str | None]
    seconds: float
    found: dict[str, Any]


class Journal:
    """The stages of one design by name: plain values in design.json, optimizers as weights files beside it.

    Without a folder everything is kept in memory alone.

    **Raises:** `FileExistsError` if the folder holds a design and `resume` is not set, `FileNotFoundError` if it holds none and
    `resume` is; `ValueError` if it is another design, or damaged; `OSError` if it cannot be written to.
    """

    def __init__(self, folder: Path | None, *, resume: bool, settings: Mapping[str, Any]):
        self.folder = folder
        self._before, self._started = 0.0, time.monotonic()  # seconds of earlier parts of the run
        self._found: dict[str, Any] = {}
        self._file: Path | None = None
        if folder is None:
            if resume:
                raise ValueError("`resume` needs the `folder` of the design that is to go on.")
            return
        self._file = file = folder / "design.json"
        described = Described(settings)
        self._started_with = described.parts
        if resume:
            if not file.is_file():
                raise FileNotFoundError(f"{folder} holds no design to resume. Leave `resume` out to start one there.")
            written = door.read_json(file, _Written)
            described.check(written.started_with, f"The design in {folder}")
            self._found, self._before = written.found, written.seconds
        else:
            check_free(folder)
        check_writable(folder)
        if not resume:
            self._write()

    def seconds(self) -> float:
        """That the design has taken, earlier parts of the run included."""
        return self._before + time.monotonic() - self._started

    def value(self, name: str, kind: Any, find: Callable[[], Any]) -> Any:
        """A plain value of this `kind`, found now or before.

        **Raises:** `ValueError` if what the file holds is of another kind.
        """
        if name not in self._found:
            self._found[name] = msgspec.to_builtins(find())
            self._write()
        return door.convert(self._found[name], kind, path=self._file or "the journal", where=name)

    def losses(self, name: str, num: int, find: Callable[[], Any]) -> Float[np.ndarray, " num"]:
        """So many losses; what is not finite becomes infinite."""
        plain = lambda: [float(x) if np.isfinite(x) else None for x in find()]
        found = self.value(name, list[float | None], plain)
        if len(found) != num:
            raise door.refused(self._file or "the journal", name, f"{len(found)} losses, where there must be {num}")
        return np.asarray([np.inf if x is None else x for x in found])

    def _write(self):
        if self._file is not None:
            write_whole(self._file, msgspec.json.encode(_Written(self._started_with, self.seconds(), self._found)))

    def place(self, name: str) -> Path | None:
        """A folder of a stage's own."""
        return None if self.folder is None else subfolder(self.folder, name)

    def kept(self, name: str, optimizer: AbstractLearnedOptimizer, recipe: Mapping[str, Any]) -> None:
        """Writes an optimizer that was found, so that it can be used whatever becomes of the run."""
        if self.folder is not None:
            pretrained.save(
                subfolder(self.folder, "candidates") / f"{name}.safetensors", optimizer, recipe=dict(recipe)
            )


def check_free(folder: Path) -> None:
    """Makes sure that a new design in `folder` would not be mixed with an old one.

    **Raises:** `FileExistsError` if the folder holds a design.
    """
    if (folder / "design.json").exists():
        raise FileExistsError(
            f"{folder} already holds a design. Pass resume=True (`--resume`) to go on with it, or choose another folder."
        )
