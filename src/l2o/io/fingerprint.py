"""A fingerprint of whatever decides a result: arrays, settings, and the code and constants of functions.

Records are taken up again only where the fingerprints agree, so two things that act differently must not share one, and one
thing must have the same in every process: no addresses, no order of sets, nothing that depends on the time. What a thing is made
of says `l2o.io.parts`; here all that it leads to is walked through, cycles too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from l2o.io.digest import InAnyOrder, Part, digest
from l2o.io.digest import Unfingerprintable as Unfingerprintable
from l2o.io.parts import part_of, parts_of


def fingerprint(thing: Any, name: str = "it") -> str:
    """Sixteen bytes in hexadecimal that are the same for things that act alike, in any process.

    Arrays count by their values; classes, and functions of installed packages, by their names and by what they closed over;
    functions that you wrote by their compiled code, what they closed over, their defaults, and the globals that they use. The
    compiled code is that of one version of Python.

    **Raises:** `Unfingerprintable`, with the way from `name` to what has no fingerprint: an open file, a generator, an object
    that keeps its state outside of Python's attributes.
    """
    return Fingerprints().of(thing, name)


class Fingerprints:
    """Fingerprints of several things that share parts, such as a data set: these are looked at once."""

    def __init__(self):
        self._done: dict[int, tuple[Any, bytes]] = {}  # the thing is kept, lest another get its address
        self._stack: list[tuple[Any, list]] = []  # what is being looked at, with its parts
        self._places: dict[int, int] = {}  # on the stack

    def of(self, thing: Any, name: str = "it") -> str:
        """As `fingerprint`."""
        try:
            part = part_of(thing, name)
            if isinstance(part, Part) and id(thing) not in self._done:
                self._visit(part)
            return self._digest(part, {})[:16].hex()
        finally:  # after an error too
            self._stack.clear()
            self._places.clear()

    def _visit(self, part: Part) -> int:
        """Digests all that it leads to; returns how far up the stack that goes (Tarjan 1972).

        Things that hold each other, such as functions that call each other, are digested together, so that none depends on
        which of them was met first.
        """
        place = highest = len(self._stack)
        parts = [*parts_of(*part)]
        self._stack.append((part.thing, parts))
        self._places[id(part.thing)] = place
        for child in _inside(parts):
            if (address := id(child.thing)) not in self._done:
                highest = min(highest, self._places[address] if address in self._places else self._visit(child))
        if highest == place:
            component = self._stack[place:]
            del self._stack[place:]
            for thing, _ in component:
                del self._places[id(thing)]
            self._settle(component)
        return highest

    def _settle(self, component: list[tuple[Any, list]]) -> None:
        """Tells apart what holds each other, by what they hold, and by what that holds, until no more of them differ."""
        digests = {id(thing): b"" for thing, _ in component}
        kinds = 1
        while True:
            digests = {
                id(thing): digest(*(self._digest(part, digests) for part in parts)) for thing, parts in component
            }
            if (found := len(set(digests.values()))) == kinds:
                break
            kinds = found
        self._done |= {id(thing): (thing, digests[id(thing)]) for thing, _ in component}

    def _digest(self, part, open_: Mapping[int, bytes]) -> bytes:
        if isinstance(part, Part):
            return open_[id(part.thing)] if id(part.thing) in open_ else self._done[id(part.thing)][1]
        if isinstance(part, InAnyOrder):
            return digest(*sorted(digest(*(self._digest(one, open_) for one in item)) for item in part.items))
        return part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part


def _inside(parts) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, Part):
            yield part
        elif isinstance(part, InAnyOrder):
            for item in part.items:
                yield from _inside(item)
