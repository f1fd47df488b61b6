"""Every public name is documented, and the pages that programs write are up to date."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def loaded(script):
    """A script as a module; like Python itself, with those beside it."""
    if str(script.parent) not in sys.path:
        sys.path.append(str(script.parent))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_api_page_is_what_the_docstrings_say():
    page = loaded(ROOT / "docs" / "make_api.py").page()
    assert page == (ROOT / "docs" / "api.md").read_text(), "run: python docs/make_api.py"


def test_results_are_what_the_tables_say():
    script = loaded(ROOT / "experiments" / "make_results.py")
    told = "run: python experiments/make_results.py"
    assert script.page() == (ROOT / "docs" / "results.md").read_text(), told
    assert script.readme() == (ROOT / "README.md").read_text(), told
