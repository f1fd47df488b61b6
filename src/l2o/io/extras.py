"""Packages that only part of l2o needs: whoever lacks one reads in one line which extra brings it."""

import contextlib
from collections.abc import Iterator

_DISTRIBUTIONS = {"PIL": "pillow", "jinja2": "Jinja2", "google": "protobuf"}  # where modules are named otherwise


@contextlib.contextmanager
def extra(name: str, what: str = "This") -> Iterator[None]:
    """Imports within may fail for want of an extra.

    ```python
    with extra("report", "A figure"):
        import matplotlib  # or: A figure needs matplotlib: pip install 'l2o[report]'
    ```

    **Raises:** `ModuleNotFoundError` saying so, if a module that is no part of l2o is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "l2o").partition(".")[0]
        if package == "l2o":
            raise
        package = _DISTRIBUTIONS.get(package, package)
        raise ModuleNotFoundError(f"{what} needs {package}: pip install 'l2o[{name}]'", name=error.name) from error
