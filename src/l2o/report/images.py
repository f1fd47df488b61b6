"""Contact sheets of the images that runs ended with, as data that a page can hold."""

import base64
import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from l2o.evaluation.records import Comparison
from l2o.io.extras import extra

_GAP = 4  # pixels between images


def sheets(comparison: Comparison, most_bytes: int = 2_000_000) -> dict[str, dict[str, str]]:
    """By panel and optimizer, a PNG data URI of its images side by side.

    Images are shrunk by whole factors until all sheets together have at most `most_bytes`; the figures beside the page are not.
    """
    found = {
        panel: {n: r.images for n, r in records.items() if r.images is not None and len(r.images)}
        for panel, records in comparison.records.items()
    }
    for factor in (1, 2, 3, 4, 6, 8, 12, 16):
        encoded = {p: {n: _uri(_sheet(images, factor)) for n, images in f.items()} for p, f in found.items() if f}
        if _size(encoded) <= most_bytes:
            break
    return encoded


def _size(encoded: Mapping[str, Mapping[str, str]]) -> int:
    return sum(len(uri) for sheets in encoded.values() for uri in sheets.values())


def _sheet(
    images: Float[np.ndarray, "num height width 3"], factor: int
) -> UInt8[np.ndarray, "sheet_height sheet_width 4"]:
    _, height, width, _ = images.shape
    factor = min(factor, height, width)
    height, width = height - height % factor, width - width % factor
    small = (
        images[:, :height, :width]
        .reshape(len(images), height // factor, factor, width // factor, factor, 3)
        .mean(axis=(2, 4))
    )
    small = np.concatenate([small, np.ones((*small.shape[:3], 1))], axis=3)
    gap = np.zeros((small.shape[1], _GAP, 4))  # transparent
    strip = np.concatenate([part for image in small for part in (image, gap)][:-1], axis=1)
    return np.round(255 * strip).astype(np.uint8)


def _uri(image):
    with extra("report", "A sheet of images"):
        import matplotlib.image

    file = io.BytesIO()
    matplotlib.image.imsave(file, image, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
