"""Numbers as people read them."""

import math
from typing import SupportsFloat

import numpy as np


def number(value: SupportsFloat | None, digits: int = 3) -> str:
    """At most `digits` significant digits, powers of ten only where zeros would be counted: 0.0123, 1,230, 1.23e-7, ∞."""
    if value is None:
        return "–"
    value = float(value)
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -4 <= int(exponent) < 6:
        text = f"{round(value, digits - 1 - int(exponent)):,.{max(0, digits - 1 - int(exponent))}f}"
        return _without_zeros(text)
    return f"{_without_zeros(mantissa)}e{int(exponent)}"


def _without_zeros(text):
    return text.rstrip("0").rstrip(".") if "." in text else text


def interval(bounds: tuple[float, float] | None, digits: int = 3) -> str:
    """`[low, high]`, or nothing where there is none: a single run, or one that diverged."""
    if bounds is None or np.isnan(bounds).any():
        return ""
    return f"[{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def estimate(value: float, low: float, high: float, digits: int = 3) -> str:
    """The value, and its interval where there is one."""
    return f"{number(value, digits)} {interval((low, high), digits)}".rstrip()


def duration(seconds: float | int) -> str:
    """In the unit that suits it."""
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < 100 * size:
            return f"{number(seconds / size, 2)} {unit}"
    return f"{number(seconds / 86400, 2)} days"


def memory(num_bytes: float | int) -> str:
    """In bytes, kB, MB or GB."""
    for size, unit in ((1, "B"), (1e3, "kB"), (1e6, "MB")):
        if num_bytes < 1000 * size:
            return f"{number(num_bytes / size)} {unit}" if size > 1 else f"{num_bytes:.0f} B"
    return f"{number(num_bytes / 1e9)} GB"


def solves(count: float) -> str:
    """How many problems have to be solved: whole ones, or never; n/a if it is not known what meta-training took."""
    if math.isnan(count):
        return "n/a"
    if math.isinf(count):
        return "never"
    count = math.ceil(count)
    return f"{count:,}" if count < 1_000_000 else number(count)


def count(num: int, noun: str) -> str:
    """With its noun: 1 panel, 2 panels."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def listed(items: list[str], most: int = 4) -> str:
    """As in a, b and c; of more than `most`, how many more."""
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} more"]
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
