"""Arguments checked where they enter, so that a slip is one sentence there and not a traceback from deep inside."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

from l2o.io.door import shown


def count(name: str, value: Any, *, at_least: int = 1) -> int:
    """`value` as an int, if it is a whole number (NumPy's will do, a bool will not) of at least `at_least`.

    **Raises:** `ValueError` that calls it `name`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"`{name}` must be a whole number, got {value!r}.")
    if value < at_least:
        raise ValueError(f"`{name}` must be at least {at_least}, got {value!r}.")
    return int(value)


def counts(**values: Any) -> None:
    """`count` of each that is not None, by name."""
    for name, value in values.items():
        if value is not None:
            count(name, value)


def sizes(name: str, values: Any, *, may_be_empty: bool = False) -> tuple[int, ...]:
    """`values` as a tuple of ints, if it is a sequence of positive whole numbers, and not empty unless it may be.

    **Raises:** `ValueError` that calls it `name`.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"`{name}` must be a sequence of whole numbers, such as (8, 8), got {values!r}.")
    values = tuple(values)
    if not values and not may_be_empty:
        raise ValueError(f"`{name}` must name at least one size, got {values!r}.")
    return tuple(count(f"{name}[{i}]", value) for i, value in enumerate(values))


def positive(name: str, value: Any, *, finite: bool = True) -> float:
    """`value` as a float, if it is a number above 0; unless `finite` is False, infinity is none.

    **Raises:** `ValueError` that calls it `name`.
    """
    number = real(name, value)
    if not number > 0 or (finite and number == math.inf):
        raise ValueError(f"`{name}` must be positive{' and finite' if finite else ''}, got {value!r}.")
    return number


def not_negative(name: str, value: Any) -> float:
    """`value` as a float, if it is a finite number of at least 0.

    **Raises:** `ValueError` that calls it `name`.
    """
    number = real(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"`{name}` must be finite and not negative, got {value!r}.")
    return number


def share(name: str, value: Any, *, zero: bool = True) -> float:
    """`value` as a float, if it is a number from 0 to 1; unless `zero`, 0 is none.

    **Raises:** `ValueError` that calls it `name`.
    """
    number = real(name, value)
    if not 0 <= number <= 1 or (number == 0 and not zero):
        raise ValueError(f"`{name}` must be {'from 0 to 1' if zero else 'above 0 and at most 1'}, got {value!r}.")
    return number


def flags(**values: Any) -> None:
    """Refuses what is neither True nor False.

    **Raises:** `ValueError` that calls it by its name.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"`{name}` must be True or False, got {shown(value)}.")


def kind(name: str, value: Any, kinds: Any, expected: str) -> None:
    """Refuses what is of none of the `kinds`, which are what `isinstance` takes, or the function `callable`.

    **Raises:** `TypeError` that calls it `name`, and says what is `expected` there.
    """
    if not (callable(value) if kinds is callable else isinstance(value, kinds)):
        raise TypeError(f"`{name}` must be {expected}, got {shown(value)}.")


def real(name: str, value: Any) -> float:
    """`value` as a float, if it is one number; whether it is finite is not asked.

    **Raises:** `ValueError` that calls it `name`.
    """
    try:
        if isinstance(value, bool | str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a number, got {value!r}.") from None
