"""The command line. What it needs comes with the extra: pip install 'l2o[cli]'."""

import sys

from l2o.io.extras import extra


def main() -> None:
    """Entry point of the `l2o` command."""
    try:
        with extra("cli", "The command line"):
            from l2o.cli._app import app
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}")
    app(prog_name="l2o", args=sys.argv[1:])
