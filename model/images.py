"""Encoded image bytes to uint8 RGB arrays, within stated bounds.

Knows nothing of panoramas, tiles or the network. Training and serving both decode here: another
decoder changes the descriptors.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from model.errors import SkyfixError

log = logging.getLogger(__name__)

Rgb = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 16_384 * 8_192  # the largest panorama cameras write: 134 megapixels
MIN_SIDE = 16  # nothing smaller shows a street
MAX_DECODED_BYTES = 512 * 1024 * 1024
MAX_METADATA_BYTES = 64 * 1024  # of XMP or EXIF, as in a JPEG; parsed they take 60 times as much
MAX_SCANS = 100  # of a JPEG: each passes over all its pixels; ordinary progressive files have 10
MAX_SEGMENTS = 65_536  # of a JPEG: two microseconds each
MAX_READS = 4 * MAX_SEGMENTS  # Pillow's: some for each segment or chunk, one for each stray byte
_MAX_EXIF_SEGMENTS = 16  # Pillow joins and parses them while it opens a JPEG

# Peak bytes a pixel, measured, of what cannot be decoded at a reduced scale: WebP holds four
# canvases, a JPEG of several scans two bytes for each component's coefficient. Baseline JPEGs in
# one scan are bounded by MAX_PIXELS alone.
_WHOLE_BYTES = {"PNG": 9, "WEBP": 16}
_COEFFICIENT_BYTES = 2
_BASELINE = "baseline JPEG"

# Where libjpeg, scanning for it, finds the next segment: FF00 is a byte of the picture, FFFF fill,
# restarts (D0 to D7) belong to their scan, and what is below C0 it passes over or refuses.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_FRAMES = {0xC0 + low for low in range(16)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_MCU_ROWS = 32  # at most: four blocks
_REFUSED = {0xC8, 0xD8, *range(0xF0, 0xFE)}  # by libjpeg; Pillow would read on behind them

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
        ImageError: empty, not JPEG/PNG/WebP, or its stated size or structure is out of bounds.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes): send a JPEG, PNG or WebP file")
    kind = _coding(data).kind
    try:
        with without_warnings():
            image = Image.open(_Bounded(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image exceeds the limit of {max_pixels} pixels: {error}") from error
    except UnidentifiedImageError:
        raise ImageError(f"not a {', '.join(FORMATS)} image ({len(data)} bytes)") from None
    except Exception as error:  # Pillow's parsers raise whatever hostile bytes provoke
        raise ImageError(
            f"not a readable {', '.join(FORMATS)} image ({len(data)} bytes): {error}"
        ) from error
    width, height = image.size
    limit = max_pixels
    if kind != _BASELINE:
        size = _WHOLE_BYTES.get(kind, _COEFFICIENT_BYTES * len(image.getbands()))
        limit = min(limit, MAX_DECODED_BYTES // size)
    if width * height > limit:
        raise ImageError(
            f"the image is {width}x{height} = {width * height} pixels; the limit of a {kind} is "
            f"{limit}"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"the image is {width}x{height}; each side needs {MIN_SIDE} pixels")
    return image


class _Coding(NamedTuple):
    """What bounds the image's pixels, its format and of a JPEG how it is coded; and of a baseline
    JPEG where the segments of its frame and of its scan begin."""

    kind: str
    frame: int = 0
    scan: int = 0


def _coding(data: bytes) -> _Coding:
    """libjpeg holds all coefficients unless one sequential scan has all components.

    Raises:
        ImageError: a JPEG without a scan, or of more scans, segments or EXIF than cameras write.
    """
    if not data.startswith(b"\xff\xd8"):
        return _Coding("PNG" if data.startswith(b"\x89PNG") else "WEBP")
    kind, frame, components, scans, exifs = _BASELINE, 0, 0, 0, 0
    for marker, at, segment in _segments(data):
        if marker in _FRAMES:
            kind, frame = "progressive JPEG" if marker in _PROGRESSIVE else _BASELINE, at
            components = int.from_bytes(segment[7:8], "big")
        elif marker == _SCAN:
            scans += 1
            if kind == _BASELINE:
                if int.from_bytes(segment[2:3], "big") >= components:
                    return _Coding(kind, frame, at)
                kind = "JPEG of several scans"
        elif marker == _APP1:
            exifs += segment.startswith(b"Exif\0\0", 2)
        if scans > MAX_SCANS:
            raise ImageError(f"the JPEG has more than {MAX_SCANS} scans")
        if exifs > _MAX_EXIF_SEGMENTS:
            raise ImageError(f"the JPEG has more than {_MAX_EXIF_SEGMENTS} segments of EXIF")
    if not scans:
        raise ImageError(f"not a whole JPEG ({len(data)} bytes): it ends before its first scan")
    return _Coding(kind)


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, place and segment, from its length on, up to the end of a JPEG or where it is cut."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or found[1][0] == _END:
            return
        if found[1][0] in _REFUSED:
            raise ImageError(f"the JPEG is damaged: unknown marker FF{found[1][0]:X}")
        at = found.end()
        length = max(2, int.from_bytes(data[at : at + 2], "big"))
        yield found[1][0], at, data[at : at + length]
        at += length
    raise ImageError(f"the JPEG has more than {MAX_SEGMENTS} segments")


class _Bounded(io.BytesIO):
    """The bytes, for parsers in Python that read them piece by piece, down to one at a time."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ImageError(f"it falls into more than {MAX_READS} pieces")
        return super().read(size)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow warns from 89 megapixels (the bound here is explicit) and of damaged metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def read_exif(image: Image.Image) -> Image.Exif:
    """The EXIF fields; none where they are absent or damaged, and the log says so.

    Unlike Pillow's `getexif`, decodes no pixel of a PNG.
    """
    exif = Image.Exif()
    data = image.info.get("exif", b"")
    if len(data) > MAX_METADATA_BYTES:
        log.warning("the EXIF metadata has %d bytes, too many, and is ignored", len(data))
        return exif
    try:
        with without_warnings():
            exif.load(data)
    except Exception as error:  # damaged EXIF raises whatever its parser meets
        log.warning("the EXIF metadata cannot be parsed and is ignored: %s", error)
        return Image.Exif()
    return exif


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) that `decode_image` gives, from the header alone. Raises ImageError."""
    return upright_size(open_image(data))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened image once its EXIF orientation is applied."""
    lying = read_exif(image).get(_ORIENTATION) in _LYING
    return image.size if lying else (image.height, image.width)


