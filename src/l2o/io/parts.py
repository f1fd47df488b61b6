"""What a thing is made of, for its fingerprint: by its kind, words that tell it from others, and the parts that tell the rest."""

import argparse
import dataclasses
import enum
import functools
import hashlib
import inspect
import logging
import pathlib
import random
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from l2o.io.digest import InAnyOrder, Part, Unfingerprintable, digest
from l2o.io.source import (
    all_names,
    attributes_read,
    checks_types,
    global_names,
    importable,
    imported_modules,
    is_compiled,
    is_installed,
    lookup,
)


def part_of(thing, path) -> bytes | Part:
    """A digest of what is told by a few letters; else what is to be looked at."""
    simple = _simple(thing)
    return Part(thing, path) if simple is None else digest(*simple)


def parts_of(thing, path) -> Iterator[str | bytes | Part | InAnyOrder]:
    """What makes up a thing: words, and digests of its parts."""
    if isinstance(thing, jax.Array | np.ndarray | np.generic):
        yield from _array(thing, path)
    elif isinstance(thing, types.FunctionType):
        yield from _function(thing, path)
    elif name := importable(thing):
        yield from ("named", *name)
    elif isinstance(thing, type):
        yield from _class(thing, path)
    elif isinstance(thing, types.CodeType):
        yield from _code(thing, path)
    elif isinstance(thing, types.ModuleType):
        yield from ("module", thing.__name__)
    elif isinstance(thing, types.MethodType):
        yield "method"
        yield part_of(thing.__func__, path)
        yield part_of(thing.__self__, f"{path}.__self__")
    elif isinstance(thing, staticmethod | classmethod):
        yield type(thing).__name__
        yield part_of(thing.__func__, path)
    elif isinstance(thing, enum.Enum):
        yield from ("enum", str(thing.name))
        yield part_of(type(thing), path)
        yield part_of(thing.value, f"{path}.value")
    elif isinstance(thing, property):
        yield "property"
        yield part_of(thing.fget, path)
    elif isinstance(thing, functools.partial):
        yield from ("partial", type(thing).__name__)
        for part in ("func", "args", "keywords"):
            yield part_of(getattr(thing, part), f"{path}.{part}")
    elif isinstance(thing, tuple | list):
        yield from _sequence(thing, path)
    elif isinstance(thing, Mapping):
        yield from _mapping(thing, path)
    elif isinstance(thing, set | frozenset):
        yield "set"
        yield InAnyOrder([(part_of(item, f"{path}{{...}}"),) for item in thing])
    elif isinstance(thing, jax.custom_vjp | jax.custom_jvp):
        yield type(thing).__name__
        for part in ("fun", "jvp", "fwd", "bwd", "nondiff_argnums"):
            yield part_of(getattr(thing, part, None), f"{path}.{part}")
    elif isinstance(thing, jax.tree_util.PyTreeDef):
        yield "treedef"
        yield part_of(thing.node_data(), path)
        yield from (part_of(child, path) for child in thing.children())
    elif type(thing).__module__.startswith("torch") and hasattr(thing, "detach"):
        yield from ("tensor", str(thing.dtype), str(tuple(thing.shape)), str(thing.requires_grad))
        yield part_of(np.asarray(thing.detach().cpu().resolve_conj().resolve_neg().tolist()), path)
    elif type(thing).__module__ == "torch" and type(thing).__name__ in ("dtype", "device", "Size"):
        yield repr(thing)
    elif isinstance(thing, types.BuiltinFunctionType):
        yield from ("builtin", thing.__qualname__)
        yield part_of(thing.__self__, path)
    elif is_compiled(thing) or hasattr(type(thing), "stands_for_its_function"):
        yield "compiled"
        yield part_of(thing.__wrapped__, path)
    else:
        yield from _object(thing, path)


def _array(array, path):
    if isinstance(array, jax.core.Tracer):
        raise Unfingerprintable(f"{path} is being traced by JAX and has no value yet.")
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        yield from ("key", str(jax.random.key_impl(array)))
        yield part_of(jax.random.key_data(array), path)
        return
    values = np.asarray(array)
    yield from ("array", str(values.dtype), str(values.shape))
    yield "weak" if getattr(array, "weak_type", False) else ""
    if values.dtype.hasobject:
        yield part_of(values.ravel().tolist(), path)
    else:
        yield hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).digest()


def _sequence(items, path):
    yield from ("list",) if isinstance(items, list) else ("tuple",)
    fields = getattr(items, "_fields", None)
    if type(items) not in (tuple, list):
        yield part_of(type(items), path)
    for i, item in enumerate(items):
        yield part_of(item, f"{path}.{fields[i]}" if fields else f"{path}[{i}]")


def _mapping(items, path):
    yield "mapping"
    if type(items) not in (dict, types.MappingProxyType):
        yield part_of(type(items), path)
    pairs = [(part_of(key, f"a key of {path}"), part_of(value, f"{path}[{key!r}]")) for key, value in items.items()]
    if type(items).__name__ == "OrderedDict":
        yield from (part for pair in pairs for part in pair)
    else:
        yield InAnyOrder(pairs)


