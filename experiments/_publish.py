"""What every experiment ends with: its comparison's tables and figures, beside the script."""

import csv
import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import l2o
from l2o import report
from l2o.evaluation import analysis
from l2o.evaluation import records as results
from l2o.io.files import write_whole

RESULTS = Path(__file__).parent / "results"


# Whose loss every other optimizer's is divided by: the best of the paper's four baselines as the comparison tuned them, the best
# of all first-order baselines, those with a schedule and rates by group too where they were run, and the rule's own teacher.
AGAINST = ("paper", "baselines", "teacher")


def teacher_of(name: str) -> str:
    """What tables call the hand-designed rule that `name` imitated."""
    return f"{name}'s teacher"


def publish(
    folder: Path,
    name: str,
    *,
    quick: bool,
    figures: bool = True,
    beside: Iterable[results.Comparison] = (),
    teachers: Mapping[str, str] | None = None,
) -> None:
    """Writes the report of the comparison in `folder`, prints its summary, and copies tables and figures to `RESULTS`.

    The copies are `name`.csv, `name`-ratios.csv and, with `figures`, `name`-PANEL.png. A quick run is only reported: its
    numbers are no results. The tables also hold what stands `beside`, comparisons on the same keys.

    **Arguments:** `teachers`: of each learned rule the name of its teacher, where it is not `teacher_of` it.
    """
    written = report.write(folder)
    print(written.text)
    print(f"Report: {written.page}")
    found = results.load(folder)
    for other in beside:
        keys = [[c.settings.get(x) for x in ("key", "num_tasks", "test_keys")] for c in (found, other)]
        if keys[0] != keys[1]:
            raise ValueError(f"{', '.join(other.optimizers)} ran on other test keys than the comparison in {folder}.")
        for panel, records in other.records.items():
            found.records[panel].update(records)
    tables = folder / "published"
    tables.mkdir(exist_ok=True)
    analysis.write_table(found, tables)
    ratios = tables / "ratios.csv"
    write_rows(ratios, [row for panel in found.panels for row in ratio_rows(found, panel, teachers or {})])
    print(ratios.read_text())
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(tables / "table.csv", RESULTS / f"{name}.csv")
    shutil.copyfile(ratios, RESULTS / f"{name}-ratios.csv")
    for figure in written.figures if figures else ():
        if figure.suffix == ".png":
            shutil.copyfile(figure, RESULTS / f"{name}-{figure.name}")
    print(f"Published in {RESULTS}: {name}*")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def ratio_rows(found: results.Comparison, panel: str, teachers: Mapping[str, str]):
    """Every other optimizer's loss over those of `AGAINST`, at the horizon and the last step."""
    records, setting = found.records[panel], found.panels[panel]
    paper = [name for name in l2o.baselines.PAPER_BASELINES if name in records]
    scheduled = [name for name in records if ", scheduled" in name]
    first_order = paper + scheduled
    for optimizer in (name for name in records if name not in paper):
        teacher = teachers.get(optimizer, teacher_of(optimizer))
        # Where none were run, "paper" says it all; and a baseline is not compared with what it is among.
        others = first_order if scheduled and optimizer not in first_order else []
        names = (paper, others, [teacher] if teacher in records else [])
        for step in sorted({setting.horizon, setting.run_to}):
            for against, beside in zip(AGAINST, names, strict=True):
                if beside:
                    best, ratio, low, high = analysis.ratio_to_best(records, optimizer, step, setting.window, beside)
                    yield {
                        "panel": panel,
                        "optimizer": optimizer,
                        "step": step,
                        "against": against,
                        "best": best,
                        "ratio": ratio,
                        "low": low,
                        "high": high,
                        "num_tasks": len(records[optimizer].curves.losses),
                    }
