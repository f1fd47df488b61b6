"""Functions as pytrees of the arrays that they close over.

JAX takes a function for a constant, with all that it has captured. A function made inside `vmap` or `jit` has captured tracers,
and is of no use outside. Here it is taken apart, into the arrays and the rest, and put together again from other arrays.
"""

import functools
import types
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


class Closure(eqx.Module):
    """A callable whose leaves are the arrays found in its closure, its defaults, and the functions and pytrees there.

    Two of the same code are of one structure, so programs compiled for one are good for the other. NumPy arrays stay the
    constants that they are: code may use them where JAX wants concrete numbers. Objects that are neither functions nor pytrees
    are used as they are, unless tracers are among what they hold: then a copy is, with what was found in its place.
    """

    stands_for_its_function: ClassVar[bool] = True  # to a fingerprint

    arrays: tuple[Array, ...]
    rest: "_Rest" = eqx.field(static=True)

    def __init__(self, function: Callable[..., Any]):
        found = _Found()
        root = found.tree(function)
        self.arrays = tuple(found.arrays)
        self.rest = _Rest(root, tuple(found.nodes))

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function."""
        return _together(self.arrays, self.rest)

    def __repr__(self):
        function = self.__wrapped__
        return f"Closure({getattr(function, '__qualname__', type(function).__name__)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


class _Array(NamedTuple):
    """The place of an array, by its number."""

    number: int


class _Node(NamedTuple):
    """The place of a function, by its number: one may occur several times, also within itself."""

    number: int


class _Same:
    """An object that is used as it is: equal if `key` is."""

    def __init__(self, value, key):
        self.value, self.key = value, key

    def __eq__(self, other):
        return isinstance(other, _Same) and self.key == other.key

    def __hash__(self):
        return hash(self.key)


class _Opaque(NamedTuple):
    """What JAX cannot flatten."""

    value: Any


class _Tree(NamedTuple):
    leaves: tuple[Any, ...]  # an _Array, _Node or _Same each
    treedef: Any
    original: _Same  # returned itself where it holds neither arrays nor functions: it may be a list that is appended to


class _Function(NamedTuple):
    code: types.CodeType
    scope: _Same  # its globals
    name: str
    cells: tuple[_Tree | None, ...]  # None: empty
    defaults: _Tree
    keywords: _Tree
    attributes: _Same  # set on the function


class _Partial(NamedTuple):
    function: Any
    arguments: _Tree


class _Method(NamedTuple):
    function: Any
    owner: _Tree


class _Object(NamedTuple):
    original: _Same
    attributes: _Tree


class _Rest(NamedTuple):
    """A function without its arrays."""

    root: _Tree
    nodes: tuple[_Function | _Partial | _Method | _Object, ...]


_OPENED = (types.FunctionType, types.MethodType, functools.partial)
_FILTER_JITTED: type = type(eqx.filter_jit(lambda: None))
_JITTED: tuple[type, ...] = type(jax.jit(lambda: None)), _FILTER_JITTED
_PLAIN = (bool, int, complex, str, bytes, type(None), type, np.dtype)


class _Found:
    """Arrays and functions, in the order in which they are found."""

    def __init__(self):
        self.arrays, self.nodes, self.numbers = [], [], {}

    def tree(self, value) -> _Tree:
        # `jax.tree_util.Partial` is a pytree, but its function is none of its leaves.
        try:
            if _holds_itself(value):  # where JAX fails in ways that depend on how deep the stack is
                raise ValueError
            leaves, treedef = jax.tree.flatten(
                value, is_leaf=lambda x: isinstance(x, (functools.partial, _FILTER_JITTED))
            )
        except (
            ValueError,
            TypeError,
            RecursionError,
        ):  # no pytree: keys that have no order, or a list that holds itself
            leaves, treedef = [_Opaque(value)], jax.tree.structure(0)
        return _Tree(tuple(map(self.leaf, leaves)), treedef, _Same(value, None))

    def leaf(self, value):
        if isinstance(value, jax.Array):  # a tracer, too
            self.arrays.append(value)
            return _Array(len(self.arrays) - 1)
        inner = getattr(value, "__wrapped__", None) if isinstance(value, _JITTED) else None
        if isinstance(inner, _OPENED):
            value = inner  # compiled as part of whatever it is called in
        if isinstance(value, _Opaque):
            return _Same(value.value, (_Opaque, id(value.value)))
        if not isinstance(value, _OPENED) and not (_is_its_dict(value) and _holds_tracers(value)):
            return _Same(value, _comparable(value))
        if any(map(_is_empty, getattr(value, "__closure__", None) or ())):  # a name that is bound later: as it is
            return _Same(value, (type(value), id(value)))
        if id(value) not in self.numbers:
            self.numbers[id(value)] = number = len(self.nodes)
            self.nodes.append(value)  # known before it is opened: it may call itself
            self.nodes[number] = self.opened(value)
        return _Node(self.numbers[id(value)])

    def opened(self, value):
        if isinstance(value, functools.partial):
            return _Partial(self.leaf(value.func), self.tree((value.args, dict(value.keywords))))
        if isinstance(value, types.MethodType):
            return _Method(self.leaf(value.__func__), self.tree(value.__self__))
        if not isinstance(value, types.FunctionType):
            return _Object(_Same(value, id(value)), self.tree(dict(vars(value))))
        cells = tuple(None if _is_empty(cell) else self.tree(cell.cell_contents) for cell in value.__closure__ or ())
        scope = _Same(value.__globals__, id(value.__globals__))
        defaults, keywords = self.tree(value.__defaults__), self.tree(value.__kwdefaults__)
        attributes = _Same(value.__dict__, id(value) if value.__dict__ else None)
        return _Function(value.__code__, scope, value.__name__, cells, defaults, keywords, attributes)


def _together(arrays, rest):
    """The function, with `arrays` where its own were."""
    made: dict[int, Any] = {}

    def tree(parts):
        if all(isinstance(x, _Same) for x in parts.leaves):
            return parts.original.value
        return jax.tree.unflatten(parts.treedef, [leaf(x) for x in parts.leaves])

    def leaf(place):
        if isinstance(place, _Array):
            return arrays[place.number]
        return node(place.number) if isinstance(place, _Node) else place.value

    def node(number):
        parts = rest.nodes[number]
        if number in made:
            pass
        elif isinstance(parts, _Partial):
            args, keywords = tree(parts.arguments)
            made[number] = functools.partial(leaf(parts.function), *args, **keywords)
        elif isinstance(parts, _Method):
            made[number] = types.MethodType(leaf(parts.function), tree(parts.owner))
        elif isinstance(parts, _Object):
            made[number] = copied = object.__new__(type(parts.original.value))
            copied.__dict__.update(tree(parts.attributes))
        else:
            cells = tuple(types.CellType() for _ in parts.cells)
            made[number] = function = types.FunctionType(parts.code, parts.scope.value, parts.name, None, cells)
            for cell, content in zip(cells, parts.cells, strict=True):
                if content is not None:
                    cell.cell_contents = tree(content)
            function.__defaults__, function.__kwdefaults__ = tree(parts.defaults), tree(parts.keywords)
            function.__dict__.update(parts.attributes.value)
        return made[number]

    return tree(rest.root)


def _holds_itself(value, around=()):
    """Whether a list, tuple or dict is among what it holds, or holds such."""
    if not isinstance(value, list | tuple | dict):
        return False
    if any(value is one for one in around):
        return True
    held = value.values() if isinstance(value, dict) else value
    return any(_holds_itself(one, (*around, value)) for one in held)


def _holds_tracers(value):
    """Whether a tracer can be reached from an object: by attributes, containers, and what functions close over."""
    waiting, seen = [value], {}
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tracer):
            return True
        if id(one) not in seen:
            seen[id(one)] = one  # held, as its id is to stay its own
            waiting.extend(_held_by(one))
    return False


def _held_by(value):
    if isinstance(value, list | tuple | set):
        return value
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, type | types.ModuleType):
        return ()
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, _JITTED):
        return (value.__wrapped__,)
    held = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        held += [*cells, value.__defaults__, value.__kwdefaults__]
    return held


def _is_its_dict(value):
    """Whether an object is all in its `__dict__`, so that it can be made again from that."""
    if isinstance(value, type | types.ModuleType) or not hasattr(value, "__dict__"):
        return False
    if any(getattr(c, "__slots__", ()) for c in type(value).__mro__):
        return False
    try:
        return isinstance(object.__new__(type(value)), object)
    except TypeError:  # of a type that is written in C
        return False


def _is_empty(cell):
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _comparable(value):
    """What stands for an object in comparisons. 1, 1.0 and True are three, and 0.0 and -0.0 are two."""
    if isinstance(value, float):
        return type(value), value.hex()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return np.ndarray, value.shape, value.dtype.str, value.tobytes()
    # Only of these is it known that equal ones do the same; others may say of themselves what they like.
    return (type(value), value) if isinstance(value, _PLAIN) else (type(value), id(value))