def decode_image(
    data: bytes,
    *,
    min_size: tuple[int, int] | None = None,
    rows: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Rgb:
    """Decode to RGB, upright.

    Args:
        data: a JPEG, PNG or WebP file; the first frame of an animation is used.
        min_size: (height, width) that suffices: a JPEG larger than that is decoded at the
            smallest of the scales 1/2, 1/4, 1/8 that keeps both sides at least so large; others
            are averaged down by a whole number that keeps both sides at least twice so large.
        rows: of an image stored upright so many suffice, from the top, before any scaling: those
            of a JPEG in one sequential scan that lie below them may be left black.
        max_pixels: refuse images whose header states more, before decoding a pixel.

    Returns:
        uint8 (H, W, 3). EXIF orientation is applied; transparency is laid on black.

    Raises:
        ImageError: see `open_image`; also truncated or corrupt pixel data.
    """
    image = open_image(data, max_pixels=max_pixels)
    orientation = read_exif(image).get(_ORIENTATION)
    is_jpeg = isinstance(image, JpegImageFile)  # also where its format is MPO, several in a file
    stored = image.size
    if min_size is not None and is_jpeg:
        height, width = min_size
        image.draft(None, (height, width) if orientation in _LYING else (width, height))
    if rows is not None and is_jpeg and orientation not in _UPRIGHT:
        upper = _upper(data, rows, stored, image.size)
        if upper is not None:
            return upper
    try:
        with without_warnings():
            image.load()
        if min_size is not None and not is_jpeg:
            image = _reduced(image, min_size[::-1] if orientation in _LYING else min_size)
        upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
        return np.asarray(_to_rgb(upright), dtype=np.uint8)
    except Exception as error:  # see open_image
        raise ImageError(f"the image is damaged and cannot be decoded: {error}") from error


def _upper(data: bytes, rows: int, stored: tuple[int, int], scaled: tuple[int, int]) -> Rgb | None:
    """A JPEG of which so many rows are decoded, and at least an MCU more, for the last rows'
    colours are not interpolated as they were; black below. As if the file were no higher.

    stored, scaled: (width, height) in the file, and as it is to be decoded. None where that saves
    nothing, where the rows do not come in order, and where only the whole file can tell whether it
    is damaged: libjpeg looks for the end of what it leaves, but does not miss it.
    """
    width, height = stored
    kept = (-(-rows // _MCU_ROWS) + 1) * _MCU_ROWS
    if kept >= height:
        return None
    coding = _coding(data)
    if coding.kind != _BASELINE or data.rfind(bytes([0xFF, _END]), coding.scan) < 0:
        return None
    rest = memoryview(data)[coding.frame + 5 :]
    shorter = b"".join([data[: coding.frame + 3], kept.to_bytes(2, "big"), rest])
    scale = next(one for one in (1, 2, 4, 8) if -(-width // one) == scaled[0])
    try:
        image = open_image(shorter, max_pixels=width * height)
        if image.size != (width, kept):  # Pillow has taken its size from elsewhere
            return None
        image.draft(None, (width // scale, kept // scale))
        with without_warnings():
            upper = np.asarray(_to_rgb(image), dtype=np.uint8)
    except Exception:  # of any kind, see open_image
        return None
    whole = np.zeros((scaled[1], scaled[0], 3), np.uint8)
    whole[: len(upper)] = upper
    return whole


def filled(height: int, width: int, colour: tuple[int, int, int]) -> Rgb:
    """uint8 (height, width, 3) of one colour, set a row at a time: by pixels it takes 20 times."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.full((width, 3), colour, np.uint8)
    return image


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
