"""Files written whole or not at all, and folders that one run writes to at a time. No JAX here: `l2o.torch` writes files too."""

import contextlib
import errno
import functools
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

_Function = TypeVar("_Function", bound=Callable)

_PART = re.compile(r"\..+\.\d+\.part")
_DISK = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space"}
_DISK |= dict.fromkeys((errno.EIO, errno.EROFS, errno.EFBIG), "see to the disk")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, in place of one of that name.

    **Raises:** `OSError` that names the file.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb", opener=_not_through_links) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _settle(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _not_through_links(path, flags):
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _settle(folder):
    """Has the folder itself written out: until then a crash of the machine may undo a rename in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not do it for folders
            raise
    finally:
        os.close(descriptor)


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


def subfolder(folder: Path, *names: str) -> Path:
    """A folder below another, made if it is not there.

    **Raises:** `ValueError` if a link on the way leads out of `folder`, so that its files would be written elsewhere.
    """
    path = folder.joinpath(*names)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is a link that leads out of {folder}, to {path.resolve()}. Delete the link.")
    path.mkdir(parents=True, exist_ok=True)
    return path


_held: dict[tuple[int, int], int] = {}  # locked folders, and the thread that holds each
_guard = threading.Lock()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder, and holds it for one run, until the block or the process ends, however it does.

    What an earlier run that was killed left half written is removed, and so is the folder if nothing came into it. A disk that
    fills up is told of in one line.

    **Raises:** `BlockingIOError` if another run holds it; `OSError` if it cannot be written to, now or in the block.
    """
    with _locked(folder):
        try:
            yield
        except OSError as error:
            if error.errno not in _DISK:
                raise
            file = f" while writing {error.filename}" if error.filename else ""
            raise OSError(
                f"{error.strerror} in {folder}{file}. What was recorded before is whole: {_DISK[error.errno]} and go on with "
                "resume=True (`--resume`)."
            ) from error


def holding_its_folder(function: _Function) -> _Function:
    """A function that holds the folder that it is given as `folder=`, if any, while it runs."""

    @functools.wraps(function)
    def holding(*args, folder=None, **options):
        with contextlib.nullcontext() if folder is None else held(Path(folder)):
            return function(*args, folder=folder, **options)

    return cast(_Function, holding)


@contextlib.contextmanager
def _locked(folder):
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        check_writable(folder)  # says it in words
        raise
    status = folder.stat()
    place, me = (status.st_dev, status.st_ino), threading.get_ident()
    with _guard:
        if _held.get(place) == me:  # a command holds it around what it calls
            descriptor = None
        else:
            descriptor = _lock(folder)
            _held[place] = me
    try:
        if descriptor is not None:
            _remove_parts(folder)
        yield
    finally:
        if descriptor is not None:
            with _guard:
                del _held[place]
            with contextlib.suppress(OSError):  # while it is still locked: else it might be another's by now
                (folder / ".lock").unlink(missing_ok=True)
            os.close(descriptor)
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()


def _lock(folder):
    """A descriptor of FOLDER/.lock, locked until it is closed."""
    import fcntl

    path = folder / ".lock"
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError:
            check_writable(folder)  # says it in words
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
            os.close(descriptor)  # the one who held it has just removed it
        except BlockingIOError as error:
            os.close(descriptor)
            raise BlockingIOError(
                f"{folder} is in use: another run is writing to it. Wait until it has ended, or choose another folder."
            ) from error
        except OSError as error:
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): do not start a second run in it.", stacklevel=5
            )
            return descriptor


def _remove_parts(folder):
    """Files of ours that a killed process left unfinished. None of them is being written: the folder is ours."""
    below = [folder, *(folder / name for name in ("checkpoints", "costs", "figures"))]
    for name in ("cells", "events"):
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            below += (folder / name).iterdir()
    for place in below:
        if place.is_dir() and (place is folder or not place.is_symlink()):
            for path in place.iterdir():
                if _PART.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    path.unlink(missing_ok=True)
