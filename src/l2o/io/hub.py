"""Where weights lie that do not ship: a folder, or a repository on the Hugging Face Hub. Needs neither JAX nor PyTorch."""

import re
from pathlib import Path

from l2o.io.door import one_line
from l2o.io.extras import extra

# Parts of a revision, too, begin like names: it becomes a path in the Hub's cache.
_NAME = r"\w[\w.-]*"
_REPOSITORY = re.compile(rf"(?P<id>{_NAME}/{_NAME})(@(?P<revision>{_NAME}(/{_NAME})*))?", re.ASCII)


def in_folder(folder: Path) -> Path:
    """The one weights file in a folder.

    **Raises:** `ValueError` if there is none, or more than one.
    """
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        listed = ", ".join(one_line(path.name) for path in found) or "none"
        raise ValueError(
            f"There must be one weights file (*.safetensors) in {folder}, found: {listed}. Pass a file's path."
        )
    return found[0]


def is_repository(name: str) -> bool:
    """Whether `name` could be a repository, "user/repo" or "user/repo@revision", rather than a path."""
    return _REPOSITORY.fullmatch(name) is not None and not name.endswith(".safetensors") and ".." not in name


def download(name: str) -> Path:
    """The weights file of a repository, from the Hub's own cache if it is there.

    **Raises:** `ImportError` if huggingface_hub is not installed; `ValueError` if the repository cannot be fetched.
    """
    with extra("hub", f"There is no file or folder {name!r} here, and fetching it from the Hugging Face Hub"):
        import huggingface_hub
    match = _REPOSITORY.fullmatch(name)
    assert match is not None
    try:
        folder = huggingface_hub.snapshot_download(
            match["id"], revision=match["revision"], allow_patterns=["*.safetensors", "*.md"]
        )
    except Exception as error:  # the Hub's errors, and those of whatever HTTP client it uses
        raise ValueError(
            f"There is no file or folder {name!r} here, and it could not be fetched from the Hugging Face Hub "
            f"({type(error).__name__}: {one_line(error)})."
        ) from error
    return in_folder(Path(folder))
