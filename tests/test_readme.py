"""The code of the README and of docs/ is what the examples hold, and it runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    shown
    for page in PAGES
    for shown in re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL)
]
NEEDS = {"with_flax": "flax", "with_lightning": "lightning"}  # not installed with l2o


def test_every_example_is_in_the_readme_or_the_docs():
    shown = {path for path, _ in EXAMPLES}
    assert shown == {str(path.relative_to(ROOT)) for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize(("path", "code"), EXAMPLES)
def test_example(path, code):
    assert (ROOT / path).read_text() == code
    needed = NEEDS.get(Path(path).stem)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    done = subprocess.run([sys.executable, path], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if path.endswith("own_function.py"):
        learned, adam = (float(re.search(r": (\S+)", line)[1]) for line in done.stdout.splitlines())
        assert learned < adam  # the README's promise, on this problem
    else:
        assert float(done.stdout.split()[0]) < 1.0  # from log(10)


def test_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in [*re.findall(r"^make (\w+)$", text, re.MULTILINE), "test"]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make test" in (ROOT / ".ci" / "run").read_text()
