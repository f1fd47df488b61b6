"""Tasks, architectures, estimators and suites found by their module's name: a public module in their package is one."""

import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def names(kind: str) -> list[str]:
    """Names of the public modules of `l2o.<kind>`: "tasks", "architectures", "estimators" or "suites"."""
    package = importlib.import_module(f"l2o.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def get(kind: str, name: str) -> ModuleType:
    """The module of that name.

    **Raises:** `ValueError` saying which there are.
    """
    known = names(kind)
    if name not in known:
        labels = {"tasks": "Tasks", "architectures": "Optimizers", "estimators": "Estimators", "suites": "Suites"}
        label = labels[kind]
        raise ValueError(
            f"No {label[:-1].lower()} named {name!r}. {label}: {', '.join(known)}; or pass module:attribute."
        )
    return importlib.import_module(f"l2o.{kind}.{name}")


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
