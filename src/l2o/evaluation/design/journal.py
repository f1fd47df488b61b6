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
from l2o.io.files import subfolder
from l2o.io.run_file import RunFile
from l2o.optimizers import pretrained

FILE = "design.json"


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
        self._file = RunFile(folder, FILE, "design", _Written, resume=resume, settings=settings)
        recorded = self._file.recorded
        self._found: dict[str, Any] = {} if recorded is None else recorded.found
        self._before = 0.0 if recorded is None else recorded.seconds  # of earlier parts of the run
        self._started = time.monotonic()
        if recorded is None:
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
        return door.convert(self._found[name], kind, path=self._file.path or "the journal", where=name)

    def known(self, name: str, kind: Any) -> Any:
        """The value if it was found before, else None.

        **Raises:** as `value`.
        """
        return self.value(name, kind, lambda: None) if name in self._found else None

    def losses(self, name: str, num: int, find: Callable[[], Any]) -> Float[np.ndarray, " num"]:
        """So many losses; what is not finite becomes infinite."""
        plain = lambda: [float(x) if np.isfinite(x) else None for x in find()]
        found = self.value(name, list[float | None], plain)
        if len(found) != num:
            raise door.refused(
                self._file.path or "the journal", name, f"{len(found)} losses, where there must be {num}"
            )
        return np.asarray([np.inf if x is None else x for x in found])

    def _write(self):
        self._file.write(_Written(self._file.started_with, self.seconds(), self._found))

    def place(self, name: str) -> Path | None:
        """A folder of a stage's own."""
        return None if self.folder is None else subfolder(self.folder, name)

    def optimizer(self, name: str, find: Callable[[], AbstractLearnedOptimizer]) -> AbstractLearnedOptimizer:
        """An optimizer, found now or read from the weights that an earlier part of the run wrote.

        **Raises:** `ValueError` if these are damaged.
        """
        if self.folder is not None and self.has_optimizer(name):
            return pretrained.load(self._weights(self.folder, name), beyond=None)
        found = find()
        self.kept(name, found, {})
        self.value(f"{name} is kept", bool, lambda: True)  # after the file, which is whole by then
        return found

    def has_optimizer(self, name: str) -> bool:
        """Whether an earlier part of the run found it."""
        return f"{name} is kept" in self._found

    def kept(self, name: str, optimizer: AbstractLearnedOptimizer, recipe: Mapping[str, Any]) -> None:
        """Writes an optimizer that was found, so that it can be used whatever becomes of the run."""
        if self.folder is not None:
            pretrained.save(self._weights(self.folder, name), optimizer, recipe=dict(recipe))

    def _weights(self, folder, name):
        return subfolder(folder, "candidates") / f"{name}.safetensors"
