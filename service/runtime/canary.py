"""A made-up panorama that readiness sends through decoding, encoding and search."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image


@functools.cache
def canary_panorama() -> bytes:
    """A 256x128 JPEG of a smooth gradient: the same bytes every time, seen nowhere on Earth."""
    rows, columns = np.mgrid[0:128, 0:256]
    pixels = np.stack([columns % 256, rows * 2, 255 - rows], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()
