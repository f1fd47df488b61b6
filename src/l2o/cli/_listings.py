"""`l2o tasks`, `l2o suites`, `l2o optimizers`, `l2o pretrained`."""

import inspect
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

import l2o
from l2o.cli._common import console
from l2o.core import plugins
from l2o.io.door import one_line, printable


def tasks() -> None:
    """Each with its arguments and their defaults."""
    grid = Table("task", "what", "arguments (-s name=value)", title="Task families", title_justify="left")
    for name in plugins.names("tasks"):
        module = plugins.get("tasks", name)
        grid.add_row(name, _first_line(module), _arguments(module.family))
    console.print(grid)
    console.print("Your own: `l2o train my_module:family`, where family(key) returns a task.")


def suites() -> None:
    """Each with its panels, and for how many steps these are run."""
    grid = Table("suite", "what", "panels (steps)", title="Suites", title_justify="left")
    for name in plugins.names("suites"):
        module = plugins.get("suites", name)
        panels = "\n".join(f"{title} ({panel.horizon})" for title, panel in module.panels().items())
        grid.add_row(name, _first_line(module), panels)
    console.print(grid)


def optimizers() -> None:
    """Any of these names goes where a command takes an optimizer."""
    grid = Table("optimizer", "what", "arguments", title="Learned architectures", title_justify="left")
    for name in plugins.names("optimizers"):
        module = plugins.get("optimizers", name)
        presets = ", ".join(getattr(module, "PRESETS", {}))
        grid.add_row(name, _first_line(module), f"preset: {presets}; overridden by arguments of its class")
    console.print(grid)
    console.print("Pretrained:", ", ".join(l2o.pretrained.names()))
    console.print("Baselines: ", ", ".join(l2o.baselines.BASELINES), "(optax's defaults; the rate is tuned)")


def pretrained(
    name: Annotated[
        str | None, typer.Argument(help="Show its card: a shipped name, file, folder or user/repo. Default: list all.")
    ] = None,
) -> None:
    """A card says what an optimizer was meta-trained on, how it compares, and under which licence it comes."""
    if name is not None:
        console.print(_Shown(Markdown(l2o.pretrained.describe(name), hyperlinks=False)))
        return
    grid = Table(
        "name", "architecture", "meta-trained on", "licence", title="Pretrained optimizers", title_justify="left"
    )
    for each in l2o.pretrained.names():
        header = l2o.pretrained.header(each)
        told = [header["architecture"], header["recipe"].get("task", ""), header["licence"]]
        grid.add_row(each, *(escape(one_line(text)) for text in told))
    console.print(grid)


class _Shown:
    """Of what Rich makes of a card only what is printable: Markdown can spell out any character, as &#8238;."""

    def __init__(self, card: Markdown):
        self.card = card

    def __rich_console__(self, console, options):
        for segment in console.render(self.card, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def _first_line(module):
    return (module.__doc__ or "").split("\n\n")[0].strip().replace("\n", " ")


def _arguments(function):
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(f"{p.name}={p.default!r}" for p in parameters if p.default is not inspect.Parameter.empty)
