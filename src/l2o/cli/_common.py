"""What commands share: arguments, tasks and optimizers by name, progress bars."""

import contextlib
import inspect
import json
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from l2o.core import plugins
from l2o.io import door
from l2o.io.files import check_writable, write_whole

Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Argument of the task's family, as name=value (JSON values), e.g. -s dim=20."),
]
TaskName = Annotated[str, typer.Argument(help="A task (see `l2o tasks`), or your own as my_module:family.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Cores = Annotated[int | None, typer.Option(help="CPU cores to use, one program on each. Default: all.")]

# What is printed is text: "[" and ":name:" in a name or a path are no markup.
console = Console(highlight=False, markup=False, emoji=False)


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """{"dim": 20} from ["dim=20"]; values are JSON, or else strings.

    **Raises:** `ValueError` for a setting without "=".
    """
    parsed = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"Settings are name=value, got {setting!r}.")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
        if isinstance(parsed[name], list):
            parsed[name] = tuple(parsed[name])
    return parsed


def find_family(task: str, settings: dict[str, Any]) -> tuple[Any, int]:
    """The family named by a task or module:attribute, and its usual horizon."""
    if ":" in task:
        found = plugins.user_attribute(task)
        family = _call(found, settings, task) if settings else found
        if not callable(family) or inspect.isbuiltin(family):
            raise ValueError(
                f"{task} is not a task family, which is a function from a PRNG key to a task (`l2o.AbstractTask`), but "
                f"{door.shown(family)}."
            )
        return family, 100
    module = plugins.get("tasks", task)
    return _call(module.family, settings, task), module.HORIZON


def build_optimizer(name: str, key, settings: dict[str, Any]):
    """A fresh optimizer of the architecture of that name, or of the user's module:attribute."""
    build = plugins.user_attribute(name) if ":" in name else plugins.get("optimizers", name).build
    return _call(lambda **s: build(key, **s), settings, name)


def _call(function, settings, name):
    try:
        return function(**settings)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise ValueError(f"{name}: {str(error).split(') ')[-1].split('() ')[-1]}. See `l2o tasks`.") from error
        if settings:
            raise ValueError(
                f"{name} cannot be made with {settings}: {error}. Several numbers are written as in channels=[16,16]."
            ) from error
        raise


def start_folder(folder: Path, config: dict[str, Any]) -> None:
    """Makes the folder and writes config.json: what was asked for, the versions and the command."""
    check_writable(folder)
    packages = ("l2o", "jax", "equinox", "optax")
    config = {
        **{k: str(v) if isinstance(v, Path) else v for k, v in config.items()},
        "versions": {"python": sys.version.split()[0], **{p: version(p) for p in packages}},
        "command": shlex.join(["l2o", *sys.argv[1:]]),
    }
    write_whole(folder / "config.json", json.dumps(config, indent=2).encode())


def once(function: Callable[[], None]) -> Callable[[], None]:
    """Runs a function at the first call only, whichever thread that comes from."""
    lock, called = threading.Lock(), []

    def first():
        with lock:
            if not called:
                function()
                called.append(True)

    return first


def shell(*words: Any) -> str:
    """A command that can be copied into a shell, whatever the names in it."""
    return shlex.join(map(str, words))


@contextlib.contextmanager
def bar(total: int, label: str) -> Iterator[Callable[[str], None]]:
    """A progress bar; call what it yields with a word on each thing done."""
    with Progress(
        TextColumn(label),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        console=console,
    ) as shown:
        task = shown.add_task(label, total=total, status="compiling")
        yield lambda status: shown.update(task, advance=1, status=status)


def progress(total: int, label: str) -> tuple[Progress, Any]:
    """A progress bar, and the `on_step` callback for `meta_train` that moves it: loss, rate and time left."""
    bar = Progress(
        TextColumn(label),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
    )
    task = bar.add_task(label, total=total, status="compiling")
    last = {}

    def on_step(row):
        last.update(row)
        speed = bar.tasks[0].speed
        status = f"meta-loss {last['meta_loss']:.3g}"
        if "validation_loss" in last:
            status += f" val {last['validation_loss']:.4g}"
        if speed:
            status += f" {speed:.1f}/s"
        if last["num_skipped"] or last["num_diverged"]:
            status += f"  skipped {last['num_skipped']}  diverged {last['num_diverged']}"
        bar.update(task, completed=row["step"], status=status)

    return bar, on_step


def stages() -> tuple[Progress, Any]:
    """A progress bar of the time that is left, and the `on_progress` callback for `design` that moves it."""
    bar = Progress(
        BarColumn(bar_width=12),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[status]}", markup=False),
        console=console,
    )
    task = bar.add_task("starting", total=1.0, left="", status="")

    def on_progress(now):
        status = f"best: {now.best}" if now.best else ""
        if now.ratio == now.ratio:  # not NaN
            status = f"{now.ratio:.2g} of the best baseline"
        left = f"{now.seconds_left / 60:.1f} min left"
        bar.update(task, completed=now.share, left=left, description=now.stage, status=status)

    return bar, on_progress