def _function(function, path):
    code = function.__code__
    if checks_types(code):  # beartype's and jaxtyping's wrappers, in tests: what they wrap decides
        yield part_of(function.__wrapped__, path)
        return
    name = getattr(function, "__name__", "")
    inside = f"{path}.{name}"
    if is_installed(code.co_filename, function.__globals__.get("__name__")):
        module = function.__globals__.get("__name__") or ""
        yield from ("function", module, code.co_qualname)
        if lookup(module, code.co_qualname) is function:
            return
        if code.co_name == "<lambda>":
            yield part_of(code, inside)
    else:
        yield "code"
        yield part_of(code, inside)
        yield from _globals(function, code, inside)
    for cell_name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        there = f"{inside}.{cell_name}"
        bound = cell != types.CellType()  # else a name that has no value yet
        yield from ("cell", _read(cell.cell_contents, code, cell_name, there) if bound else "")
    yield part_of(function.__defaults__, f"the defaults of {inside}")
    yield part_of(function.__kwdefaults__, f"the defaults of {inside}")
    for attribute, value in sorted(vars(function).items()):
        if not attribute.startswith("__"):  # of functools.wraps
            yield attribute
            yield part_of(value, f"{inside}.{attribute}")


def _read(value, code, name, path):
    """A variable of a function. Of parsed arguments only those count that it reads, as others say where to write, say."""
    read = attributes_read(code, name) if isinstance(value, argparse.Namespace | types.SimpleNamespace) else None
    if read is None:
        return part_of(value, path)
    return part_of({one: getattr(value, one) for one in sorted(read) if hasattr(value, one)}, path)


def _code(code, path):
    yield from ("code", code.co_code, code.co_exceptiontable, " ".join(code.co_names))
    yield f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}"
    yield part_of(code.co_consts, path)


def _globals(function, code, path):
    """The values of the globals that a function uses, and of what it reads out of modules that are not installed ones."""
    globals_ = function.__globals__
    for name in sorted(global_names(code)):
        if name in globals_ and not name.startswith("@"):  # those are pytest's
            yield name
            yield _read(globals_[name], code, name, f"{path}.{name}")
            if isinstance(globals_[name], types.ModuleType):
                yield from _read_out_of(globals_[name], code, f"{path}.{name}")
    for module in imported_modules(code, globals_):
        yield from _read_out_of(module, code, f"{path}.{module.__name__}")


def _read_out_of(module, code, path, depth=0):
    if is_installed(getattr(module, "__file__", None) or "<>", module.__name__) or depth > 4:
        return
    for name in sorted(all_names(code) & vars(module).keys()):
        value = vars(module)[name]
        yield name
        yield part_of(value, f"{path}.{name}")
        if isinstance(value, types.ModuleType) and value is not module:
            yield from _read_out_of(value, code, f"{path}.{name}", depth + 1)


def _class(cls, path):
    yield from ("class", cls.__module__, cls.__qualname__)
    if is_installed(getattr(sys.modules.get(cls.__module__), "__file__", None) or "<>", cls.__module__):
        return
    for base in (type(cls), *cls.__bases__):
        yield part_of(base, path)
    if issubclass(cls, enum.Enum):
        yield part_of({name: member.value for name, member in cls.__members__.items()}, path)
    for name, value in sorted(vars(cls).items()):
        if issubclass(cls, enum.Enum) and not isinstance(value, _METHODS):
            continue
        if name not in _SAYS_NOTHING and not isinstance(value, _DESCRIPTORS):
            yield name
            yield part_of(getattr(value, "method", value) if _is_wrapped(value) else value, f"{path}.{name}")


def _object(thing, path):
    cls = type(thing)
    yield "object"
    if dataclasses.is_dataclass(thing):
        yield part_of(cls, path)
        for field in dataclasses.fields(thing):
            yield field.name
            if hasattr(thing, field.name):
                yield part_of(getattr(thing, field.name), f"{path}.{field.name}")
        return
    if isinstance(thing, _USED_UP) or hasattr(cls, "__next__"):
        raise Unfingerprintable(f"{path} is a {_named(cls)}, which is another one after every use.")
    try:  # fails where there is state that is no attribute
        told = thing.__reduce_ex__(2)
    except Exception:  # whatever a class of the user raises in there
        raise Unfingerprintable(f"{path} is a {_named(cls)}.") from None
    if cls.__reduce__ is not object.__reduce__ or cls.__reduce_ex__ is not object.__reduce_ex__:
        # It says itself what it is made of. What comes as iterators are items of a list, and of a mapping.
        yield part_of(cls, path)
        yield part_of(
            [[*one] if hasattr(one, "__next__") else one for one in told] if isinstance(told, tuple) else told, path
        )
        return
    state: Any = object.__getstate__(thing)
    yield part_of(cls, path)
    found: dict[str, Any] = {}
    for part in state if isinstance(state, tuple) else (state,):  # attributes, and slots where there are some
        found |= part or {}
    for name, value in sorted(found.items()):
        if not isinstance(inspect.getattr_static(cls, name, None), functools.cached_property):
            yield name
            yield part_of(value, f"{path}.{name}")


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
_METHODS = (types.FunctionType, staticmethod, classmethod, property)
_USED_UP = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
_NAMED = (re.Pattern, logging.Logger, jax.sharding.Sharding, jax.sharding.Mesh, jax.Device, jax.ShapeDtypeStruct)


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


def _is_wrapped(value) -> bool:
    """A method as Equinox keeps it in a class."""
    return type(value).__module__.split(".")[0] == "equinox" and hasattr(value, "method")
