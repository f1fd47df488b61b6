"""Every public name is documented, and the page of them is up to date."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_api_page_is_what_the_docstrings_say():
    spec = importlib.util.spec_from_file_location("make_api", DOCS / "make_api.py")
    make_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_api)
    assert make_api.page() == (DOCS / "api.md").read_text(), "run: python docs/make_api.py"
