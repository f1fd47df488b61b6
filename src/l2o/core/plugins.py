"""Tasks, update rules, estimators and suites by name: the public modules of their room, and what other packages register.

Another package registers under the entry points `l2o.tasks`, `l2o.optimizers`, `l2o.estimators` and `l2o.suites`, each a name
and a module with the same function as ours have (`KINDS`).
"""

import importlib.util
import pkgutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What can be found by a name."""

    room: str  # the package whose public modules are of this kind
    member: str  # what such a module has
    title: str
    others: tuple[str, ...] = ()  # public modules of the room that are no such thing


KINDS = {
    "tasks": Kind("l2o.tasks", "family", "Tasks", ("transforms",)),
    "optimizers": Kind("l2o.optimizers", "build", "Optimizers", ("baselines", "pretrained", "states", "wrappers")),
    "estimators": Kind("l2o.meta.estimators", "build", "Estimators", ("mixture",)),
    "suites": Kind("l2o.evaluation.suites", "panels", "Suites"),
}


def names(kind: str) -> list[str]:
    """Names of all that is of a kind: "tasks", "optimizers", "estimators" or "suites"."""
    room, _, _, others = KINDS[kind]
    package = importlib.import_module(room)
    ours = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")} - set(others)
    return sorted(ours | {point.name for point in entry_points(group=f"l2o.{kind}")})


def get(kind: str, name: str) -> ModuleType:
    """The module of that name. Ours come before those of other packages.

    **Raises:** `ValueError` saying which there are.
    """
    room, member, title, _ = KINDS[kind]
    known = names(kind)
    if name not in known:
        raise ValueError(
            f"No {title[:-1].lower()} named {name!r}. {title}: {', '.join(known)}; or pass module:attribute."
        )
    if importlib.util.find_spec(f"{room}.{name}") is not None:
        return importlib.import_module(f"{room}.{name}")
    (point, *_) = entry_points(group=f"l2o.{kind}", name=name)
    module = point.load()
    if not hasattr(module, member):
        raise ValueError(f"{title[:-1]} {name!r}, registered by another package as {point.value!r}, has no `{member}`.")
    return module


def user_attribute(reference: str) -> Any:
    """The object at `module:attribute`, of a module that can be imported or lies in the current folder.

    **Raises:** `ValueError` if there is none.
    """
    module_name, _, attribute = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ValueError(f"No module named {module_name!r} (from {reference!r}), here or installed.") from error
    except AttributeError as error:
        raise ValueError(f"Module {module_name!r} has no attribute {attribute!r}.") from error
