"""HTML elements from Python values. Any string that is not `Markup` is escaped when it becomes part of one."""

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Markup(str):
    """Text that is HTML already."""


def element(name: str, /, *children: str | None, **attributes: str | bool | None) -> Markup:
    """`<name attributes>children</name>`; `class_` is class, `data_value` data-value, True an attribute without a value."""
    opening = name
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            opening += f" {key}"
        elif value is not None and value is not False:
            opening += f' {key}="{html.escape(value)}"'
    inside = joined(children)
    return Markup(f"<{opening}>" if name in ("img", "meta") else f"<{opening}>{inside}</{name}>")


def joined(children: Iterable[str | None]) -> Markup:
    """One after the other; None is nothing."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c) for c in children if c is not None))


class Cell(NamedTuple):
    """A cell of a table: what is shown, and the number that it is sorted by."""

    text: str
    value: float | None = None  # None: sorted as text
    kind: str | None = None  # class of the element: "won", "lost"


def table(columns: Sequence[str | tuple[str, str]], rows: Sequence[Sequence[Cell | str]], caption: str) -> Markup:
    """A table that sorts by a click on a header, in a box of its own that scrolls sideways.

    A column is its header, or its header and an explanation. The first column names the row; a string is a cell of text.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    headers = []
    for i, column in enumerate(columns):
        label, title = (column, None) if isinstance(column, str) else column
        button = element("button", label, type="button", title=title)
        is_text = any(row[i].value is None for row in cells)
        headers.append(element("th", button, scope="col", aria_sort="none", class_="text" if is_text else None))
    body = [element("tr", *(_cell(cell, first=i == 0) for i, cell in enumerate(row))) for row in cells]
    content = element("table", element("thead", element("tr", *headers)), element("tbody", *body), aria_label=caption)
    # A box that scrolls must be reachable by the keyboard. The caption stays outside: it would scroll away.
    box = element("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return joined([element("p", caption, class_="caption"), box])


def _cell(cell, *, first):
    attributes = {"class_": cell.kind}
    if cell.value is None:
        attributes["class_"] = cell.kind or "text"
    else:
        attributes |= {"data_value": repr(float(cell.value)) if np.isfinite(cell.value) else ""}  # "": last
    return element("th", cell.text, scope="row", **attributes) if first else element("td", cell.text, **attributes)
