"""What every experiment ends with: its comparison's table and figures, beside the script."""

import shutil
from pathlib import Path

from l2o import report

RESULTS = Path(__file__).parent / "results"


def publish(folder: Path, name: str, *, quick: bool) -> None:
    """Writes the report of the comparison in `folder`, prints its summary, and copies table and figures to `RESULTS`.

    The copies are `name`.csv and `name`-PANEL.png. A quick run is only reported: its numbers are no results.
    """
    written = report.write(folder)
    print(written.text)
    print(f"Report: {written.page}")
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(written.tables[0], RESULTS / f"{name}.csv")
    for figure in written.figures:
        if figure.suffix == ".png":
            shutil.copyfile(figure, RESULTS / f"{name}-{figure.name}")
    print(f"Published in {RESULTS}: {name}*")
