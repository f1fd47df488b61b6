"""Weights files without a framework: which ship, where they are, what they hold. No JAX here either."""

from pathlib import Path

import numpy as np

from l2o import _hub

FORMAT = "l2o-1"
# The "architecture" of files of `l2o.Partitioned`: its arguments are its parts' architectures and arguments, by name.
PARTITIONED = "partitioned"
_FOLDER = Path(__file__).parent / "pretrained"


def names() -> list[str]:
    """Names of the optimizers that ship with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def shipped(name: str) -> Path:
    """The file of a shipped optimizer.

    **Raises:** `ValueError` if there is none of that name.
    """
    if name not in names():
        raise ValueError(
            f"No pretrained optimizer named {name!r}. Shipped: {', '.join(names())}; or pass a file's path."
        )
    return _FOLDER / f"{name}.safetensors"


def resolve(name_or_path: str | Path) -> Path:
    """The file that a user means by a shipped name, a path, a folder, or "user/repo" on the Hugging Face Hub.

    **Raises:** `ValueError` if there is none; `ImportError` if the Hub's package is needed and missing.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir() and str(name_or_path) not in names():
        return _hub.in_folder(path)
    if isinstance(name_or_path, str) and _hub.is_repository(name_or_path):
        return _hub.download(name_or_path)
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise ValueError(f"No weights file at {path}. Shipped optimizers: {', '.join(names())}.")
    return shipped(str(name_or_path))


def read(
    path: Path, wanted: str = FORMAT, what: str = "of a learned optimizer saved by l2o"
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and the header, of a safetensors file of the `wanted` format.

    **Raises:** `ValueError` if the file is truncated, not safetensors, or not of that format.
    """
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            header = file.metadata() or {}
            leaves = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). It may be truncated or of another kind."
        ) from error
    if header.get("format") != wanted:
        raise ValueError(f"{path} is a safetensors file, but not {what} (format {header.get('format')!r}).")
    return leaves, header
