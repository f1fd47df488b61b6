"""Picture files, of whatever size and kind, as pictures to paint: RGB of 8 bits, upright, no larger than is of use."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from l2o.io import door

MOST_PIXELS = 48_000_000  # decoded at once, at four bytes each, and as much again to convert them
_AS_IT_IS = 16_000_000  # pixels of which a picture is not reduced before it is converted
_MOST_BYTES = 2**29  # of a file
_GAP = 3  # times the size it is resized to in the end that a large picture keeps: its pixels may be averaged until then
# Formats that hold pixels. Pillow knows more: with EPS it runs an interpreter, others it hands to plug-ins.
_FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "MSP", "PCX", "PNG", "PPM", "QOI", "SGI", "SUN"),
    *("TGA", "TIFF", "WEBP", "XBM", "XPM"),
)
_WEIGHTS = {"JPEG2000": 4, "AVIF": 2, "WEBP": 2}  # how much more a pixel of these takes while it is decoded
_PHOTOMETRIC, _ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 262, 274, 322, 323  # tags of TIFF and EXIF
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(path: Path, longest: int) -> Image.Image:
    """An RGB picture, upright, transparent parts white; of an animation, the first picture.

    Large ones are reduced, but never below `_GAP` times `longest`, the pixels of a side that they are to have in the end. Grey
    values of 16 bits are scaled to 8 bits, floating-point ones from [0, 1].

    **Raises:** `FileNotFoundError`; `ValueError` naming the file if it is no picture, or one of too many pixels.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no picture {path}.")
    # Every exception, as a damaged file fails in many ways in Pillow's many readers, whose warnings are of no use here.
    try:
        door.open_bounded(path, _MOST_BYTES).close()
        Image.init()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as file:
                return _upright(file, longest)
    except _TooLargeError as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        why = "cannot identify its format" if unknown else door.one_line(error) or type(error).__name__
        raise ValueError(f"{path} is not a picture that can be read: {why.rstrip('.')}.") from error


class _TooLargeError(Exception):
    """Of a picture whose pixels are not decoded, saying why."""


def _upright(file, longest):
    _check_size(file, longest)
    picture = _of_8_bits(file, longest)
    orientation = file.getexif().get(_ORIENTATION)  # TIFF's reader turns the picture itself, and then forgets it
    if orientation in _TURNED:
        picture = picture.transpose(_TURNED[orientation])
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _check_size(file, longest):
    """Looks at the size before pixels are decoded; JPEG can be decoded smaller than it is."""
    width, height = file.size
    if file.format in ("JPEG", "MPO") and not file.info.get("progressive") and width * height > _AS_IT_IS:
        file.draft(None, (_GAP * longest, _GAP * longest))
    num = file.width * file.height
    if file.format == "TIFF":
        tile = [file.tag_v2.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        num = max(num, tile[0] * tile[1])
    most = MOST_PIXELS // _WEIGHTS.get(file.format, 1)
    if num > most:
        raise _TooLargeError(
            f"has {width} x {height} pixels, and of {file.format} at most {most:,} are read at once. Make it smaller first, or "
            "save it as JPEG that is not progressive, of which less needs to be decoded."
        )


def _of_8_bits(file, longest):
    """The picture as RGB, RGBA or L."""
    mode = file.mode
    if mode not in ("I", "F") and not mode.startswith("I;16"):
        if file.format == "PNG" and "transparency" in file.info:
            raw = file.tile[0][3]
            scaled = _TRANSPARENT.get(raw if isinstance(raw, str) else raw[0], lambda value: value)
            file.info["transparency"] = scaled(file.info["transparency"])
        has_alpha = mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in file.info
        return _reduced(file.convert("RGBA" if has_alpha else "RGB"), longest)
    if mode in ("I", "F"):
        low, high = file.getextrema()
        most = 1 if mode == "F" else 65535
        if not (low >= 0 and high <= most):
            raise ValueError(
                f"its grey values go from {low:g} to {high:g}, and must be from 0 to {most}, or what is black and what is "
                "white is not known"
            )
    numbers = np.asarray(_reduced(file, longest) if mode in ("I", "F") else file)
    if not np.isfinite(numbers).all():
        raise ValueError("its grey values are not all finite")
    grey = np.round(255 * numbers).astype(np.uint8) if mode == "F" else _TO_8_BITS[numbers]
    if "transparency" in file.info:  # one of the grey values, of PNG
        grey = np.where(numbers == file.info["transparency"], np.uint8(255), grey)
    # Pillow, which turns negatives of 8 bits into positives, leaves these.
    negative = file.format == "TIFF" and file.tag_v2.get(_PHOTOMETRIC) == 0
    return _reduced(Image.fromarray(255 - grey if negative else grey), longest)


# What Pillow makes of the numbers of a PNG file, and forgets to make of the one that is transparent.
_TRANSPARENT = {
    "L;2": lambda grey: 85 * grey,
    "L;4": lambda grey: 17 * grey,
    "RGB;16B": lambda colour: tuple(value >> 8 for value in colour),
}
_TO_8_BITS = np.round(np.arange(65536) / 257).astype(np.uint8)


def _reduced(picture, longest):
    factor = max(picture.size) // (_GAP * longest)
    factor = min(factor, *picture.size)
    return picture.reduce(factor) if factor > 1 and picture.width * picture.height > _AS_IT_IS else picture
