"""`l2o explain`."""

import json
from pathlib import Path
from typing import Annotated

import jax
import typer

import l2o
from l2o import report
from l2o.cli import _common, _trained_on
from l2o.cli._common import Cores, Seed, Set, console
from l2o.io.files import write_whole


def explain(
    weights: Annotated[str, typer.Argument(help="A shipped optimizer, a weights file, or a folder with one.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="Task family (see `l2o tasks`), or my_module:family. Default: what the weights were trained on."
        ),
    ] = None,
    set_: Set = None,
    part: Annotated[
        str | None,
        typer.Option(help="Of weights of several rules, explain this one. Default: all as if they were one."),
    ] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps of a run. Default: the one of meta-training.")] = None,
    num_tasks: Annotated[
        int | None, typer.Option(help="Held-out runs. Default: 256, or 10 of tasks with more than 1,000 parameters.")
    ] = None,
    num_fitted: Annotated[
        int | None, typer.Option(help="Runs that surrogates are fitted to. Default: 64, or 10.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where text, numbers and figures go.")] = Path(
        "runs/explain"
    ),
    seed: Seed = 0,
    cores: Cores = None,
) -> None:
    """Shows updates against gradients, and the rule of a few constants that explains them best.

    A rule that is a formula itself, l2o.Momentum, is told with its numbers, and as code of optax.

    Writes explanation.txt, explanation.json, and the figures behaviour-updates, -trajectories and -fit (SVG and PNG).
    """
    config = dict(locals())
    if horizon is not None and horizon < 1:
        raise ValueError(f"--horizon must be at least 1, got {horizon}.")
    l2o.use_all_cores(cores)
    optimizer = l2o.load(weights, beyond=None)
    family, title, length = family_of(weights, task, set_, horizon)
    _common.start_folder(output, config)
    name = weights if weights in l2o.pretrained.names() else Path(weights).stem
    if part is not None:
        name = f"{name}:{part}"
    elif parts := " or ".join(optimizer.group_rules() or ()):
        console.print(f"{name} has several rules: see each with --part {parts}.", markup=False, soft_wrap=True)
    with console.status("Starting ...") as status:
        found = l2o.explain(
            optimizer,
            family,
            horizon=length,
            key=jax.random.key(seed),
            part=part,
            num_tasks=num_tasks,
            num_fitted=num_fitted,
            on_stage=lambda words: status.update(f"{words[0].upper()}{words[1:]} ..."),
        )
        status.update("Drawing ...")
        about = {"name": name, "family": title}
        text = report.explained(found, **about)
        write_whole(output / "explanation.txt", text.encode())
        numbers = report.explanation_as_dict(found, **about)
        write_whole(output / "explanation.json", json.dumps(numbers, indent=1).encode())
        figures = report.behaviour_figures(found, output, name=name)
    if found.exact:
        console.print(report.exactly(found, name=name) + "\n", markup=False, highlight=False, soft_wrap=True)
    console.print(report.explanation_table(found, name=name))
    console.print(numbers["reading"], markup=False)
    console.print(f"\nText:    {output / 'explanation.txt'} (constants, equations)", markup=False, soft_wrap=True)
    console.print(f"Numbers: {output / 'explanation.json'}", markup=False, soft_wrap=True)
    pictures = " ".join(str(f) for f in figures if f.suffix == ".png")
    console.print(f"Figures: {pictures} (and SVG)", markup=False, soft_wrap=True)


def family_of(weights: str, task: str | None, set_: list[str] | None, horizon: int | None = None):
    """The family to explain weights on, its name, and the horizon: what was asked for, or what the weights' header says.

    **Raises:** `ValueError` if the header does not name a task and none is given, or says what is not to be trusted.
    """
    settings = _common.parse_settings(set_)
    if task is not None:
        family, usual = _common.find_family(task, settings)
        return family, _trained_on.title(task, settings), horizon or usual
    family, task, settings, usual = _trained_on.family_and_settings(weights, settings, horizon)
    return family, _trained_on.title(task, settings), horizon or usual
