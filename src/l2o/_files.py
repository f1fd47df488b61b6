"""Files written whole or not at all. No JAX here: `l2o.torch` writes files too."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Makes the folder and tries it.

    **Raises:** `OSError` saying what is wrong: a read-only place, a full disk, a file in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ".writable", b"\0" * 4096)
        (folder / ".writable").unlink()
    except OSError as error:
        raise OSError(
            f"Cannot write to {folder}: {error.strerror or error}. Free some space or choose another folder; "
            "nothing has been run."
        ) from error
