"""Names as file names. No JAX here."""

import hashlib
from urllib.parse import quote

_MOST_BYTES = 190  # file systems take 255; endings, process numbers and the like are added to a name
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}  # of Windows


def file_name(name: str) -> str:
    """A file's name for any name at all: of letters, digits, `-`, `_`, `~`, `.` and `%`, different for different names.

    Never empty, hidden, a folder's `.` or `..`, a device's name, or too long: it stays in the folder that it is put in. Letters
    and digits stand for themselves, all else for its bytes in UTF-8 as in an URL.
    """
    quoted = quote(name, safe="", errors="surrogatepass")
    if not quoted:
        return "%"  # which `quote` puts before two digits only, so this and what follows are no other name's
    if len(quoted) > _MOST_BYTES:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        quoted = f"{quoted[: _MOST_BYTES - 34]}%~{digest[:32]}"
    if quoted.startswith(".") or quoted.split(".")[0].upper() in _DEVICES:
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    return f"{quoted[:-1]}%2E" if quoted.endswith(".") else quoted
