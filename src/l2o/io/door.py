"""The one door for what comes out of a file that someone else may have made. Neither JAX nor PyTorch here.

A reader says what it expects (a `msgspec.Struct` for JSON, dtypes for arrays); whatever else a file holds, however damaged or
hostile, ends here in a `ValueError` of one line that names the file and the field. Nothing is unpickled, no string chooses
code, and memory is bounded by the size of the file before it is taken.
"""

import contextlib
import io
import json
import math
import re
import stat
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

_JSON_LIMIT = 2**26  # bytes of a JSON file
_ARRAYS_LIMIT = 2**30  # bytes of all arrays of an npz file together
_RATIO = 100  # times its own size an npz file may unpack to, beyond 64 MiB; deflate could go to 1,032
_DEPTH = 64  # of JSON within JSON
_HEADER_LIMIT = 2**23  # bytes of a safetensors header
FLOATS = ("F64", "F32", "F16", "BF16")  # dtypes of safetensors files
ANYTHING = (*FLOATS, "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
HINT = "It was not written by l2o, or is damaged: replace it."


def refused(where: str | Path, field: str, what: str) -> ValueError:
    """The error, to be raised, for a `field` of the file (or whatever else) called `where`: `what` says what is wrong."""
    return ValueError(f"{one_line(where)}: `{one_line(field)}`: {one_line(what).rstrip('.')}. {HINT}")


def damaged(path: str | Path, what: str, error: object) -> ValueError:
    """The error, to be raised, for a file that is not whole, or is no file of the kind `what`."""
    return ValueError(
        f"{one_line(path)} is not a whole {what} ({one_line(error)}). It may be truncated or of another kind."
    )


def open_bounded(path: str | Path, limit: int | None = None) -> BinaryIO:
    """A regular file of at most `limit` bytes, open for reading.

    **Raises:** `ValueError` if it is a device or a pipe (which may have no end), or longer; `OSError` if it cannot be read.
    """
    info = Path(path).stat()  # before opening, which waits for a pipe's other end
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        raise ValueError(f"{one_line(path)} is not a regular file.")
    if limit is not None and info.st_size > limit:
        raise ValueError(f"{one_line(path)} has {info.st_size:,} bytes, more than the {limit:,} that are read. {HINT}")
    return open(path, "rb")  # of a folder the system says that it is one


def read_text(path: str | Path, *, limit: int = _JSON_LIMIT) -> str:
    """A text in UTF-8 as it lies in the file; to be shown, it goes through `printable`.

    **Raises:** `ValueError` if it is too long or not UTF-8; `OSError` if it cannot be read.
    """
    with open_bounded(path, limit) as file:
        try:
            return file.read(limit + 1).decode()
        except UnicodeDecodeError as error:
            raise damaged(path, "text in UTF-8", error) from error


def read_json(path: str | Path, type: Any, *, finite: bool = True, limit: int = _JSON_LIMIT) -> Any:
    """The contents of a JSON file as `type`: a `msgspec.Struct`, or anything that `msgspec.convert` knows.

    **Arguments:** `finite`: refuse NaN and infinity, as numbers of a file rarely may be.

    **Raises:** `ValueError` naming the file and the field; `OSError` if it cannot be read.
    """
    return parse_json(read_text(path, limit=limit), type, path=path, finite=finite)


def parse_json(text: str, type: Any, *, path: str | Path, where: str = "", finite: bool = True) -> Any:
    """As `read_json`, of JSON that is the text of the field `where` of a file, or one of its lines."""
    named = f"{one_line(path)}: `{where}`" if where else one_line(path)
    try:
        hooks: dict[str, Any] = {"parse_constant": _no_constant, "parse_float": _finite_float} if finite else {}
        found = json.loads(text, **hooks)
        _check_tree(found, "\\u" in text)
    except (ValueError, RecursionError) as error:  # json's own error is a ValueError too
        why = "it is nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise ValueError(f"{named} is not the JSON that was expected ({why}). {HINT}") from error
    return convert(found, type, path=path, where=where)


def convert(found: Any, type: Any, *, path: str | Path, where: str = "") -> Any:
    """What JSON holds as `type`; the field that does not fit is named, within `where`.

    **Raises:** `ValueError`.
    """
    try:
        return msgspec.convert(found, type, strict=True)
    except msgspec.ValidationError as error:
        what, _, field = str(error).partition(" - at `$")
        if what.startswith("Expected `") and "got" not in what:
            what = f"{what}, got {shown(_at(found, field.rstrip('`')))}"
        field = ".".join(part for part in (where, field.rstrip("`").lstrip(".")) if part)
        if not field:
            raise ValueError(f"{one_line(path)}: {one_line(what)}. {HINT}") from error
        raise refused(path, field.replace(".[", "["), what) from error
    except RecursionError as error:
        raise refused(path, where or "it", "nested too deeply") from error


def _at(found: Any, field: str) -> Any:
    """The value at a path as msgspec writes it: .name, [3], and [...] for some value of a mapping."""
    for name, index in re.findall(r"\.([^.\[]+)|\[([^\]]+)\]", field):
        if index == "...":
            return found
        found = found[name] if name else found[int(index)]
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is not finite")
    return number


def _check_tree(found: Any, escapes: bool) -> None:
    """Refuses what is nested deeper than any of our files, and strings that no output can encode."""
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > _DEPTH:
            raise ValueError(f"it is nested deeper than {_DEPTH} levels")
        below = []
        for each in level:
            if isinstance(each, dict):
                below.extend(each.values())
                if escapes:
                    below.extend(each)
            elif isinstance(each, list):
                below.extend(each)
            elif escapes and isinstance(each, str) and _SURROGATES.search(each):
                raise ValueError(f"the string {shown(each)} is no text")
        level = below


def read_arrays(path: str | Path, *, kinds: str = "biufcU", limit: int = _ARRAYS_LIMIT) -> dict[str, np.ndarray]:
    """All arrays of an npz file by name. Nothing is unpickled; every size is checked before memory is taken for it.

    **Arguments:** `kinds`: of dtypes, as in `numpy.dtype.kind`. - `limit`: bytes of all arrays together.

    **Raises:** `ValueError` naming the file, and the array where it is one; `OSError` if it cannot be read.
    """
    with open_bounded(path, limit) as file:
        # Every exception, as a damaged file fails in many ways: in the zip, in zlib, in an array's header.
        try:
            return _unzipped(file, kinds, limit)
        except Exception as error:
            why = str(error) or type(error).__name__
            raise damaged(path, "npz file of l2o's", why) from error


def _unzipped(file, kinds, limit):
    size = file.seek(0, 2)
    limit = min(limit, max(2**26, _RATIO * size))
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > limit:
            raise ValueError(f"it would unpack to {total:,} bytes, more than the {limit:,} allowed")
        arrays = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            # Other methods unpack without regard to the declared size.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or name == member.filename:
                raise ValueError(f"{shown(member.filename)} is not an array as NumPy writes it")
            if name in arrays:
                raise ValueError(f"two arrays are called {shown(name)}")
            arrays[name] = _array(archive.read(member), name, kinds)
        return arrays


def _array(content, name, kinds):
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{shown(name)} is of the version {version} of NumPy's format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.kind not in kinds or dtype.itemsize == 0:
        raise ValueError(f"{shown(name)} is of the dtype {dtype}")
    offset = stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content) - offset:
        raise ValueError(f"{shown(name)} is said to be {dtype} {list(shape)}, but has {len(content) - offset:,} bytes")
    flat = np.frombuffer(content, dtype, offset=offset) if len(content) > offset else np.empty(0, dtype)
    flat = flat.astype(dtype.newbyteorder("="))  # a copy, too: what lies in the bytes is read-only
    # What no bool and no character can be, and NumPy trips over only when it is used.
    if (dtype.kind == "b" and np.any(flat.view(np.uint8) > 1)) or (
        dtype.kind == "U" and any(_SURROGATES.search(text) for text in flat.tolist())
    ):
        raise ValueError(f"{shown(name)} holds bytes that are no {dtype}")
    return flat.reshape(shape, order="F" if fortran_order else "C")


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, before any of its arrays are looked at.

    **Raises:** as `read_safetensors`.
    """
    with _safetensors(path, None) as file:
        return dict(file.metadata() or {})


def read_safetensors(
    path: str | Path, *, dtypes: Collection[str] = FLOATS, finite: bool = True, limit: int | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and the metadata, of a safetensors file.

    **Arguments:**

    - `dtypes`: allowed, by their names in the file: `FLOATS`, or `ANYTHING` that NumPy has.
    - `finite`: refuse NaN and infinity. - `limit`: bytes of the file; all of it is read.

    **Raises:** `ValueError` naming the file, and the array where it is one; `OSError` if it cannot be read.
    """
    with _safetensors(path, limit) as file:
        stored = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118 (not a dict)
        wrong = [name for name, dtype in stored.items() if dtype not in dtypes]
        arrays = {} if wrong else {name: file.get_tensor(name) for name in stored}
        metadata = dict(file.metadata() or {})
    if wrong:
        what = f"numbers of the dtype {stored[wrong[0]]}, expected one of {', '.join(dtypes)}"
        raise refused(path, _short(wrong[0]), what)
    if finite:
        check_finite(arrays, path)
    return arrays, metadata


