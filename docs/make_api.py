"""Writes docs/api.md from the docstrings: python docs/make_api.py"""

import inspect
from pathlib import Path

import l2o
from l2o import _plugins, comparison, report
from l2o.imitation import Imitation

PAGE = Path(__file__).parent / "api.md"


def page() -> str:
    """Every public name with the first line of its docstring; a name without one is an error."""
    lines = ["# Public names", "", "`help(l2o.NAME)` gives the whole text. Written by docs/make_api.py.", ""]
    lines += ["| name | what |", "|---|---|"]
    for name in sorted(l2o.__all__):
        lines.append(f"| `l2o.{name}` | {summary(f'l2o.{name}', getattr(l2o, name))} |")
    for kind, member in (("tasks", "family"), ("architectures", "build"), ("estimators", "build")):
        for name in _plugins.names(kind):
            found = getattr(_plugins.get(kind, name), member)
            lines.append(f"| `l2o.{kind}.{name}.{member}` | {summary(f'{kind}.{name}', found)} |")
    for found in (
        comparison.compare,
        comparison.rows,
        comparison.ratio_to_best,
        report.table,
        report.figure,
        Imitation,
    ):
        name = f"{found.__module__}.{found.__name__}"
        lines.append(f"| `{name}` | {summary(name, found)} |")
    return "\n".join(lines) + "\n"


def summary(name, thing) -> str:
    """First line of a docstring."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)):
        return "A type alias."
    doc = inspect.getdoc(thing)
    if not doc:
        raise ValueError(f"{name} has no docstring.")
    return doc.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
