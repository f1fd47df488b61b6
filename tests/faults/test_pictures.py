"""Pictures: decoded within bounds, and to the colours that they mean."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from l2o.cli._app import app

# ---- S5, W12: pictures


def read(path, longest=512):
    from l2o.cli import _pictures

    return _pictures.read(path, longest)


MEMORY = """
import resource, sys
from pathlib import Path
from PIL import Image
from l2o.cli import _pictures
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(_pictures.read(Path(sys.argv[1]), 512).size)
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_s5_a_picture_of_too_many_pixels_is_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (12000, 12000)).save(path)
    assert path.stat().st_size < 10**5
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    said, megabytes = done.stdout.splitlines()
    assert said.startswith(
        f"{path} has 12000 x 12000 pixels, and of PNG at most 48,000,000 are read at once. Make it smaller"
    )
    assert int(megabytes) < 50


def test_s5_a_photograph_is_decoded_no_larger_than_is_of_use(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("L", (12000, 8000), 77).save(path)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    size, megabytes = done.stdout.splitlines()
    assert size == "(3000, 2000)"  # the smallest that JPEG decodes to of at least 3 x 512
    assert int(megabytes) < 100


def test_s5_no_interpreter_is_run_and_no_device_is_read(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%touch fired) (w) file\n")
    for each in (path, tmp_path, Path(os.devnull)):
        with pytest.raises(ValueError, match="is not a picture that can be read: "):
            read(each)


GREY = np.array([[0, 13107, 26214], [39321, 52428, 65535]], np.uint16)
EXPECTED = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def portable(grey):
    return b"P5 3 2 65535\n" + grey.astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("name", "picture", "options"),
    [
        ("16.png", GREY, {}),
        ("16.tif", GREY, {}),
        ("big-endian.tif", GREY.astype(">u2"), {}),
        ("negative.tif", GREY[::-1, ::-1].copy(), {"tiffinfo": {262: 0}}),
        ("32.tif", GREY.astype(np.int32), {}),
        ("16.pgm", portable(GREY), {}),
        ("float.tif", (GREY / 65535).astype(np.float32), {}),
        ("8.png", EXPECTED, {}),
    ],
)
def test_w12_grey_of_16_bits_and_floating_point_is_scaled(tmp_path, name, picture, options):
    path = tmp_path / name
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    else:
        Image.fromarray(picture).save(path, **options)
    np.testing.assert_array_equal(np.asarray(read(path)), np.repeat(EXPECTED[..., None], 3, axis=2))


def png(row, width, depth, colour, transparent):
    """A PNG file of one row of grey (`colour` 0) or RGB (2) numbers, one of which is transparent."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    chunks = {b"IHDR": header, b"tRNS": transparent, b"IDAT": zlib.compress(b"\0" + row), b"IEND": b""}
    found = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks.items():
        found += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return found


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (png(GREY[0].astype(">u2").tobytes(), 3, 16, 0, b"\x33\x33"), [0, 255, 102]),
        (png(bytes([0b00011011]), 4, 2, 0, b"\0\x01"), [0, 255, 170, 255]),
        (png(bytes([0x12, 0x30]), 3, 4, 0, b"\0\x02"), [17, 255, 51]),
        (png(bytes([1, 2, 3]), 3, 8, 0, b"\0\x02"), [1, 255, 3]),
        (png(bytes([7, 9] * 3 + [5, 0] * 3), 2, 16, 2, bytes([7, 9] * 3)), [255, 5]),
    ],
    ids=["16", "2", "4", "8", "RGB of 16"],
)
def test_w12_the_transparent_number_of_a_png_is_white(tmp_path, picture, expected):
    (tmp_path / "it.png").write_bytes(picture)
    np.testing.assert_array_equal(
        np.asarray(read(tmp_path / "it.png"))[0], np.repeat(np.array(expected)[:, None], 3, axis=1)
    )


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.array([[0.0, 255.0]], np.float32), "grey values go from 0 to 255, and must be from 0 to 1"),
        (np.array([[-0.5, 1.0]], np.float32), "grey values go from -0.5 to 1"),
        (np.array([[0.0, np.nan, 1.0]], np.float32), "grey values are not all finite"),
        (np.array([[0, 70000]], np.int32), "grey values go from 0 to 70000, and must be from 0 to 65535"),
        (np.array([[-1, 7]], np.int32), "grey values go from -1 to 7"),
    ],
)
def test_w12_grey_of_unknown_scale_is_refused(tmp_path, picture, message):
    Image.fromarray(picture).save(tmp_path / "grey.tif")
    with pytest.raises(ValueError, match=rf"grey\.tif is not a picture that can be read: .*{message}"):
        read(tmp_path / "grey.tif")


def test_w12_other_kinds_are_what_they_were(tmp_path):
    """Palettes, animations, orientations, transparency."""
    colours = Image.new("RGB", (4, 2), "white")
    colours.paste("red", (0, 0, 1, 2))
    turned = Image.Exif()
    turned[274] = 6
    for name in ("a.png", "a.tif", "a.webp"):
        colours.save(tmp_path / name, exif=turned, **({"lossless": True} if name == "a.webp" else {}))
        picture = read(tmp_path / name)
        assert (picture.mode, picture.size) == ("RGB", (2, 4))
        assert [picture.getpixel((0, y)) for y in (0, 3)] == [(255, 0, 0), (255, 255, 255)]
    colours.quantize().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("P", (4, 2))])
    np.testing.assert_array_equal(np.asarray(read(tmp_path / "a.gif")), np.asarray(colours))
    content = io.BytesIO()
    colours.quantize().save(content, "PNG", transparency=colours.quantize().getpixel((0, 0)))
    (tmp_path / "clear.png").write_bytes(content.getvalue())
    assert read(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_w12_sizes_of_no_pixels_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    arguments = ["stylize", "--content", tmp_path / "a.png", "--style", tmp_path / "a.png", "--size", "0"]
    done = CliRunner().invoke(app, [str(x) for x in arguments])
    assert done.exit_code == 2
    assert "--size must be at least 1, got 0." in done.output
