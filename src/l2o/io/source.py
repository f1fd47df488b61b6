"""Where code comes from, and what it refers to by name: whether it was installed, its globals, and what it imports."""

import dis
import functools
import importlib.util
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any


def is_compiled(thing: Any) -> bool:
    """Of jax.jit, eqx.filter_jit or functools.cache: it acts as what it wraps does."""
    return type(thing).__name__ in ("PjitFunction", "_JitWrapper", "_lru_cache_wrapper") and hasattr(
        thing, "__wrapped__"
    )


def checks_types(code: types.CodeType) -> bool:
    """Whether this is beartype's or jaxtyping's wrapper, which acts as what it wraps does."""
    return "beartype(" in code.co_filename or f"{os.sep}jaxtyping{os.sep}" in code.co_filename


@functools.cache
def _installed_places() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= set(sys.modules["l2o"].__path__)
    paths |= {os.path.realpath(path) for path in paths}
    return tuple(path + os.sep for path in paths)


@functools.cache
def is_installed(filename: str, module: str | None) -> bool:
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
    return bool(file) and not file.startswith("<") and is_installed(file, None)


def lookup(module: str, qualname: str) -> Any:
    """What an import of that name gives; None if there is no such thing."""
    found = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def importable(thing) -> tuple[str, str] | None:
    """Module and name of an object of an installed package that these lead to."""
    module, name = (getattr(thing, attribute, None) for attribute in ("__module__", "__qualname__"))
    name = name or getattr(thing, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or isinstance(thing, types.MethodType):
        return None
    file = getattr(sys.modules.get(module), "__file__", None) or "<>"
    return (module, name) if is_installed(file, module) and lookup(module, name) is thing else None


def _codes(code) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def all_names(code) -> set[str]:
    """Of attributes, globals and modules that a function and those within it mention."""
    return {name for one in _codes(code) for name in one.co_names}


def attributes_read(code, name: str) -> set[str] | None:
    """The attributes of a global or closed-over `name` that are read; None if anything else is done with it."""
    reads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF")
    found = set()
    for one in _codes(code):
        instructions = list(dis.get_instructions(one))
        for i, instruction in enumerate(instructions):
            if instruction.opname in reads and instruction.argval == name:
                then = instructions[i + 1]
                if then.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                    return None
                found.add(then.argval)
    return found


@functools.cache
def global_names(code) -> frozenset[str]:
    """The globals that they read."""
    reads = ("LOAD_GLOBAL", "LOAD_NAME")
    return frozenset(i.argval for one in _codes(code) for i in dis.get_instructions(one) if i.opname in reads)


def imported_modules(code, globals_) -> list[types.ModuleType]:
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
