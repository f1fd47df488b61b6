"""What a run was started with, told part by part, so that whoever resumes it with something else hears what differs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from l2o.io.fingerprint import Fingerprints, Unfingerprintable
from l2o.io.source import is_compiled


class Described:
    """All that decides a run, by name, so that it is compared with what another was started with, and what differs is named.

    `parts`: of every thing, or of every field of a module or dataclass that it is, the value in words or a fingerprint; None of
    what has none.
    """

    def __init__(self, things: Mapping[str, Any], prints: Fingerprints | None = None):
        self.parts: dict[str, str | None] = {}
        self._why: list[str] = []
        prints = prints or Fingerprints()
        for name, thing in things.items():
            self._add(name, thing, prints)

    def _add(self, name, thing, prints):
        if (words := _words(thing)) is not None:
            self.parts[name] = words
            return
        if isinstance(thing, tuple | list | dict) and any(map(dataclasses.is_dataclass, _items(thing).values())):
            self.parts[name] = f"{type(thing).__name__} of {len(thing)}"
            for key, item in _items(thing).items():
                self._add(f"{name}[{key!r}]", item, prints)
            return
        fields = () if isinstance(thing, type) or is_compiled(thing) else getattr(thing, "__dataclass_fields__", ())
        try:
            told = prints.of(type(thing) if fields else thing, name)[:16]
        except Unfingerprintable as error:
            self.parts[name] = None
            self._why.append(str(error))
            return
        kind = getattr(thing, "__name__", None) or type(thing).__name__
        self.parts[name] = f"{kind} {told}"
        for field in fields:
            if hasattr(thing, field):
                self._add(f"{name}.{field}", getattr(thing, field), prints)

    def check(self, recorded: Mapping[str, str | None], whose: str) -> None:
        """Compares with the `parts` that were recorded.

        **Raises:** `ValueError` naming what differs, or what cannot be compared.
        """
        mine = self.parts
        differing = [name for name in {**recorded, **mine} if recorded.get(name) != mine.get(name)]
        # Of a module that is another altogether its fields say nothing more.
        above = {name for name in differing if any(name.startswith((f"{other}.", f"{other}[")) for other in differing)}
        if told := [
            f"{n} is {_short(recorded.get(n))} there, {_short(mine.get(n))} here" for n in differing if n not in above
        ]:
            raise ValueError(
                f"{whose} was started with other settings: {'; '.join(told[:6])}. Resume with the same, or choose another folder."
            )
        if self._why:
            raise ValueError(
                f"{whose} cannot be resumed, as what was recorded cannot be compared with what it is resumed with: "
                f"{' '.join(self._why[:3])} Make it an `equinox.Module`, whose fields can be compared, or choose another folder."
            )


def _items(thing) -> dict[Any, Any]:
    return thing if isinstance(thing, dict) else dict(enumerate(thing))


def _words(thing) -> str | None:
    """A value that can be read, where it is a short one."""
    if isinstance(thing, bool | int | float | str | None):
        return words if len(words := repr(thing)) < 80 else None
    if not isinstance(thing, jax.Array | np.ndarray) or isinstance(thing, jax.core.Tracer) or thing.size > 4:
        return None
    if isinstance(thing, jax.Array) and jnp.issubdtype(thing.dtype, jax.dtypes.prng_key):
        return f"{jax.random.key_impl(thing)} {np.asarray(jax.random.key_data(thing)).tolist()}"
    return f"{thing.dtype} {np.asarray(thing).tolist()}"


def _short(words: str | None, most: int = 100) -> str:
    words = "nothing" if words is None else "".join(c if c.isprintable() else "?" for c in words)
    return words if len(words) <= most else f"{words[:most]}..."
