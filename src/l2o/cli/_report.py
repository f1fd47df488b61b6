"""`l2o report`."""

from pathlib import Path
from typing import Annotated

import typer

from l2o.cli import _common
from l2o.cli._common import console
from l2o.report.files import write


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison (`l2o compare --folder`), complete or not.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to. Default: the comparison's own.")
    ] = None,
) -> None:
    """Writes report.html, summary.txt, figures/ (SVG and PNG), table.csv, table.json and events/ (TensorBoard)."""
    with console.status("Writing the report ..."):
        written = write(folder, output)
    console.print(written.text, soft_wrap=True)
    console.print(
        f"Report:  {written.page} ({written.page.stat().st_size / 1e6:.1f} MB, opens offline)",
        soft_wrap=True,
    )
    console.print(f"Summary: {written.summary}", soft_wrap=True)
    console.print(f"Tables:  {_common.shell(*written.tables)}", soft_wrap=True)
    console.print(f"Figures: {written.page.parent / 'figures'} (SVG and PNG)", soft_wrap=True)
    console.print(f"Events:  {_common.shell('tensorboard', '--logdir', written.events)}", soft_wrap=True)
