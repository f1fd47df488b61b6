"""`l2o design`."""

from pathlib import Path
from typing import Annotated

import jax
import typer

import l2o
from l2o import report
from l2o.cli import _common
from l2o.cli._common import Cores, Seed, Set, TaskName, console
from l2o.evaluation.design import journal
from l2o.io.files import holding_its_folder, write_whole
from l2o.io.run_file import check_free


@holding_its_folder
def design(
    task: TaskName,
    set_: Set = None,
    horizon: Annotated[
        int | None, typer.Option(help="Steps of a run. Default: the task's own; 100 for one of yours.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="The time that it may take.")] = 10.0,
    by: Annotated[
        str, typer.Option(help="What counts: steps, or seconds (the same time as the best baseline).")
    ] = "steps",
    target: Annotated[
        float | None, typer.Option(help="A loss at which a problem counts as solved: as many as can be are to be.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/design"),
    resume: Annotated[bool, typer.Option(help="Go on with the run in --folder.")] = False,
    seed: Seed = 0,
    cores: Cores = None,
) -> None:
    """A tuned baseline is always a candidate, and wins unless another rule is better beyond doubt.

    The folder gets weights.safetensors (for `l2o.load` and PyTorch), design.html (the result on one page), design.txt, and all
    that it takes to go on with --resume. Ctrl-C ends it with the best so far.
    """
    config = dict(locals())
    l2o.use_all_cores(cores)
    family, usual_horizon = _common.find_family(task, _common.parse_settings(set_))
    if not resume:
        check_free(folder, journal.FILE, "design")
        _common.start_folder(folder, config)
    bar, on_progress = _common.stages()
    with bar:
        found = l2o.design(
            family,
            horizon=usual_horizon if horizon is None else horizon,
            minutes=minutes,
            key=jax.random.key(seed),
            by=by,
            target=target,
            name=task,
            folder=folder,
            resume=resume,
            on_progress=on_progress,
        )
    weights = found.save(folder / "weights.safetensors")
    text = report.design_text(found)
    write_whole(folder / "design.txt", text.encode())
    write_whole(folder / "design.html", report.design_page(found).encode())
    console.print(text, soft_wrap=True)
    console.print(f"Page:    {folder / 'design.html'}", soft_wrap=True)
    console.print(f"Weights: {weights}  (l2o.load({str(weights)!r}))", soft_wrap=True)
