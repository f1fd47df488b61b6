"""Writes docs/api/*.md, a page for each room, from docstrings and signatures: python docs/make_api.py

A class or function without a docstring is an error, and so is one of its public methods that no base class documents.
"""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import l2o
import l2o.report
import l2o.torch
from l2o.core import plugins

DOCS = Path(__file__).parent
PAGES = {
    "core": ("Tasks, rules and the inner loop", "What a task and an update rule are, and how one is run on the other."),
    "tasks": ("Tasks that come with l2o", "Families of problems. Each module is one: `l2o.tasks.mlp.family(...)`."),
    "optimizers": ("Update rules", "Learned rules, what wraps them, the baselines, and weights on disk."),
    "meta": ("Meta-training", "How a rule is made: inner problems, estimators of the meta-gradient, the outer loop."),
    "evaluation": ("Comparing and explaining", "Who wins, honestly, and what a rule amounts to."),
    "report": ("Tables, figures and pages", "Of comparisons and of explanations, from their records."),
    "io": ("Data", "Images, tables and texts, as NumPy arrays."),
    "torch": ("PyTorch", "The same rules on the same weights. `import l2o.torch` imports no JAX."),
}
# Public modules whose public functions and classes are listed although `l2o.NAME` is not one of them.
MODULES = [
    "l2o.optimizers.baselines",
    "l2o.optimizers.pretrained",
    "l2o.optimizers.states",
    "l2o.optimizers.lstm",
    "l2o.optimizers.ntm_bfgs",
    "l2o.meta.recording",
    "l2o.meta.imitation",
    "l2o.core.intervals",
    "l2o.evaluation.analysis",
    "l2o.evaluation.statistics",
    "l2o.evaluation.seconds",
    "l2o.evaluation.costs",
    "l2o.evaluation.surrogates",
    "l2o.tasks.style",
    "l2o.tasks.lasso",
]
SINGLE = ["l2o.evaluation.records.Comparison", "l2o.evaluation.records.Record", "l2o.evaluation.records.load"]


class Name(NamedTuple):
    """A public name, and what it is the name of."""

    name: str  # as a user writes it
    thing: Any
    page: str  # of `PAGES`


def public() -> list[Name]:
    """Every public name, once, under the shortest of its names."""
    found = {}

    def add(name, thing):
        if isinstance(thing, ModuleType):
            return
        module = getattr(thing, "__module__", None) or "l2o.core"
        said, lives = name.split(".")[1], [*module.split("."), ""][1]
        page = said if said in ("torch", "report") else lives if lives in PAGES else "core"
        found.setdefault(id(thing), Name(name, thing, page))

    for name in sorted(l2o.__all__):
        add(f"l2o.{name}", getattr(l2o, name))
    for package, prefix in ((l2o.data, "l2o.data"), (l2o.torch, "l2o.torch"), (l2o.report, "l2o.report")):
        for name in package.__all__:
            add(f"{prefix}.{name}", getattr(package, name))
    for kind, (room, member, _, _) in plugins.KINDS.items():
        for name in plugins.names(kind):
            if hasattr(module := plugins.get(kind, name), member) and kind != "estimators":
                add(f"{room}.{name}.{member}", getattr(module, member))
    for path in MODULES:
        module = importlib.import_module(path)
        short = path.rpartition(".")[2]
        prefix = f"l2o.{short}" if short in l2o.__all__ else path
        for name, thing in vars(module).items():
            if not name.startswith("_") and getattr(thing, "__module__", None) == path and callable(thing):
                add(f"{prefix}.{name}", thing)
    for path in SINGLE:
        module, _, name = path.rpartition(".")
        add(path, getattr(importlib.import_module(module), name))
    return list(found.values())


def undocumented() -> list[str]:
    """Public names without a docstring of their own, and public methods that neither they nor a base class document."""
    missing = []
    for name, thing, _ in public():
        if is_alias(thing):
            continue
        if not (thing.__doc__ or "").strip() or _is_made_up(thing):
            missing.append(name)
        if inspect.isclass(thing):
            missing += [f"{name}.{m}" for m, _ in methods(thing) if not inspect.getdoc(getattr(thing, m))]
    return missing


def is_alias(thing) -> bool:
    return not (inspect.isclass(thing) or inspect.isroutine(thing) or hasattr(thing, "__wrapped__"))


def _is_made_up(thing):
    """Whether the docstring is the one that dataclasses and named tuples make of the signature."""
    return inspect.isclass(thing) and (thing.__doc__ or "").startswith(f"{thing.__name__}(")


def methods(cls) -> list[tuple[str, Any]]:
    """Public methods that the class itself defines."""
    return [
        (n, m)
        for n, m in vars(cls).items()
        if not n.startswith("_") and (inspect.isfunction(inspect.unwrap(m)) or isinstance(m, property | classmethod))
    ]


def pages() -> dict[str, str]:
    """The text of every page, by file name."""
    missing = undocumented()
    if missing:
        raise ValueError(f"No docstring: {', '.join(missing)}.")
    names, used = public(), uses()
    texts = {}
    for page, (title, about) in PAGES.items():
        members = sorted((n for n in names if n.page == page), key=lambda n: (n.name.count("."), n.name.lower()))
        lines = [f"# {title}", "", about, ""]
        lines += [f"- [`{n.name}`](<#{anchor(n.name)}>): {first_line(n.thing)}" for n in members]
        for member in members:
            lines += ["", *entry(member, used.get(member.name, ()))]
        texts[f"{page}.md"] = "\n".join(lines) + "\n"
    toc = "\n".join(PAGES)
    texts["index.md"] = (
        "# API\n\nEvery public name, with its signature, its shapes, and where it is seen at work.\n"
        "`help(l2o.NAME)` gives the same text. "
        "Names of `l2o` itself are flat: `l2o.LSTM`, `l2o.meta_train`. Shapes are written as in "
        '[jaxtyping](https://docs.kidger.site/jaxtyping/): `Float[Array, "num_tasks horizon"]` is an array of two axes.\n\n'
        f"```{{toctree}}\n:maxdepth: 1\n\n{toc}\n```\n"
    )
    return texts


