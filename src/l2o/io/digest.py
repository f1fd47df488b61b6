"""The words of a fingerprint: a thing's parts, and the digest of what they say. Needs no JAX."""

import hashlib
from typing import Any, NamedTuple


class Unfingerprintable(ValueError):
    """Says which part of a thing cannot be told from another of its kind."""


class Part(NamedTuple):
    """What is to be looked at, and the way there, for messages."""

    thing: Any
    path: str


class InAnyOrder(NamedTuple):
    """Parts whose order says nothing, as in a set."""

    items: list[tuple]  # of parts


def digest(*parts: str | bytes) -> bytes:
    """Of several words, so that no two lists of words share one."""
    found = hashlib.sha256()
    for part in parts:
        part = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()
