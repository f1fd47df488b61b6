"""The commands by name. A command's module, where its options and the rest of its help stand, is imported when it is called.

So that `l2o --help` answers at once, nothing here imports JAX, nor anything that does.
"""

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator
from typing import Any

import typer
import typer.core
import typer.main

from l2o.io.extras import extra

# Name: the module, whose function of that name is the command, and the first line of its help.
COMMANDS = {
    "design": ("_design", "Design an optimizer for a task family: tune, search, race, report."),
    "train": ("_train", "Meta-train an optimizer on a task family."),
    "compare": ("_compare", "Compare optimizers on the same fresh tasks of a task or a whole suite."),
    "explain": ("_explain", "Say what learned weights amount to."),
    "report": ("_report", "Write the report of a comparison: a page that opens offline, a summary, figures, tables."),
    "stylize": ("_stylize", "Paint one picture in the style of another: neural art, for any two image files."),
    "quickstart": ("_quickstart", "Design an optimizer, meta-train another, and compare both with tuned ones."),
    "tasks": ("_listings", "List the task families."),
    "suites": ("_listings", "List the suites of task families."),
    "optimizers": ("_listings", "List the learned architectures, the pretrained optimizers and the baselines."),
    "pretrained": ("_listings", "List the optimizers that ship with the package, or show one's card."),
}


def command(name: str):
    """The command of that name, its module imported."""
    module, summary = COMMANDS[name]
    with extra("cli", f"`l2o {name}`"):
        function = getattr(importlib.import_module(f"l2o.cli.{module}"), name)
    alone = typer.Typer(add_completion=False)
    alone.command(name, help=f"{summary}\n\n{function.__doc__}")(function)
    return typer.main.get_command(alone)


class _Listed(typer.core.TyperCommand):
    """A command's line in `l2o --help`, which becomes the command when it is called."""

    def make_context(self, *arguments: Any, **options: Any):
        return command(str(self.name)).make_context(*arguments, **options)


class _Commands(typer.core.TyperGroup):
    def __init__(self, **options: Any):
        super().__init__(**options)
        for name, (_, summary) in COMMANDS.items():
            self.add_command(_Listed(name, help=summary))

    def list_commands(self, ctx):
        return list(COMMANDS)

    def invoke(self, ctx):
        with _mistakes_in_one_line():
            return super().invoke(ctx)


app = typer.Typer(
    name="l2o",
    help="Meta-train optimizers on the problems you care about, and see whether they beat a tuned Adam.",
    cls=_Commands,
    callback=lambda: None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextlib.contextmanager
def _mistakes_in_one_line() -> Iterator[None]:
    """A mistake in a command's input is one line on stderr, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a path may hold bytes that are no text: they come out as they went in
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        from l2o.io.door import printable

        typer.secho(f"error: {printable(str(error))}", fg="red", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interrupt:
        typer.secho("\n".join(["Interrupted.", *getattr(interrupt, "__notes__", [])]), err=True)
        raise typer.Exit(130) from interrupt
