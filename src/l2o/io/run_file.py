"""The file of a run that can be resumed: what it was started with, and what it has found so far."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from l2o.io import door
from l2o.io.described import Described
from l2o.io.files import check_writable, write_whole


class RunFile:
    """`file` in the folder of a run of one kind, `what`: "search", say. Without a folder nothing is written.

    **Arguments:** `schema`: of its contents, a `msgspec.Struct` that has "started_with". `settings`: all that decides the run.

    **Raises:** `FileExistsError` if the folder holds such a run and `resume` is not set, `FileNotFoundError` if it holds none and
    `resume` is; `ValueError` if it is another run, or damaged; `OSError` if it cannot be written to.
    """

    def __init__(
        self, folder: Path | None, file: str, what: str, schema: Any, *, resume: bool, settings: Mapping[str, Any]
    ):
        self.path = None if folder is None else folder / file
        self.recorded: Any = None  # what the file held, of a run that is resumed
        self.started_with: dict[str, str | None] = {}
        if folder is None:
            if resume:
                raise ValueError(f"`resume` needs the `folder` of the {what} that is to go on.")
            return
        described = Described(settings)
        if resume:
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder} holds no {what} to resume. Leave `resume` out to start one there.")
            self.recorded = door.read_json(folder / file, schema)
            described.check(self.recorded.started_with, f"The {what} in {folder}")
        else:
            check_free(folder, file, what)
        self.started_with = described.parts
        check_writable(folder)

    def write(self, contents: Any) -> None:
        """Writes the contents, of the schema, whole or not at all."""
        if self.path is not None:
            write_whole(self.path, msgspec.json.encode(contents))


def check_free(folder: Path, file: str, what: str) -> None:
    """Makes sure that a new run in `folder` would not be mixed with an old one.

    **Raises:** `FileExistsError` if the folder holds one.
    """
    if (folder / file).exists():
        raise FileExistsError(
            f"{folder} already holds a {what}. Pass resume=True (`--resume`) to go on with it, or choose another folder."
        )
