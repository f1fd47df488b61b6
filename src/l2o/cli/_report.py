"""`l2o report`."""

from pathlib import Path

from l2o import report
from l2o.cli._common import console


def run(*, folder: Path, output: Path | None) -> None:
    """Writes the report, prints its summary and where things are."""
    with console.status("Writing the report ..."):
        written = report.write(folder, output)
    console.print(written.text, markup=False, soft_wrap=True)
    console.print(
        f"Report:  {written.page} ({written.page.stat().st_size / 1e6:.1f} MB, opens offline)",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"Summary: {written.summary}", markup=False, soft_wrap=True)
    console.print(f"Tables:  {' '.join(map(str, written.tables))}", markup=False, soft_wrap=True)
    console.print(f"Figures: {written.page.parent / 'figures'} (SVG and PNG)", markup=False, soft_wrap=True)
    console.print(f"Events:  tensorboard --logdir {written.events}", markup=False, soft_wrap=True)
