"""`l2o report`."""

from pathlib import Path

from l2o import report
from l2o.cli import _common
from l2o.cli._common import console


def run(*, folder: Path, output: Path | None) -> None:
    """Writes the report, prints its summary and where things are."""
    with console.status("Writing the report ..."):
        written = report.write(folder, output)
    console.print(written.text, soft_wrap=True)
    console.print(
        f"Report:  {written.page} ({written.page.stat().st_size / 1e6:.1f} MB, opens offline)",
        soft_wrap=True,
    )
    console.print(f"Summary: {written.summary}", soft_wrap=True)
    console.print(f"Tables:  {_common.shell(*written.tables)}", soft_wrap=True)
    console.print(f"Figures: {written.page.parent / 'figures'} (SVG and PNG)", soft_wrap=True)
    console.print(f"Events:  {_common.shell('tensorboard', '--logdir', written.events)}", soft_wrap=True)
