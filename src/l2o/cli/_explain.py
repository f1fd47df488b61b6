"""`l2o explain`."""

import json
from pathlib import Path

import jax

import l2o
from l2o import report
from l2o.cli import _common, _trained_on
from l2o.cli._common import console
from l2o.io.files import write_whole


def run(
    *,
    weights: str,
    task: str | None,
    set_: list[str] | None,
    part: str | None,
    horizon: int | None,
    num_tasks: int | None,
    num_fitted: int | None,
    output: Path,
    seed: int,
    cores: int | None,
) -> None:
    """Explains, prints a table and a paragraph, writes explanation.txt, explanation.json and the figures."""
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
    elif parts := " or ".join(getattr(optimizer, "parts", ())):
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
