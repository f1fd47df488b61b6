"""Everything that a comparison's folder says, written beside it: page, summary, tables, figures, events."""

import datetime
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from l2o.evaluation import analysis
from l2o.evaluation import records as results
from l2o.evaluation.records import Comparison
from l2o.io.door import one_line, read_json
from l2o.io.files import check_writable, subfolder, write_whole
from l2o.report.events import write_events
from l2o.report.figures import figure, image_figure, profile_figure
from l2o.report.html import page
from l2o.report.styles import all_optimizers, styles
from l2o.report.text import summarised


class Written(NamedTuple):
    """What `write` wrote, and where."""

    text: str  # the summary
    page: Path  # report.html
    summary: Path  # analysis.txt
    tables: tuple[Path, Path]  # table.csv, table.json
    figures: tuple[Path, ...]  # each as SVG and PNG
    events: Path  # a folder for TensorBoard


def write(folder: str | Path, output: str | Path | None = None) -> Written:
    """Writes the report of the comparison in `folder`, complete or not, to the folder `output` (default: the same).

    **Raises:** `FileNotFoundError` if `folder` holds no comparison, `ValueError` naming a file in it that is damaged or not
    l2o's, `OSError` if `output` cannot be written to.
    """
    folder = Path(folder)
    output = Path(output) if output is not None else folder
    found = results.load(folder)
    about = _config(folder), _recorded(folder)
    check_writable(output)
    figures, events = subfolder(output, "figures"), subfolder(output, "events")
    text = summarised(found, *about)
    write_whole(output / "summary.txt", text.encode())
    write_whole(output / "report.html", page(found, *about).encode())
    analysis.write_table(found, output)
    return Written(
        text,
        output / "report.html",
        output / "summary.txt",
        (output / "table.csv", output / "table.json"),
        tuple(_write_figures(found, figures)),
        write_events(found, events),
    )


class _Config(msgspec.Struct):
    command: str = ""
    versions: dict[str, str] = {}


def _config(folder) -> dict[str, Any] | None:
    """What the command wrote: itself, and the versions of what it ran with. From Python there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    told = read_json(path, _Config, finite=False)
    versions = {one_line(name): one_line(version) for name, version in told.versions.items()}
    return {"command": one_line(told.command), "versions": versions}


def _recorded(folder):
    """When the last cell was written."""
    newest = max(path.lstat().st_mtime for path in (folder / "comparison.json", *folder.glob("cells/*/*.npz")))
    return datetime.datetime.fromtimestamp(newest).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _write_figures(found: Comparison, folder: Path):
    drawn_as = styles(all_optimizers(found))
    for (panel, records), name in zip(found.records.items(), _file_names(found.records), strict=True):
        it, (vector, pixels) = found.panels[panel], (folder / f"{name}.svg", folder / f"{name}.png")
        if records:
            options = {"window": it.window, "horizon": {panel: it.horizon}, "drawn_as": drawn_as}
            figure({panel: records}, vector, also=[pixels], **options)
            yield from (vector, pixels)
        if any(record.images is not None for record in records.values()):
            yield image_figure(records, folder / f"{name}-images.png")
    if analysis.scores(found):
        vector, pixels = folder / "performance-profile.svg", folder / "performance-profile.png"
        profile_figure(found, vector, also=[pixels])
        yield from (vector, pixels)


def _file_names(panels):
    """Readable, and different: "mnist-784-20-10", and with a number where two panels would share one."""
    taken = {"performance-profile"}
    for panel in panels:
        words = "".join(c if c.isalnum() and c.isascii() else " " for c in panel.lower()).split()
        plain = "-".join(words)[:80] or "panel"
        names = (plain if i == 1 else f"{plain}-{i}" for i in itertools.count(1))
        name = next(n for n in names if not {n, f"{n}-images"} & taken)
        taken |= {name, f"{name}-images"}
        yield name
