"""A fingerprint of whatever decides a result: arrays, settings, and the code and constants of functions.

Records are taken up again only where the fingerprints agree, so two things that act differently must not share one, and one
thing must have the same in every process: no addresses, no order of sets, nothing that depends on the time.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.util
import inspect
import logging
import os
import pathlib
import re
import sys
import sysconfig
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from l2o._closures import Closure


class Unfingerprintable(ValueError):
    """Says which part of a thing cannot be told from another of its kind."""


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
        self._open: dict[int, int] = {}  # what is being looked at, and how deep it lies
        self._lowest = sys.maxsize  # how far up something points that is still open

    def of(self, thing: Any, name: str = "it") -> str:
        """As `fingerprint`."""
        try:
            return self._digest(thing, name)[:16].hex()
        finally:  # after an error too
            self._open.clear()
            self._lowest = sys.maxsize

    def _digest(self, thing, path) -> bytes:
        simple = _simple(thing)
        if simple is not None:
            return _hash(*simple)
        address, depth = id(thing), len(self._open)
        if address in self._done:
            return self._done[address][1]
        if address in self._open:  # it holds itself, as a recursive function does
            self._lowest = min(self._lowest, self._open[address])
            return _hash("again", str(depth - self._open[address]))
        above, self._lowest, self._open[address] = self._lowest, sys.maxsize, depth
        digest = _hash(*self._parts(thing, path))
        del self._open[address]
        if self._lowest >= depth:  # nothing in it points to what lies above: it is the same wherever it is met
            self._done[address] = (thing, digest)
            self._lowest = above
        else:
            self._lowest = min(self._lowest, above)
        return digest

    def _parts(self, thing, path) -> Iterator[str | bytes]:
        """What makes up a thing: words, and digests of its parts."""
        if isinstance(thing, jax.Array | np.ndarray | np.generic):
            yield from self._array(thing, path)
        elif isinstance(thing, types.FunctionType):
            yield from self._function(thing, path)
        elif name := _importable(thing):
            yield from ("named", *name)
        elif isinstance(thing, type):
            yield from self._class(thing, path)
        elif isinstance(thing, types.CodeType):
            yield from self._code(thing, path)
        elif isinstance(thing, types.ModuleType):
            yield from ("module", thing.__name__)
        elif isinstance(thing, types.MethodType):
            yield "method"
            yield self._digest(thing.__func__, path)
            yield self._digest(thing.__self__, f"{path}.__self__")
        elif isinstance(thing, types.CellType):
            yield "cell"
            if thing != types.CellType():  # a name that was not bound yet
                yield self._digest(thing.cell_contents, path)
        elif isinstance(thing, staticmethod | classmethod):
            yield type(thing).__name__
            yield self._digest(thing.__func__, path)
        elif isinstance(thing, property):
            yield "property"
            yield self._digest(thing.fget, path)
        elif isinstance(thing, functools.partial):
            yield from ("partial", type(thing).__name__)
            for part in ("func", "args", "keywords"):
                yield self._digest(getattr(thing, part), f"{path}.{part}")
        elif isinstance(thing, tuple | list):
            yield from self._sequence(thing, path)
        elif isinstance(thing, Mapping):
            yield from self._mapping(thing, path)
        elif isinstance(thing, set | frozenset):
            yield "set"
            yield from sorted(self._digest(item, f"{path}{{...}}") for item in thing)
        elif isinstance(thing, jax.custom_vjp | jax.custom_jvp):
            yield type(thing).__name__
            for part in ("fun", "jvp", "fwd", "bwd", "nondiff_argnums"):
                yield self._digest(getattr(thing, part, None), f"{path}.{part}")
        elif isinstance(thing, jax.tree_util.PyTreeDef):
            yield "treedef"
            yield self._digest(thing.node_data(), path)
            yield from (self._digest(child, path) for child in thing.children())
        elif type(thing).__module__.startswith("torch") and hasattr(thing, "detach"):
            yield from ("tensor", str(thing.dtype), str(tuple(thing.shape)), str(thing.requires_grad))
            yield self._digest(np.asarray(thing.detach().cpu().resolve_conj().resolve_neg().tolist()), path)
        elif type(thing).__module__ == "torch" and type(thing).__name__ in ("dtype", "device", "Size"):
            yield repr(thing)
        elif isinstance(thing, types.BuiltinFunctionType):
            yield from ("builtin", thing.__qualname__)
            yield self._digest(thing.__self__, path)
        elif isinstance(thing, Closure):
            yield "closure"
            yield self._digest(thing.__wrapped__, path)
        elif _is_compiled(thing):
            yield "compiled"
            yield self._digest(thing.__wrapped__, path)
        else:
            yield from self._object(thing, path)

    def _array(self, array, path):
        if isinstance(array, jax.core.Tracer):
            raise Unfingerprintable(f"{path} is being traced by JAX and has no value yet.")
        if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            yield from ("key", str(jax.random.key_impl(array)))
            yield self._digest(jax.random.key_data(array), path)
            return
        values = np.asarray(array)
        yield from ("array", str(values.dtype), str(values.shape))
        yield "weak" if getattr(array, "weak_type", False) else ""
        if values.dtype.hasobject:
            yield self._digest(values.ravel().tolist(), path)
        else:
            yield hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).digest()

    def _sequence(self, items, path):
        yield from ("list",) if isinstance(items, list) else ("tuple",)
        fields = getattr(items, "_fields", None)
        if type(items) not in (tuple, list):
            yield self._digest(type(items), path)
        for i, item in enumerate(items):
            yield self._digest(item, f"{path}.{fields[i]}" if fields else f"{path}[{i}]")

    def _mapping(self, items, path):
        yield "mapping"
        if type(items) not in (dict, types.MappingProxyType):
            yield self._digest(type(items), path)
        pairs = [
            (self._digest(key, f"a key of {path}"), self._digest(value, f"{path}[{key!r}]"))
            for key, value in items.items()
        ]
        for pair in pairs if type(items).__name__ == "OrderedDict" else sorted(pairs):
            yield from pair

    def _function(self, function, path):
        code = function.__code__
        if _checks_types(code):  # beartype's and jaxtyping's wrappers, in tests: what they wrap decides
            yield self._digest(function.__wrapped__, path)
            return
        name = getattr(function, "__name__", "")
        inside = f"{path}.{name}"
        if _is_installed(code.co_filename, function.__globals__.get("__name__")):
            module = function.__globals__.get("__name__") or ""
            yield from ("function", module, code.co_qualname)
            if _lookup(module, code.co_qualname) is function:
                return
            if code.co_name == "<lambda>":
                yield self._digest(code, inside)
        else:
            yield "code"
            yield self._digest(code, inside)
            yield from self._globals(function, code, inside)
        for cell_name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            yield self._digest(cell, f"{inside}.{cell_name}")
        yield self._digest(function.__defaults__, f"the defaults of {inside}")
        yield self._digest(function.__kwdefaults__, f"the defaults of {inside}")

    def _code(self, code, path):
        yield from ("code", code.co_code, code.co_exceptiontable, " ".join(code.co_names))
        yield f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}"
        yield self._digest(code.co_consts, path)

    def _globals(self, function, code, path):
        """The values of the globals that a function uses, and of what it reads out of modules that are not installed ones."""
        globals_ = function.__globals__
        for name in sorted(_global_names(code)):
            if name in globals_ and not name.startswith("@"):  # those are pytest's
                yield name
                yield self._digest(globals_[name], f"{path}.{name}")
                if isinstance(globals_[name], types.ModuleType):
                    yield from self._read_out_of(globals_[name], code, f"{path}.{name}")
        for module in _imported(code, globals_):
            yield from self._read_out_of(module, code, f"{path}.{module.__name__}")

    def _read_out_of(self, module, code, path, depth=0):
        if _is_installed(getattr(module, "__file__", None) or "<>", module.__name__) or depth > 4:
            return
        for name in sorted(_all_names(code) & vars(module).keys()):
            value = vars(module)[name]
            yield name
            yield self._digest(value, f"{path}.{name}")
            if isinstance(value, types.ModuleType) and value is not module:
                yield from self._read_out_of(value, code, f"{path}.{name}", depth + 1)

    def _class(self, cls, path):
        yield from ("class", cls.__module__, cls.__qualname__)
        if _is_installed(getattr(sys.modules.get(cls.__module__), "__file__", None) or "<>", cls.__module__):
            return
        for base in cls.__bases__:
            yield self._digest(base, path)
        for name, value in sorted(vars(cls).items()):
            if name not in _SAYS_NOTHING and not isinstance(value, _DESCRIPTORS):
                yield name
                yield self._digest(getattr(value, "method", value) if _is_wrapped(value) else value, f"{path}.{name}")

    def _object(self, thing, path):
        cls = type(thing)
        yield "object"
        if dataclasses.is_dataclass(thing):
            yield self._digest(cls, path)
            for field in dataclasses.fields(thing):
                yield field.name
                if hasattr(thing, field.name):
                    yield self._digest(getattr(thing, field.name), f"{path}.{field.name}")
            return
        if cls.__reduce__ is not object.__reduce__ or cls.__reduce_ex__ is not object.__reduce_ex__:
            raise Unfingerprintable(f"{path} is a {_named(cls)}.")
        try:
            object.__reduce_ex__(thing, 2)  # fails where there is state that is no attribute
            state: Any = object.__getstate__(thing)
        except TypeError:
            raise Unfingerprintable(f"{path} is a {_named(cls)}.") from None
        yield self._digest(cls, path)
        found: dict[str, Any] = {}
        for part in state if isinstance(state, tuple) else (state,):  # attributes, and slots where there are some
            found |= part or {}
        for name, value in sorted(found.items()):
            if not isinstance(inspect.getattr_static(cls, name, None), functools.cached_property):
                yield name
                yield self._digest(value, f"{path}.{name}")


# Attributes of classes that do not decide what their objects do.
_SAYS_NOTHING = {
    *("__module__", "__qualname__", "__name__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__"),
    *(
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__abstractmethods__",
        "_abc_impl",
        "__parameters__",
    ),
    *("__orig_bases__", "__match_args__", "__static_attributes__", "__firstlineno__", "__type_params__", "__replace__"),
    *("__dataclass_fields__", "__dataclass_params__", "__repr__", "__str__", "__eq__", "__hash__", "__lt__", "__le__"),
    *("__gt__", "__ge__", "__setattr__", "__delattr__", "__getstate__", "__setstate__", "__getnewargs__"),
    *("__protocol_attrs__", "_is_protocol", "_is_runtime_protocol", "__non_callable_proto_members__"),
}
_DESCRIPTORS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
)
_NAMED = (re.Pattern, logging.Logger, jax.sharding.Sharding, jax.sharding.Mesh, jax.Device, jax.ShapeDtypeStruct)


def _hash(*parts: str | bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _simple(thing) -> tuple[str | bytes, ...] | None:
    """What is told whole by its type and a few letters."""
    if thing is None or thing is Ellipsis or thing is NotImplemented:
        return (repr(thing),)
    if type(thing) in (bool, int, complex, str, range, slice):
        return type(thing).__name__, repr(thing) if type(thing) is not str else thing
    if type(thing) is float:
        return "float", thing.hex()
    if type(thing) in (bytes, bytearray):
        return "bytes", bytes(thing)
    if isinstance(thing, enum.Enum):
        return "enum", type(thing).__module__, type(thing).__qualname__, str(thing.name)
    if isinstance(thing, np.dtype):
        return "dtype", str(thing)
    if isinstance(thing, pathlib.PurePath):
        return "path", str(thing)
    if isinstance(thing, jax.extend.core.Primitive):
        return "primitive", thing.name
    if isinstance(thing, _NAMED):
        return type(thing).__name__, repr(thing)
    if isinstance(thing, types.GenericAlias | types.UnionType | typing.TypeVar) or type(thing).__module__ == "typing":
        return "annotation", repr(thing)
    return None


def _named(cls) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if cls.__module__ != "builtins" else cls.__qualname__


def _is_compiled(thing) -> bool:
    """Of jax.jit, eqx.filter_jit or functools.cache: it acts as what it wraps does."""
    return type(thing).__name__ in ("PjitFunction", "_JitWrapper", "_lru_cache_wrapper") and hasattr(
        thing, "__wrapped__"
    )


def _is_wrapped(value) -> bool:
    """A method as Equinox keeps it in a class."""
    return type(value).__module__.split(".")[0] == "equinox" and hasattr(value, "method")


def _checks_types(code) -> bool:
    return "beartype(" in code.co_filename or f"{os.sep}jaxtyping{os.sep}" in code.co_filename


@functools.cache
def _installed_places() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths.add(os.path.dirname(__file__))
    paths |= {os.path.realpath(path) for path in paths}
    return tuple(path + os.sep for path in paths)


@functools.cache
def _is_installed(filename: str, module: str | None) -> bool:
    """Whether code comes with Python or a package, and not from whoever runs it."""
    if not filename.startswith("<"):
        if f"{os.sep}site-packages{os.sep}" in filename or f"{os.sep}dist-packages{os.sep}" in filename:
            return True
        return os.path.abspath(filename).startswith(_installed_places())
    if filename.startswith("<frozen "):
        return True
    # Made by `exec`, in a notebook, or built in: its module says.
    found = sys.modules.get(module or "")
    if found is None:
        return False
    if module in sys.builtin_module_names:
        return True
    file = getattr(found, "__file__", None)
    return bool(file) and not file.startswith("<") and _is_installed(file, None)


def _lookup(module: str, qualname: str) -> Any:
    """What an import of that name gives; None if there is no such thing."""
    found = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _importable(thing) -> tuple[str, str] | None:
    """Module and name of an object of an installed package that these lead to."""
    module, name = (getattr(thing, attribute, None) for attribute in ("__module__", "__qualname__"))
    name = name or getattr(thing, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or isinstance(thing, types.MethodType):
        return None
    file = getattr(sys.modules.get(module), "__file__", None) or "<>"
    return (module, name) if _is_installed(file, module) and _lookup(module, name) is thing else None


def _codes(code) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _all_names(code) -> set[str]:
    return {name for one in _codes(code) for name in one.co_names}


@functools.cache
def _global_names(code) -> frozenset[str]:
    reads = ("LOAD_GLOBAL", "LOAD_NAME")
    return frozenset(i.argval for one in _codes(code) for i in dis.get_instructions(one) if i.opname in reads)


def _imported(code, globals_) -> list[types.ModuleType]:
    """Modules that a function imports when it runs."""
    found = {}
    for one in _codes(code):
        instructions = list(dis.get_instructions(one))
        for i, instruction in enumerate(instructions):
            if instruction.opname == "IMPORT_NAME":
                level = instructions[i - 2].argval if i > 1 and isinstance(instructions[i - 2].argval, int) else 0
                package = globals_.get("__package__") or ""
                name = (
                    importlib.util.resolve_name("." * level + instruction.argval, package)
                    if level
                    else instruction.argval
                )
                if isinstance(module := sys.modules.get(name), types.ModuleType):
                    found[name] = module
    return [found[name] for name in sorted(found)]


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
        fields = () if isinstance(thing, type) or _is_compiled(thing) else getattr(thing, "__dataclass_fields__", ())
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
