"""Weights files without a framework: which ship, where they are, what they hold. No JAX here either."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2o.io import contents, door, groups, hub
from l2o.io.contents import PARTITIONED
from l2o.io.contents import RESCALED as RESCALED

FORMAT = "l2o-1"
STATE_FORMAT = "l2o-state-1"
_FOLDER = Path(__file__).parent / "pretrained"


def names(*, partitioned: bool = True) -> list[str]:
    """Names of the optimizers that ship with the package; with `partitioned=False`, of those for params of any kind."""
    files = {path.stem: path for path in _FOLDER.glob("*.safetensors")}
    return sorted(name for name, path in files.items() if partitioned or read(path)[1]["architecture"] != PARTITIONED)


def shipped(name: str) -> Path:
    """The file of a shipped optimizer.

    **Raises:** `ValueError` if there is none of that name.
    """
    if name not in names():
        raise ValueError(
            f"No pretrained optimizer named {name!r}. Shipped: {', '.join(names())}; or pass a file's path."
        )
    return _FOLDER / f"{name}.safetensors"


def is_elsewhere(name: str) -> bool:
    """Whether `name` means weights that do not ship: a path, there or not, or a repository. Nothing is looked up."""
    path = Path(name)
    return path.exists() or path.suffix == ".safetensors" or len(path.parts) > 1 or hub.is_repository(name)


def resolve(name_or_path: str | Path) -> Path:
    """The file that a user means by a shipped name, a path, a folder, or "user/repo" on the Hugging Face Hub.

    **Raises:** `ValueError` if there is none; `ImportError` if the Hub's package is needed and missing.
    """
    if not isinstance(name_or_path, str | Path) or name_or_path == "":
        what = f"`name_or_path` must be the name of an optimizer or a path, got {door.shown(name_or_path)}."
        raise ValueError(f"{what} Shipped optimizers: {', '.join(names())}.")
    if isinstance(name_or_path, str) and name_or_path in names():
        return shipped(name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        return hub.in_folder(path)
    if isinstance(name_or_path, str) and hub.is_repository(name_or_path):
        return hub.download(name_or_path)
    if is_elsewhere(str(name_or_path)):
        raise ValueError(f"No weights file at {path}. Shipped optimizers: {', '.join(names())}.")
    return shipped(str(name_or_path))


def card(name_or_path: str | Path) -> str:
    """The Markdown beside weights: of their own name, or else the README.md of a folder or repository.

    **Raises:** as `resolve`; `ValueError` if there is neither.
    """
    path = resolve(name_or_path)
    read(path)  # what is said of weights that cannot be used would mislead
    for beside in (path.with_suffix(".md"), path.parent / "README.md"):
        if beside.is_file():
            return door.printable(door.read_text(beside, limit=_CARD_LIMIT))
    raise ValueError(f"There is no card beside {path}: neither {path.stem}.md nor README.md.")


_CARD_LIMIT = 2**18  # bytes
_LIMIT = 2**30  # bytes of a weights file, which is read whole


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and the header, of a file of a learned optimizer: all that it says has been checked.

    **Raises:** `ValueError` naming the file, and the field or array that is wrong.
    """
    arrays, header = _read(path, FORMAT, "of a learned optimizer saved by l2o", limit=_LIMIT)
    check(arrays, header, path)
    return arrays, header


def check(arrays: Mapping[str, np.ndarray], header: Mapping[str, str], where: str | Path) -> None:
    """Refuses a header that a weights file may not have, and arrays other than those that it means.

    **Raises:** `ValueError` naming `where` and the field or array.
    """
    told = contents.decoded(header, where)
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    contents.check(told["architecture"], told["arguments"], shapes, where)
    door.check_finite(arrays, where)


def read_state(path: Path) -> tuple[dict[str, np.ndarray], list[groups.Group]]:
    """Arrays by name, and the parameter groups, of a file of an optimizer's state.

    **Raises:** `ValueError` naming the file, and what is wrong.
    """
    # A state may be infinite, or of a run that diverged; and it may be as large as any model.
    arrays, header = _read(
        path, STATE_FORMAT, "of an optimizer's state saved by l2o", dtypes=door.ANYTHING, finite=False
    )
    return arrays, groups.read(header.get("groups", ""), path)


def _read(path, wanted, what, **options):
    try:
        metadata = door.read_metadata(path)
        if metadata.get("format") != wanted:
            found = door.shown(metadata.get("format"))
            raise ValueError(f"{path} is a safetensors file, but not {what} (format {found}).")
        return door.read_safetensors(path, **options)
    except OSError as error:
        raise door.damaged(path, "safetensors file", error) from error


# A gradient this many times outside what a rule met at the start of its runs is outside all that it was measured on.
_FAR = 100


def warn_of_scale(name: str | Path, scale: Mapping[str, Any] | None, rms: float, *, stacklevel: int = 3) -> None:
    """Warns (`UserWarning`) if a first gradient of root mean square `rms` is far from what the header's `scale` says.

    Says nothing of weights that do not know their scale, and of gradients that are zero or not finite.
    """
    if scale is None or not (0 < rms < math.inf):
        return
    low, middle, high = scale["start"]
    if low / _FAR <= rms <= high * _FAR:
        return
    warnings.warn(
        f"{name} was meta-trained on gradients with a root mean square of {low:.2g} to {high:.2g} at the start of a run, and "
        f"is used on {rms:.2g}: expect it to stall or diverge. Multiply the loss by about {middle / rms:.1g}, use "
        f"`l2o.Rescaled(optimizer, {middle:.2g})` (of an optimizer with parts: on each), which does that by itself, or "
        "meta-train on your problem (`l2o train`). `l2o.Guarded` hands over to another optimizer when it fails.",
        UserWarning,
        stacklevel=stacklevel,
    )
