"""TensorBoard event files, written in the caller's thread: what goes wrong is the caller's `OSError`.

TensorBoard's names for curves ("tags") are taken as they are; `tensorboardX.SummaryWriter` would replace every character but
letters, digits, `-`, `_`, `/` and `.`, and draw two panels of different names as one.
"""

import errno
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from l2o.io.extras import extra

PREFIX = "events.out.tfevents."


def file_name(suffix: str = "") -> str:
    """Of a new event file; TensorBoard shows those of a folder as one run."""
    return f"{PREFIX}{time.time():.0f}.{socket.gethostname()}.{os.getpid()}{suffix}"


def scalar(tag: str, value: float | int, step: int):
    """One point of a curve."""
    return _event(step=step, summary={"value": [{"tag": tag, "simple_value": value}]})


def images(tag: str, pixels: Any, step: int):
    """Images side by side, floats in [0, 1] of shape [num, height, width, 3]."""
    with extra("train", "An image for TensorBoard"):
        from tensorboardX import summary

    made = summary.image("images", pixels, dataformats="NHWC")
    made.value[0].tag = tag
    return _event(step=step, summary=made)


def records(events: Iterable[Any]) -> bytes:
    """A whole file of them."""
    return b"".join(_record(event) for event in (_event(file_version="brain.Event:2"), *events))


class Appended:
    """An event file of a run that goes on. `purge_from`: TensorBoard forgets what other files say of this step and later ones."""

    def __init__(self, folder: Path, *, purge_from: int | None = None):
        start = [] if purge_from is None else [_event(step=purge_from, session_log={"status": "START"})]
        # Two in one second: TensorBoard reads them in the order of their names.
        names = (folder / file_name(f".{i}" if i else "") for i in itertools.count())
        self.path = next(path for path in names if not os.path.lexists(path))
        self._append(records(start), os.O_CREAT | os.O_EXCL)

    def add(self, events: Iterable[Any]) -> None:
        """Appends them."""
        self._append(b"".join(map(_record, events)))

    def _append(self, content, flags=0):
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | flags, 0o666)
            try:
                length = os.fstat(descriptor).st_size
                if os.write(descriptor, content) < len(content):  # the disk has just become full
                    os.ftruncate(descriptor, length)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def check() -> None:
    """Makes sure that event files can be written.

    **Raises:** `ModuleNotFoundError` saying what to install.
    """
    _event()


def _event(**fields):
    with extra("train", "A file of events for TensorBoard"):
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (made by protobuf)

    return Event(wall_time=time.time(), **fields)


def _record(event) -> bytes:
    from tensorboardX.record_writer import masked_crc32c

    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    return length + checks[0] + content + checks[1]
