"""What every experiment ends with: its comparison's tables and figures, beside the script."""

import csv
import shutil
from pathlib import Path

import l2o
from l2o import report, results, summary

RESULTS = Path(__file__).parent / "results"


def publish(folder: Path, name: str, *, quick: bool, figures: bool = True) -> None:
    """Writes the report of the comparison in `folder`, prints its summary, and copies tables and figures to `RESULTS`.

    The copies are `name`.csv, `name`-ratios.csv and, with `figures`, `name`-PANEL.png. A quick run is only reported: its
    numbers are no results.
    """
    written = report.write(folder)
    print(written.text)
    print(f"Report: {written.page}")
    found = results.load(folder)
    ratios = folder / "ratios.csv"
    with ratios.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["panel", "optimizer", "step", "best", "ratio", "low", "high", "num_tasks"])
        writer.writeheader()
        writer.writerows(row for panel in found.panels for row in ratio_rows(found, panel))
    print(ratios.read_text())
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(written.tables[0], RESULTS / f"{name}.csv")
    shutil.copyfile(ratios, RESULTS / f"{name}-ratios.csv")
    for figure in written.figures if figures else ():
        if figure.suffix == ".png":
            shutil.copyfile(figure, RESULTS / f"{name}-{figure.name}")
    print(f"Published in {RESULTS}: {name}*")


def ratio_rows(found: results.Comparison, panel: str):
    """Every other optimizer's loss over that of the best of the paper's four baselines, at the horizon and the last step."""
    records, setting = found.records[panel], found.panels[panel]
    paper = [name for name in l2o.baselines.PAPER_BASELINES if name in records]
    for optimizer in (name for name in records if name not in paper):
        for step in sorted({setting.horizon, setting.run_to}):
            best, ratio, low, high = summary.ratio_to_best(records, optimizer, step, setting.window, paper)
            yield {
                "panel": panel,
                "optimizer": optimizer,
                "step": step,
                "best": best,
                "ratio": ratio,
                "low": low,
                "high": high,
                "num_tasks": len(records[optimizer].curves.losses),
            }
