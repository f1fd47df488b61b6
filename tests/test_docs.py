"""Every public name is documented, and the pages that programs write are up to date."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def written_by(script):
    """The page as the script would write it now."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_api_page_is_what_the_docstrings_say():
    page = written_by(ROOT / "docs" / "make_api.py")
    assert page == (ROOT / "docs" / "api.md").read_text(), "run: python docs/make_api.py"


def test_results_page_is_what_the_tables_say():
    page = written_by(ROOT / "experiments" / "make_results.py")
    assert page == (ROOT / "docs" / "results.md").read_text(), "run: python experiments/make_results.py"
