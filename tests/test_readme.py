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
EXAMPLES = [
    shown
    for page in PAGES
    for shown in re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL)
]
# Not installed with l2o.
NEEDS = {"with_flax": "flax", "with_lightning": "lightning", "with_torch": "torch", "meta_train_torch": "torch"}
SLOW = {"explain_adam", "own_function", "meta_train_torch", "with_guarded", "neural_art"}
SHORTER = {"meta_train_torch": ["15"]}  # meta-steps; as it stands it takes most of a minute


def test_every_example_is_in_the_readme_or_the_docs():
    shown = {path for path, _ in EXAMPLES}
    assert shown == {str(path.relative_to(ROOT)) for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param(path, code, id=path, marks=[pytest.mark.slow] if Path(path).stem in SLOW else [])
        for path, code in EXAMPLES
    ],
)
def test_example(path, code):
    assert (ROOT / path).read_text() == code
    needed = NEEDS.get(Path(path).stem)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    command = [sys.executable, path, *SHORTER.get(Path(path).stem, [])]
    one_thread = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # as in conftest.py: on a busy machine PyTorch's wait for each other
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=one_thread)
    assert done.returncode == 0, done.stderr
    if path.endswith("own_function.py"):
        learned, adam = (float(re.search(r": (\S+)", line)[1]) for line in done.stdout.splitlines())
        assert learned < adam  # the README's promise, on this problem
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


def test_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in [*re.findall(r"^make (\w+)$", text, re.MULTILINE), "test"]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    ci = (ROOT / ".ci" / "run").read_text()
    assert "\nmake test\n" in ci
    assert "\nmake test-slow " in ci  # but for the tests of minutes
