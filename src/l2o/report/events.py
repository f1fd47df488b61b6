"""TensorBoard events of a comparison: `tensorboard --logdir FOLDER/events`, a run for each optimizer, a chart for each panel."""

from pathlib import Path

import numpy as np

from l2o.evaluation.records import Comparison, Record
from l2o.io import event_files
from l2o.io.door import printable
from l2o.io.files import subfolder, write_whole
from l2o.io.names import file_name
from l2o.report import curves


def write_events(comparison: Comparison, folder: str | Path) -> Path:
    """Writes curves and images of all cells below `folder`, each by `write_cell`; returns `folder`."""
    for panel, records in comparison.records.items():
        for name, record in records.items():
            write_cell(folder, panel, name, record, comparison.panels[panel].window)
    return Path(folder)


def write_cell(folder: str | Path, panel: str, optimizer: str, record: Record, window: int = 1) -> None:
    """Writes one cell's events in place of those that an earlier call wrote.

    Scalars PANEL/loss (mean over tasks, smoothed over `window` steps, up to where a run diverges), PANEL/METRIC after the last
    step, and images PANEL/images.

    **Raises:** `OSError` if `folder` cannot be written to; `ValueError` if a link in it leads elsewhere.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    run = subfolder(Path(folder), file_name(optimizer))
    suffix = f"@{file_name(panel)}"  # "@" is in no such name: the panel "b" is not the end of "a.b"
    new = run / event_files.file_name(suffix)
    old = [path for path in run.iterdir() if path.name.startswith(event_files.PREFIX) and path.name.endswith(suffix)]
    write_whole(new, event_files.records(_cell(panel, record, window)))
    for path in old:
        if path != new and path.is_file() and not path.is_symlink():
            path.unlink()


def _cell(panel, record, window):
    last = record.curves.losses.shape[1] - 1
    steps = curves.thinned(window - 1, last, last, most=1000)
    panel = printable(panel)
    for step, loss in zip(steps, _mean(record, window)[steps - (window - 1)], strict=True):
        if np.isfinite(loss):
            yield event_files.scalar(f"{panel}/loss", float(loss), int(step))
    for metric, values in record.curves.metrics.items():
        if np.isfinite(values).all():
            yield event_files.scalar(f"{panel}/{metric}", float(values.mean()), last)
    if record.images is not None:
        yield event_files.images(f"{panel}/images", np.clip(record.images, 0, 1), last)


def _mean(record, window):
    with np.errstate(all="ignore"):
        return curves.smoothed(record, window).mean(axis=0)
