"""`l2o explain`."""

import inspect
import json
from pathlib import Path

import jax

import l2o
from l2o import _plugins, report
from l2o._files import write_whole
from l2o.cli import _common
from l2o.cli._common import console


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
    l2o.use_all_cores(cores)
    optimizer = l2o.load(weights)
    family, title, usual_horizon = family_of(weights, task, set_)
    _common.start_folder(output, config)
    name = weights if weights in l2o.pretrained.names() else Path(weights).stem
    if part is not None:
        name = f"{name}:{part}"
    elif isinstance(optimizer, l2o.Partitioned):
        console.print(f"{name} has several rules: see each with --part {' or '.join(optimizer.parts)}.", soft_wrap=True)
    with console.status("Starting ...") as status:
        found = l2o.explain(
            optimizer,
            family,
            horizon=horizon or usual_horizon,
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
    console.print(f"\nText:    {output / 'explanation.txt'} (constants, equations)", soft_wrap=True)
    console.print(f"Numbers: {output / 'explanation.json'}", soft_wrap=True)
    console.print(f"Figures: {' '.join(str(f) for f in figures if f.suffix == '.png')} (and SVG)", soft_wrap=True)


def family_of(weights: str, task: str | None, set_: list[str] | None):
    """The family to explain weights on, its name, and the horizon: what was asked for, or what the weights' header says.

    **Raises:** `ValueError` if the header does not name a task and none is given.
    """
    recipe = l2o.pretrained.header(weights)["recipe"]
    settings = _common.parse_settings(set_)
    if task is not None:
        family, horizon = _common.find_family(task, settings)
        return family, _title(task, settings), horizon
    if "task" not in recipe:
        raise ValueError(
            f"The header of {weights} does not say what it was meta-trained on. Name a task family: --task quadratic (see "
            "`l2o tasks`), or --task my_module:family."
        )
    task = str(recipe["task"])
    saved = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.get("task_arguments", {}).items()}
    settings = {**saved, **settings}
    try:
        family, horizon = _common.find_family(task, settings)
    except FileNotFoundError as error:
        default = None if ":" in task else inspect.signature(_plugins.get("tasks", task).family).parameters.get("data")
        if default is None or "data" in _common.parse_settings(set_):
            raise
        console.print(
            f"The data {settings['data']!r} that {weights} was meta-trained on are not here; {default.default!r}, which "
            f"comes with the package, stands in. ({str(error).splitlines()[0]})",
            style="yellow",
            soft_wrap=True,
        )
        settings["data"] = default.default
        family, horizon = _common.find_family(task, settings)
    return family, _title(task, settings), int(recipe.get("horizon", horizon))


def _title(task, settings):
    return f"{task} ({', '.join(f'{k}={v}' for k, v in settings.items())})" if settings else task