@contextlib.contextmanager
def _safetensors(path, limit):
    """The open file; whatever goes wrong within is said to be damage."""
    import safetensors

    what = "safetensors file"
    with open_bounded(path, limit) as file:
        declared = int.from_bytes(file.read(8), "little")
    if declared > _HEADER_LIMIT:
        raise damaged(path, what, f"a header of {declared:,} bytes, more than {_HEADER_LIMIT:,}")
    # Every exception, not only safetensors' own: NumPy and Python raise theirs below it.
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            yield file
    except Exception as error:
        raise damaged(path, what, str(error) or type(error).__name__) from error


def check_finite(arrays: Mapping[str, np.ndarray], where: str | Path) -> None:
    """Refuses NaN and infinity.

    **Raises:** `ValueError` naming the file and the array.
    """
    for name, array in arrays.items():
        bad = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise refused(where, _short(name), f"{bad:,} of its {np.size(array):,} numbers are NaN or infinite")


# Escape sequences as a whole (CSI; OSC and the other strings; two characters), then every control character but tab and
# newline, the marks that turn the direction of text around, and separators that some terminals take for newlines.
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"
    "|\x1b[ -/]*[0-~]"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """`text` without what would steer a terminal rather than be read: for all that is shown of a file."""
    return _SURROGATES.sub("\ufffd", _CONTROL.sub("", text))


def one_line(text: object) -> str:
    """`text`, such as a path or another library's message, in one printable line."""
    return " ".join(printable(str(text)).splitlines())


def shown(value: Any, most: int = 80) -> str:
    """A value of a file for a message: its `repr`, which escapes what is not printable, cut after `most` characters."""
    return _short(printable(repr(value)), most)


def _short(text, most=80):
    text = one_line(text)
    return text if len(text) <= most else f"{text[:most]}..."


_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def is_plain_name(name: str) -> bool:
    """Whether a string of a file is a name and nothing else: no path, no reference to code, no option, not hidden."""
    return _PLAIN.fullmatch(name) is not None and ".." not in name


def is_file_stem(name: str) -> bool:
    """Whether NAME.npz, say, is a file right in a folder: of names that users give, which need not be plain."""
    return bool(name) and not {"/", "\\", "\0"} & set(name) and name not in (".", "..")