def anchor(name: str) -> str:
    """Labels do not tell capitals from small letters, but `l2o.Beyond` is not `l2o.beyond`."""
    return name.lower() + ("-class" if name.rpartition(".")[2][0].isupper() else "")


def entry(member: Name, shown_on) -> list[str]:
    """A heading, the signature, the docstring, the methods, and the pages on which it is used."""
    name, thing, _ = member
    lines = [f"({anchor(name)})=", f"## `{name}`", ""]
    if is_alias(thing):
        return [*lines, f"A type alias: `{inspect.formatannotation(thing)}`."]
    lines += ["```python", signature(name, thing), "```", "", docstring(thing)]
    if inspect.isclass(thing):
        for method, found in methods(thing):
            doc = docstring(getattr(thing, method)) if own_doc(found) else "As declared by its base class."
            lines += ["", f"### `{method}`", "", "```python", signature(method, found), "```", "", doc]
    if shown_on:
        lines += ["", "Seen at work: " + ", ".join(f"[{title}](../{page})" for page, title in shown_on) + "."]
    return lines


def own_doc(method) -> bool:
    return bool((getattr(method, "__doc__", None) or "").strip())


def docstring(thing) -> str:
    """As Markdown: headings would be in the way of the page's own."""
    return re.sub(r"^#+ (.*)$", r"**\1**", inspect.getdoc(thing) or "", flags=re.MULTILINE)


def first_line(thing) -> str:
    """The docstring's first paragraph, for a list."""
    if is_alias(thing):
        return "A type alias."
    return docstring(thing).split("\n\n")[0].replace("\n", " ")


def signature(name: str, thing) -> str:
    """As it is written in the source, annotations and comments included."""
    if isinstance(thing, property):
        return (
            f"{name}  # a property: {ast.unparse(_parsed(thing.fget).returns)}" if _parsed(thing.fget).returns else name
        )
    if isinstance(thing, classmethod):
        thing = thing.__func__
    if not inspect.isclass(thing):
        return _call(name, _parsed(thing), skip_self="." not in name)
    for cls in thing.__mro__:
        if cls.__module__.startswith("l2o") and "__init__" in vars(cls) and (parsed := _init_of(cls)):
            return _call(name, parsed, skip_self=True)
    fields = _fields(thing)
    return f"{name}(\n" + "\n".join(f"    {line}" for line in fields) + "\n)" if fields else f"{name}()"


def _parsed(function) -> ast.FunctionDef:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    (found,) = ast.parse(source).body
    assert isinstance(found, ast.FunctionDef)
    return found


def _init_of(cls):
    (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    return next((n for n in parsed.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _call(name, parsed, *, skip_self):
    arguments = parsed.args
    for args in (arguments.posonlyargs, arguments.args):
        if skip_self and args and args[0].arg in ("self", "cls"):
            args.pop(0)
    whole = ast.unparse(arguments)
    returns = f" -> {_unquoted(parsed.returns)}" if parsed.returns else ""
    if len(name) + len(whole) + len(returns) > 80:
        whole = "\n" + "".join(f"    {part},\n" for part in _split(whole))
    return f"{name}({whole}){returns}"


def _unquoted(annotation) -> str:
    """Without the quotes of a name that is defined later."""
    return annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)


def _split(arguments: str) -> list[str]:
    """Cut at the commas that are in no bracket and no string."""
    parts, depth, quote, start = [], 0, "", 0
    for i, c in enumerate(arguments):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and not depth:
            parts.append(arguments[start:i].strip())
            start = i + 1
    return [*parts, arguments[start:].strip()]


def _fields(cls) -> list[str]:
    """The lines of a dataclass, module or named tuple that declare what it takes, those of its bases first."""
    found = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("l2o"):
            continue
        source = textwrap.dedent(inspect.getsource(base))
        lines = source.splitlines()
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign) and "init=False" not in ast.unparse(node):
                found[ast.unparse(node.target)] = lines[node.lineno - 1 : node.end_lineno]
    return [line.removeprefix("    ") for lines in found.values() for line in lines if "ClassVar" not in line]


def uses() -> dict[str, list[tuple[str, str]]]:
    """(page, its title) of the pages whose code shows a name at work."""
    found = {}
    for page in sorted([*DOCS.glob("*.md"), *(DOCS / "tutorials").glob("*.py")]):
        text = page.read_text()
        heading = re.search(r"^(?:# )?# (.+)$", text, re.MULTILINE)
        if heading is None or page.name in ("api.md", "readme.md"):
            continue
        code = text if page.suffix == ".py" else "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
        where = str(page.relative_to(DOCS).with_suffix(".md"))
        for name in sorted(set(re.findall(r"l2o(?:\.\w+)+", code))):
            parts = name.split(".")
            for i in range(2, len(parts) + 1):
                found.setdefault(".".join(parts[:i]), []).append((where, heading[1]))
    return {name: list(dict.fromkeys(where)) for name, where in found.items()}


if __name__ == "__main__":
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    texts = pages()
    for old in set(folder.glob("*.md")) - {folder / name for name in texts}:
        old.unlink()
    for name, text in texts.items():
        if not (folder / name).is_file() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
