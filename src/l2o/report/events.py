"""TensorBoard events of a comparison: `tensorboard --logdir FOLDER/events`, a run for each optimizer, a chart for each panel."""

from pathlib import Path
from urllib.parse import quote

import numpy as np

from l2o._files import check_writable
from l2o.report import curves
from l2o.results import Comparison, Record


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

    **Raises:** `OSError` if `folder` cannot be written to.
    """
    import tensorboardX

    run = Path(folder) / quote(optimizer, safe=" ")
    suffix = f".{quote(panel, safe='')}"
    check_writable(run)
    for old in run.glob(f"*{suffix}"):  # a quoted name holds nothing that a pattern would read otherwise
        old.unlink()
    last = record.curves.losses.shape[1] - 1
    steps = curves.thinned(window - 1, last, last, most=1000)
    with tensorboardX.SummaryWriter(str(run), filename_suffix=suffix) as writer:
        for step, loss in zip(steps, _mean(record, window)[steps - (window - 1)], strict=True):
            if np.isfinite(loss):
                writer.add_scalar(f"{panel}/loss", float(loss), int(step))
        for metric, values in record.curves.metrics.items():
            if np.isfinite(values).all():
                writer.add_scalar(f"{panel}/{metric}", float(values.mean()), last)
        if record.images is not None:
            writer.add_images(f"{panel}/images", np.clip(record.images, 0, 1), last, dataformats="NHWC")


def _mean(record, window):
    with np.errstate(all="ignore"):
        return curves.smoothed(record, window).mean(axis=0)
