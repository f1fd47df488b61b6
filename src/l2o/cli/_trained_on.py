"""The task family that saved weights say they were meta-trained on.

A header is a stranger's word: the task must be one of this package, by name, its arguments such as the family declares and of a
size that a file may ask for. What the user passes is trusted, and overrides it.
"""

import inspect
import math
import shlex
from typing import Any

import equinox as eqx
import jax

import l2o
from l2o.cli import _common
from l2o.cli._common import console
from l2o.core import plugins
from l2o.io import door
from l2o.io.door import one_line, refused, shown

_LARGEST = 1024  # of a whole number in a file
_LARGEST_FLOAT = 1e6
_MOST_ENTRIES = 16  # of a list in a file
_DEEPEST = 32  # layers: a program grows with them, and the time to make it
_DEPTHS = ("blocks", "num_layers")
_MOST_BYTES = 2**28  # of a task and its params, beside data that all tasks share
_LONGEST = 10_000  # steps of a run


def family_and_settings(weights: str, given: dict[str, Any], horizon: int | None = None):
    """The family, its name, its arguments, and the steps of a run, as the header says; but `given` arguments go before its own.

    **Arguments:** `horizon`: the user's, if any; then the header's may be anything.

    **Raises:** `ValueError` naming the file and what of its header is not to be used, with the options that stand in for it.
    """
    recipe = l2o.pretrained.header(weights)["recipe"]
    if "task" not in recipe:
        raise ValueError(
            f"The header of {weights} does not say what it was meta-trained on. Name a task family: --task quadratic (see "
            "`l2o tasks`), or --task my_module:family."
        )
    task = one_line(recipe["task"])
    if task not in plugins.names("tasks"):
        none = "" if ":" in task else f", which is none of the tasks {', '.join(plugins.names('tasks'))}"
        raise ValueError(
            f"{weights} was trained on {task}{none}; if you trust it, pass `--task {shlex.quote(task)}`: what a file says is "
            "never run."
        )
    parameters = inspect.signature(plugins.get("tasks", task).family, eval_str=True).parameters
    told = recipe.get("task_arguments", {})
    settings = {name: _checked(weights, task, parameters, name, told[name]) for name in told if name not in given}
    settings |= given
    try:
        family, usual = _made(weights, task, settings)
    except FileNotFoundError as error:
        if "data" not in parameters or "data" in given or "data" not in settings:
            raise
        default = parameters["data"].default
        console.print(
            f"The data {settings['data']!r} that {weights} was meta-trained on are not here; {default!r}, which comes with "
            f"the package, stands in. ({str(error).splitlines()[0]})",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
        settings["data"] = default
        family, usual = _made(weights, task, settings)
    if all(isinstance(value, str) for value in given.values()):  # sizes that the user chose are not limited
        _check_bytes(weights, task, settings, family)
    steps = recipe.get("horizon", usual)
    if steps > _LONGEST and not horizon:
        raise refused(weights, "recipe.horizon", f"runs of {steps:,} steps; if that is meant, pass --horizon {steps}")
    return family, task, settings, steps


def _checked(weights, task, parameters, name, value):
    field = f"recipe.task_arguments.{one_line(name)[:100]}"
    if name not in parameters:
        raise refused(weights, field, f"the task {task} takes {', '.join(parameters)}")
    value = door.convert(value, parameters[name].annotation, path=weights, where=field)
    why = _why_not(value, _DEEPEST if name in _DEPTHS else _LARGEST)
    if why:
        raise refused(weights, field, f"{why}; if that is meant, pass `--task {task} --set {name}=...`")
    return tuple(value) if isinstance(value, list) else value


def _why_not(value, largest) -> str | None:
    """What is wrong with an argument that a file gives, if anything."""
    if isinstance(value, list | tuple):
        if len(value) > _MOST_ENTRIES:
            return f"a list of {len(value):,} entries, more than {_MOST_ENTRIES}"
        return next((why for each in value if (why := _why_not(each, largest))), None)
    if isinstance(value, str):  # names of data and styles reach look-ups of files
        return None if door.is_plain_name(value) else f"{shown(value)} is not a plain name"
    if isinstance(value, int) and abs(value) > largest:
        return f"{shown(value)} is larger than the {largest:,} that a file may ask for"
    if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= _LARGEST_FLOAT):
        return f"{value:g} is larger than the {_LARGEST_FLOAT:g} that a file may ask for"
    return None


def _made(weights, task, settings):
    try:
        return _common.find_family(task, settings)
    except FileNotFoundError:
        raise
    except Exception as error:  # families check for mistakes, not for malice: a kernel of 0 may divide by it
        raise _cannot_be_made(weights, task, settings, error) from error


def _cannot_be_made(weights, task, settings, error):
    why = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)
    return ValueError(
        f"The task that {weights} says it was trained on, {title(task, settings)}, cannot be made: {why.rstrip('.')}. Pass the "
        "one that is meant by --task and --set."
    )


def _check_bytes(weights, task, settings, family):
    def with_params():
        made = family(jax.random.key(0))
        return eqx.filter(made, eqx.is_array), made.init(jax.random.key(0))

    try:
        needed = _num_bytes(eqx.filter_eval_shape(with_params)) - _num_bytes(eqx.filter(family, eqx.is_array))
    except Exception as error:
        raise _cannot_be_made(weights, task, settings, error) from error
    if needed > _MOST_BYTES:
        raise _cannot_be_made(
            weights,
            task,
            settings,
            f"a task of {needed:,} bytes, more than the {_MOST_BYTES:,} that a file may ask for",
        )


def _num_bytes(tree):
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def title(task: str, settings: dict[str, Any]) -> str:
    """A task and its arguments in words."""
    return f"{task} ({', '.join(f'{k}={v}' for k, v in settings.items())})" if settings else task
