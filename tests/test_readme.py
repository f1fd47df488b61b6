"""The code of the README and of docs/ is what the examples hold, and it runs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    (path, code, page.name)
    for page in PAGES
    for path, code in re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL)
]
EXAMPLES = sorted({path for path, _, _ in SHOWN})
# Not installed with l2o.
NEEDS = {"with_flax": "flax", "with_lightning": "lightning", "with_torch": "torch", "meta_train_torch": "torch"}
SLOWEST = {"design", "explain_adam", "own_function"}  # a tutorial, and a page of explanations, are made of the like
OWN_FUNCTION = """
import runpy
from l2o.evaluation import analysis
comparison = runpy.run_path("examples/own_function.py")["comparison"]
print("ratio:", analysis.ratio_to_best(comparison.records["mine"], "learned", 100)[1])
"""
ASKED = {"own_function": ["-c", OWN_FUNCTION]}  # a table is for people
SHORTER = {"meta_train_torch": ["15"]}  # meta-steps; as it stands it takes most of a minute


def marks(stem):
    return [pytest.mark.slow] + [pytest.mark.slowest] * (stem in SLOWEST)


def test_every_example_is_in_the_readme_or_the_docs():
    assert set(EXAMPLES) == {str(path.relative_to(ROOT)) for path in (ROOT / "examples").glob("*.py")}


def test_pages_show_the_examples_as_they_are():
    for path, code, page in SHOWN:
        assert (ROOT / path).read_text() == code, f"{page} does not show {path} as it is"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path, marks=marks(Path(path).stem)) for path in EXAMPLES],
)
def test_example(path):
    needed = NEEDS.get(Path(path).stem)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    command = [sys.executable, *ASKED.get(Path(path).stem, [path]), *SHORTER.get(Path(path).stem, [])]
    one_thread = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # as in conftest.py: on a busy machine PyTorch's wait for each other
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=one_thread)
    assert done.returncode == 0, done.stderr
    if path.endswith("own_function.py"):
        assert "learned" in done.stdout
        assert float(re.search(r"ratio: (\S+)", done.stdout)[1]) < 0.9  # of the best tuned first-order baseline
    elif path.endswith("explain_adam.py"):
        r2, rate, b1 = (float(re.search(rf"{word} ([\d.]+)", done.stdout)[1]) for word in ("R²", "rate", "b1"))
        assert r2 > 0.99
        assert abs(rate / 0.1 - 1) < 0.03
        assert abs(b1 / 0.8 - 1) < 0.03
    elif path.endswith("meta_train_torch.py"):
        before, after = (float(re.search(rf"{word}: (\S+)", done.stdout)[1]) for word in ("before", "after"))
        assert after < 0.7 * before
    else:
        assert float(done.stdout.split()[0]) < 1.0  # from log(10)


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len(table.splitlines()) - 2 <= 6, table
    code = (ROOT / "examples" / "own_function.py").read_text().splitlines()
    assert len([line for line in code if line.strip() and not line.startswith(("import", "from"))]) <= 15


def test_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in [*re.findall(r"^make (\w+)$", text, re.MULTILINE), "test"]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    ci = (ROOT / ".ci" / "run").read_text()
    assert "\nmake test\n" in ci
    assert "\nmake docs " in ci
    assert "\nmake test-slow " in ci  # but for the tests of minutes
