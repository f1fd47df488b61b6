"""Every public name is documented, pages that programs write are up to date, and names and links in prose lead somewhere."""

import ast
import importlib
import importlib.util
import re
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlparse

import pytest

import l2o

ROOT = Path(__file__).parent.parent
CARDS = sorted((ROOT / "src" / "l2o" / "io" / "pretrained").glob("*.md"))
WRITTEN = ("api", "cards", "_build")  # by `make docs`, from what is tested here
PROSE = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.relative_to(ROOT / "docs").parts[0] not in WRITTEN),
    *sorted((ROOT / "docs" / "tutorials").glob("*.py")),
    *CARDS,
]
PROSE = [p for p in PROSE if not p.with_suffix(".py").is_file() or p.suffix == ".py"]  # a tutorial's page is its script
MADE = {"index.md"} | {f"{p.stem}.md" for p in CARDS}  # in docs/cards


def loaded(script):
    """A script as a module; like Python itself, with those beside it."""
    if str(script.parent) not in sys.path:
        sys.path.append(str(script.parent))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_documented():
    pytest.importorskip("torch")
    api = loaded(ROOT / "docs" / "make_api.py")
    assert api.undocumented() == []
    pages = "".join(api.pages().values())
    for name in l2o.__all__:
        if not isinstance(getattr(l2o, name), type(l2o)):  # modules are documented by what is in them
            assert f"## `l2o.{name}`" in pages


def test_undocumented_names_are_found(monkeypatch):
    pytest.importorskip("torch")
    api = loaded(ROOT / "docs" / "make_api.py")

    class Bare:
        def method(self): ...

    def bare(): ...

    told = [api.Name("l2o.Bare", Bare, "core"), api.Name("l2o.bare", bare, "core")]
    monkeypatch.setattr(api, "public", lambda: told)
    assert api.undocumented() == ["l2o.Bare", "l2o.Bare.method", "l2o.bare"]
    with pytest.raises(ValueError, match=r"No docstring: l2o\.Bare"):
        api.pages()


def test_results_are_what_the_tables_say():
    script = loaded(ROOT / "experiments" / "make_results.py")
    told = "run: python experiments/make_results.py"
    for path, text in script.pages().items():
        assert text == (ROOT / "docs" / path).read_text(), told
    assert script.readme() == (ROOT / "README.md").read_text(), told


@pytest.mark.parametrize("page", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_in_prose_exist(page):
    pytest.importorskip("torch")
    text = page.read_text()
    for code in [] if page.suffix == ".py" else re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(textwrap.dedent(code))
    for name in sorted(set(re.findall(r"(?<![\w/.:-])l2o(?:\.[A-Za-z_]\w*)+", text))):
        assert exists(name), f"{page.name} speaks of {name}"


def exists(name):
    """Whether it can be reached as an attribute, or imported."""
    found, path = l2o, "l2o"
    for part in name.split(".")[1:]:
        path += f".{part}"
        if not hasattr(found, part):
            if not hasattr(found, "__path__") or importlib.util.find_spec(path) is None:
                return False
            importlib.import_module(path)
        found = getattr(found, part)
    return True


def test_names_that_do_not_exist_are_found():
    assert exists("l2o.tasks.mlp.family")
    assert not exists("l2o.meta_train.nothing")
    assert not exists("l2o.nothing.compare")


@pytest.mark.parametrize("page", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"(?<!`)\[[^\]`]*(?:`[^`]*`[^\]`]*)*\]\(<?([^)>\s]+)>?\)", page.read_text()):
        if target.startswith(("http:", "https:", "mailto:")):
            told = urlparse(target)
            assert told.scheme == "https", f"{page.name}: {target}"
            assert re.fullmatch(r"[\w.-]+\.\w+", told.netloc), f"{page.name}: {target}"
            continue
        file, _, heading = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        tutorial = found.parent.name == "tutorials" and found.with_suffix(".py").is_file()
        made = (found.parent.name == "cards" and found.name in MADE) or found.parent.name == "api"
        assert found.exists() or tutorial or made, f"{page.name}: {target}"
        if heading and found.suffix == ".md" and found.exists():
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert heading in {slug(h) for h in headings}, f"{page.name}: {target}"


def slug(heading):
    """As GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
