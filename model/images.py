"""Encoded image bytes to uint8 RGB arrays, within stated bounds.

Knows nothing of panoramas, tiles or the network. Training and serving both decode here: another
decoder changes the descriptors.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model.errors import SkyfixError

log = logging.getLogger(__name__)

Rgb = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 16_384 * 8_192  # the largest panorama cameras write: 134 megapixels
MIN_SIDE = 16  # nothing smaller shows a street
MAX_DECODED_BYTES = 512 * 1024 * 1024
# Peak bytes a pixel, measured, of what cannot be decoded at a reduced scale: progressive JPEGs hold
# all their coefficients, WebP four canvases. Baseline JPEGs are bounded by MAX_PIXELS alone.
_WHOLE_BYTES = {"JPEG": 6, "PNG": 9, "WEBP": 16}

_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF orientation to what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # stored with sides exchanged


class ImageError(SkyfixError):
    """The bytes are not an image that can be used."""


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image's header, checked: no pixel has been decoded yet.

    Raises:
        ImageError: empty, not JPEG/PNG/WebP, or its stated size is out of bounds.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes): send a JPEG, PNG or WebP file")
    try:
        with _without_warnings():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image exceeds the limit of {max_pixels} pixels: {error}") from error
    except UnidentifiedImageError:
        raise ImageError(f"not a {', '.join(FORMATS)} image ({len(data)} bytes)") from None
    except Exception as error:  # Pillow's parsers raise whatever hostile bytes provoke
        raise ImageError(
            f"not a readable {', '.join(FORMATS)} image ({len(data)} bytes): {error}"
        ) from error
    width, height = image.size
    limit, kind = _pixel_limit(image, max_pixels)
    if width * height > limit:
        raise ImageError(
            f"the image is {width}x{height} = {width * height} pixels; the limit of {kind} is "
            f"{limit}"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"the image is {width}x{height}; each side needs {MIN_SIDE} pixels")
    return image


def _pixel_limit(image: Image.Image, max_pixels: int) -> tuple[int, str]:
    """How many pixels an image of this kind may have, and the kind's name."""
    name = str(image.format)
    if name == "JPEG" and not image.info.get("progressive"):
        return max_pixels, "a baseline JPEG"
    limit = min(max_pixels, MAX_DECODED_BYTES // _WHOLE_BYTES[name])
    return limit, "a progressive JPEG" if name == "JPEG" else f"a {name}"


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Pillow warns from 89 megapixels (the bound here is explicit) and of damaged metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def read_exif(image: Image.Image) -> Image.Exif:
    """The EXIF fields; none where they are absent or damaged, and the log says so.

    Unlike Pillow's `getexif`, decodes no pixel of a PNG.
    """
    exif = Image.Exif()
    try:
        with _without_warnings():
            exif.load(image.info.get("exif", b""))
    except Exception as error:  # damaged EXIF raises whatever its parser meets
        log.warning("the EXIF metadata cannot be parsed and is ignored: %s", error)
        return Image.Exif()
    return exif


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) that `decode_image` gives, from the header alone. Raises ImageError."""
    image = open_image(data)
    lying = read_exif(image).get(_ORIENTATION) in _LYING
    return image.size if lying else (image.height, image.width)


def decode_image(
    data: bytes, *, min_size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Rgb:
    """Decode to RGB, upright.

    Args:
        data: a JPEG, PNG or WebP file; the first frame of an animation is used.
        min_size: (height, width) that suffices: a JPEG larger than that is decoded at the
            smallest of the scales 1/2, 1/4, 1/8 that keeps both sides at least so large; others
            are averaged down by a whole number that keeps both sides at least twice so large.
        max_pixels: refuse images whose header states more, before decoding a pixel.

    Returns:
        uint8 (H, W, 3). EXIF orientation is applied; transparency is laid on black.

    Raises:
        ImageError: see `open_image`; also truncated or corrupt pixel data.
    """
    image = open_image(data, max_pixels=max_pixels)
    orientation = read_exif(image).get(_ORIENTATION)
    if min_size is not None and image.format == "JPEG":
        height, width = min_size
        image.draft(None, (height, width) if orientation in _LYING else (width, height))
    try:
        with _without_warnings():
            image.load()
        if min_size is not None and image.format != "JPEG":
            image = _reduced(image, min_size[::-1] if orientation in _LYING else min_size)
        upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
        return np.asarray(_to_rgb(upright), dtype=np.uint8)
    except Exception as error:  # see open_image
        raise ImageError(f"the image is damaged and cannot be decoded: {error}") from error


def _reduced(image: Image.Image, min_size: tuple[int, int]) -> Image.Image:
    """Averaged before anything copies it, so that a large image is in memory once."""
    factor = min(image.height // (2 * min_size[0]), image.width // (2 * min_size[1]))
    if factor < 2:
        return image
    if "transparency" in image.info:  # a colour, or a palette's entries, that mean nothing
        image = image.convert("RGBA")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = _to_rgb(image)
    return image.reduce(factor)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit values at 255 on conversion; keep the high byte instead.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        canvas = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        canvas.alpha_composite(layered)
        return canvas.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
