"""One cell of a comparison as a file, FOLDER/cells/PANEL/OPTIMIZER.npz: written, and read again with every array checked."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from l2o.core.measured import Curves
from l2o.evaluation.records import Record
from l2o.evaluation.trials import SCHEDULES, Trial, Tuned
from l2o.io.door import one_line, read_arrays, shown

_CELL_BYTES = 2**28  # of a cell's arrays


def encoded(record: Record, fingerprint: str) -> bytes:
    """The file of a record; `fingerprint` says which cell it is."""
    arrays: dict[str, Any] = {"losses": _plain(record.curves.losses)}
    arrays |= {f"metric_{name}": _plain(values) for name, values in record.curves.metrics.items()}
    if record.images is not None:
        arrays["images"] = np.round(255 * record.images).astype(np.uint8)
    if record.tuned is not None:
        arrays |= {f"trial_{k}": v for k, v in record.tuned.grid._asdict().items()}
        arrays |= {"trial_losses": record.tuned.losses, "at_edge": np.asarray(record.tuned.at_edge)}
        arrays["chosen"] = np.argmin(record.tuned.losses)
    file = io.BytesIO()
    told = {
        "learned": record.learned,
        "seconds": record.seconds,
        "fingerprint": fingerprint,
    }
    np.savez(file, **told, **arrays)
    return file.getvalue()


def read(path: Path, *, num_tasks: int, run_to: int, fingerprint: str) -> Record:
    """What `encoded` wrote, once every array is known to be of the kind and shape that it should be.

    **Raises:** `ValueError` that names the file and what is wrong with it.
    """
    arrays = read_arrays(path, limit=_CELL_BYTES)
    try:
        return _record(arrays, num_tasks, run_to, fingerprint)
    except ValueError as error:
        raise ValueError(f"{path} is not what l2o recorded there: {error} Delete it to have it run again.") from error


def _record(arrays, num_tasks, run_to, fingerprint):
    _check(arrays, "losses", "f", (num_tasks, run_to + 1))
    _check(arrays, "learned", "b", ())
    _check(arrays, "seconds", "f", ())
    _check(arrays, "fingerprint", "U", ())
    if str(arrays["fingerprint"]) != fingerprint:
        raise ValueError("it is of another optimizer or panel.")
    metrics = {k.removeprefix("metric_"): v for k, v in arrays.items() if k.startswith("metric_")}
    for name in metrics:
        if name != one_line(name) or len(name) > 200:
            raise ValueError(f"a metric is called {shown(name)}.")
        _check(arrays, f"metric_{name}", "biuf", (num_tasks, *arrays[f"metric_{name}"].shape[1:]))
    images = None
    if "images" in arrays:
        shape = arrays["images"].shape
        if (
            arrays["images"].dtype != np.uint8
            or len(shape) != 4
            or shape[3] != 3
            or not all(0 < n <= 2048 for n in shape)
        ):
            raise ValueError(f"`images` are {arrays['images'].dtype} {list(shape)}, not uint8 [num, height, width, 3].")
        images = arrays["images"] / np.float32(255)
    tuned = _tuned(arrays) if "trial_losses" in arrays else None
    return Record(Curves(arrays["losses"], metrics), tuned, bool(arrays["learned"]), images, float(arrays["seconds"]))


def _tuned(arrays):
    num = (len(np.atleast_1d(arrays["trial_losses"])),)
    for name, kinds in {"losses": "f", "rate": "f", "schedule": "iu", "weight_decay": "f"}.items():
        _check(arrays, f"trial_{name}", kinds, num)
    _check(arrays, "chosen", "iu", ())
    _check(arrays, "at_edge", "b", ())
    grid = Trial(*(arrays[f"trial_{field}"] for field in Trial._fields))
    sensible = np.isfinite(grid.rate) & (grid.rate > 0) & (grid.schedule >= 0) & (grid.schedule < len(SCHEDULES))
    if not 0 <= int(arrays["chosen"]) < num[0] or not sensible.all():
        raise ValueError("its trials have rates, schedules or a choice that there are none of.")
    value = Trial(*(x[int(arrays["chosen"])].item() for x in grid))
    return Tuned(value, bool(arrays["at_edge"]), grid, arrays["trial_losses"])


def _check(arrays, name, kinds, shape) -> None:
    if name not in arrays:
        raise ValueError(f"it has no `{name}`.")
    found = arrays[name]
    if found.dtype.kind not in kinds or found.shape != shape:
        raise ValueError(f"`{name}` is {found.dtype} {list(found.shape)}, expected {list(shape)} of kind {kinds}.")


def _plain(array) -> np.ndarray:
    """Of JAX's dtypes those that NumPy's files do not know, such as bfloat16, in single precision."""
    array = np.asarray(array)
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)
