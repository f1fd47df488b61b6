"""Find a data set: in a folder of the user's, in the cache, on the system, at its publisher."""

import os
import sys
import tempfile
from importlib import resources
from pathlib import Path

from l2o.io.data._formats import DataSet, Text, read_npz, read_text, write_npz
from l2o.io.data._sources import SOURCES, Source
from l2o.io.door import is_file_stem
from l2o.io.extras import extra


def names(kind: str | None = None) -> list[str]:
    """The names of all sets, or of those of one kind: "images", "table" or "text"."""
    return [name for name, source in SOURCES.items() if kind in (None, source.kind)]


def describe(name: str) -> str:
    """What the data set holds, where it is published, its licence, and what to cite."""
    source = _source(name)
    lines = [f"{name}: {source.about}", f"Homepage: {source.homepage}", f"Licence: {source.licence}"]
    return "\n".join([*lines, f"Cite: {source.citation}"])


def load(name: str) -> DataSet:
    """Load a data set as NumPy arrays: images uint8 `[n, h, w, c]` or a table float32 `[n, features]`, labels int32 `[n]`.

    Looks in `$L2O_DATA`, in the cache and on the system; then downloads the set, once, into the cache.

    ```python
    x_train, y_train, x_test, y_test = l2o.data.load("mnist_sample")
    ```
    """
    source = _source(name)
    if source.kind == "text":
        raise ValueError(f"{name!r} is a text. Load it by `load_text({name!r})`.")
    table = source.kind == "table"
    if source.packaged:
        with resources.as_file(resources.files("l2o.io.data") / source.packaged) as path:
            return read_npz(path, table=table)
    npz_names = source.npz_names or (f"{name}.npz",)
    cached = _cache_folder() / f"{name}.npz"
    looked = [folder / npz for folder in _user_folders() for npz in npz_names] + [cached]
    for path in looked:
        if path.is_file():
            return read_npz(path, table=table)
    if source.system_folder:
        if source.system_folder.is_dir():
            return source.parse(source.system_folder)
        looked.append(source.system_folder)
    places = [str(path) for path in looked]
    if source.files:
        try:
            return _download(source, cached)
        except OSError as error:  # requests' exceptions are OSErrors too
            places.append(f"{source.url} ({type(error).__name__}: {error})")
    raise FileNotFoundError(_missing(name, source, npz_names, places))


def load_text(name: str) -> Text:
    """Load a text as the numbers of its characters. Your own: `NAME.txt`, in UTF-8, in the folder `$L2O_DATA`.

    ```python
    train, test, vocabulary = l2o.data.load_text("persuasion")
    "".join(vocabulary[i] for i in train[:10])  # 'Persuasion'
    ```
    """
    if name in names("text") and (packaged := SOURCES[name].packaged):
        with resources.as_file(resources.files("l2o.io.data") / packaged) as path:
            return read_text(path)
    looked = [folder / f"{name}.txt" for folder in _user_folders() if is_file_stem(name)]
    for path in looked:
        if path.is_file():
            return read_text(path)
    places = f" (no file {looked[0]})" if looked else ""
    raise ValueError(
        f"No text named {name!r}{places}. Texts: {', '.join(names('text'))}; or set L2O_DATA to a folder that holds "
        f"{name}.txt."
    )


def _source(name):
    if name not in SOURCES:
        raise ValueError(f"No data set named {name!r}. Data sets: {', '.join(SOURCES)}.")
    return SOURCES[name]


def _user_folders():
    root = os.environ.get("L2O_DATA")
    return [Path(root).expanduser()] if root else []


def _cache_folder():
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "l2o"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "l2o"


def _download(source: Source, target: Path) -> DataSet:
    with extra("data", f"{target.stem!r} is not here, and downloading it"):
        import pooch
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for file, checksum in source.files.items():
            try:
                pooch.retrieve(source.url + file, checksum, fname=file, path=folder)
            except ValueError as error:  # pooch's, of a checksum that differs
                raise ValueError(
                    f"{source.url}{file} did not arrive as published, and nothing of it was kept: {error} "
                    "Try again; if this lasts, the network or the publisher has changed the file."
                ) from error
        data = source.parse(Path(folder))
    write_npz(target, data)
    return data


def _missing(name, source, npz_names, places):
    lines = [
        f"No data for {name!r}. Looked at",
        *(f"  {place}" for place in places),
        f"Set L2O_DATA to a folder that holds {' or '.join(npz_names)} with the arrays "
        f"{', '.join(DataSet._fields)} (or x, y, which load splits): "
        "images uint8 [n, h, w] or [n, h, w, c], labels integers [n].",
    ]
    if source.files:
        lines.append(f"Where the network is open, load({name!r}) makes that file and leaves it in its cache.")
    if source.hint:
        lines.append(source.hint)
    return "\n".join(lines)
