"""Encoded image bytes to uint8 RGB arrays, within stated bounds.

Knows nothing of panoramas, tiles or the network. Training and serving both decode here: another
decoder changes the descriptors.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from model.embedded_metadata import find_metadata
from model.errors import ImageError as ImageError
from model.file_kind import kind_of
from model.jpeg_structure import BASELINE, START, JpegStructure, scan_jpeg
from model.partial_jpeg import decode_upper_rows

log = logging.getLogger(__name__)

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # as all decoders here: callers have threads of their own

Rgb = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")  # and HEIC, where the extra `heic` is installed
MAX_PIXELS = 16_384 * 8_192  # the largest panorama that cameras write: 134 megapixels
MIN_SIDE = 16  # nothing smaller shows a street
MAX_DECODED_BYTES = 512 * 1024 * 1024
MAX_EXIF_BYTES = 64 * 1024  # of a block, as in a JPEG; parsing takes 60 times as much
MAX_EXIF_BLOCKS = 4
MAX_READS = 262_144  # Pillow reads a few times a segment or chunk, once a stray byte

# Measured peak bytes a pixel of formats that cannot be decoded at a reduced scale: WebP holds four
# canvases, a JPEG of several scans two bytes for each component's coefficient. Baseline JPEGs are
# bounded by MAX_PIXELS alone. AVIF and HEIC of 10 bits in 4:4:4 take most; HEIF is HEIC.
_WHOLE_BYTES = {"PNG": 9, "WEBP": 16, "AVIF": 16, "HEIF": 10}
_COEFFICIENT_BYTES = 2

_ORIENTATION, _XMP, _DIRECTORIES = 0x0112, 0x02BC, (0x8769, 0x8825)  # EXIF's own, GPS
_UPRIGHT = {  # EXIF orientation to the operation that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # stored with sides exchanged


@dataclass(frozen=True)
class OpenedImage:
    """An image file whose header has been read and checked; no pixel is decoded yet.

    Attributes:
        data: the file's bytes.
        size: (height, width) of the upright image, before any scaling.
        exif: EXIF fields; empty where they are absent or damaged.
        xmp: XMP packets, as the file holds them. A later one goes before an earlier one.
        stored: Pillow's image, as the file holds it, perhaps lying.
        jpeg: structure of a JPEG; None for other formats.
    """

    data: bytes
    size: tuple[int, int]
    exif: Image.Exif
    xmp: tuple[bytes, ...]
    stored: Image.Image
    jpeg: JpegStructure | None

    def decode(self, *, min_size: tuple[int, int] | None = None, rows: int | None = None) -> Rgb:
        """Decode to RGB, upright; for one call only.

        Args:
            min_size: (height, width) that suffices. A larger JPEG is decoded at the smallest of
                the scales 1/2, 1/4, 1/8 that keeps both sides at least so large. Other formats
                are averaged down by a whole number that keeps both sides at least twice so large.
            rows: how many rows from the top suffice, before any scaling. The rows below may stay
                black in an upright baseline JPEG.

        Returns:
            uint8 (H, W, 3). EXIF orientation is applied; transparency is laid on black; the first
            frame of an animation is used.

        Raises:
            ImageError: truncated or corrupt pixel data.
        """
        image, orientation = self.stored, self.exif.get(_ORIENTATION)
        if min_size is not None and orientation in _LYING:
            min_size = min_size[::-1]
        stored_size = image.size
        if min_size is not None and self.jpeg is not None:
            image.draft(None, min_size[::-1])
        upper = None
        if rows is not None and self.jpeg is not None and orientation not in _UPRIGHT:
            upper = decode_upper_rows(
                self.data, self.jpeg, rows, stored=stored_size, scaled=image.size, mode=image.mode
            )
        try:
            if upper is not None:
                return np.asarray(_to_rgb(upper), dtype=np.uint8)
            with without_warnings():
                image.load()
            if min_size is not None and self.jpeg is None:
                image = _reduced(image, min_size)
            upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
            return np.asarray(_to_rgb(upright), dtype=np.uint8)
        except Exception as error:  # see open_image
            raise ImageError(f"the image is damaged and cannot be decoded: {error}") from error


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> OpenedImage:
    """Read and check the header of an image file of FORMATS, before any pixel is decoded.

    Raises:
        ImageError: empty, another format, or the stated size or structure is out of bounds.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes): send a JPEG, PNG, WebP or AVIF file")
    jpeg = scan_jpeg(data) if data.startswith(START) else None
    image = _pillow_image(data, max_pixels)
    width, height = image.size
    kind = jpeg.kind if jpeg is not None else str(image.format)
    limit = max_pixels
    if kind != BASELINE:
        pixel_bytes = _WHOLE_BYTES.get(kind, _COEFFICIENT_BYTES * len(image.getbands()))
        limit = min(limit, MAX_DECODED_BYTES // pixel_bytes)
    if width * height > limit:
        raise ImageError(
            f"the image is {width}x{height} = {width * height} pixels; the limit of a {kind} is "
            f"{limit}"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"the image is {width}x{height}; each side needs {MIN_SIDE} pixels")
    decoded = [image.info.get(name) for name in ("exif", "xmp")] if _is_heif(data) else []
    found = find_metadata(data, jpeg, decoded)
    exif = _read_exif(found.exif)
    inner = exif.get(_XMP)
    xmp = (*((inner,) if isinstance(inner, bytes) else ()), *found.xmp)
    size = (width, height) if exif.get(_ORIENTATION) in _LYING else (height, width)
    return OpenedImage(data, size, exif, xmp, image, jpeg)


def decode_image(data: bytes, *, min_size: tuple[int, int] | None = None) -> Rgb:
    """An image file to uint8 (H, W, 3), see `OpenedImage.decode`.

    Raises:
        ImageError: see `open_image`; also truncated or corrupt pixel data.
    """
    return open_image(data).decode(min_size=min_size)


def filled(height: int, width: int, colour: tuple[int, int, int]) -> Rgb:
    """uint8 (height, width, 3) of one colour, set row by row: 20 times faster than by pixels."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.full((width, 3), colour, np.uint8)
    return image


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow, which warns from 89 megapixels on and of damaged metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class _BoundedReads(io.BytesIO):
    """The bytes, for Pillow's parsers, which read piece by piece, down to one byte at a time."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ImageError(f"it falls into more than {MAX_READS} pieces")
        return super().read(size)


def _pillow_image(data: bytes, max_pixels: int) -> Image.Image:
    try:
        with without_warnings():
            return Image.open(_BoundedReads(data), formats=_formats(data))
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image exceeds the limit of {max_pixels} pixels: {error}") from error
    except UnidentifiedImageError:
        found = f"but {kind}" if (kind := kind_of(data)) else f"({len(data)} bytes)"
        if "HEIC" in kind and not _reads_heic():
            found += ", or install skyfix[heic]"
        if kind.upper().endswith(tuple(f"{form} IMAGE" for form in FORMATS)):
            found += " that is damaged"
        raise ImageError(f"not a {', '.join(FORMATS)} image {found}") from None
    except Exception as error:  # Pillow's parsers raise whatever hostile bytes provoke
        raise ImageError(
            f"not a readable {', '.join(FORMATS)} image ({len(data)} bytes): {error}"
        ) from error


def _is_heif(data: bytes) -> bool:
    """AVIF or HEIC. Their decoders turn the image, and answer for its orientation in EXIF."""
    return data[4:8] == b"ftyp"


def _formats(data: bytes) -> tuple[str, ...]:
    return (*FORMATS, "HEIF") if _is_heif(data) and _reads_heic() else FORMATS


@cache
def _reads_heic() -> bool:
    """Whether the extra `heic` is installed. Depth, gain maps and thumbnails stay unread."""
    try:
        import pillow_heif
    except ImportError:
        return False
    unread = dict.fromkeys(("thumbnails", "depth_images", "aux_images"), False)
    pillow_heif.register_heif_opener(decode_threads=1, **unread)
    return True


def _read_exif(blocks: Sequence[bytes]) -> Image.Exif:
    """The fields of all blocks; those that are damaged or too large are ignored and logged.

    Unlike Pillow's `getexif`, decodes no pixel of a PNG. A later block goes before an earlier one.
    """
    merged = Image.Exif()
    for block in blocks[-MAX_EXIF_BLOCKS:]:
        if len(block) > MAX_EXIF_BYTES:
            log.warning("the EXIF metadata has %d bytes, too many, and is ignored", len(block))
            continue
        exif = Image.Exif()
        try:
            with without_warnings():
                exif.load(block)
                if merged:
                    for tag in _DIRECTORIES:
                        _complete(exif.get_ifd(tag), merged.get_ifd(tag))
                    _complete(exif, merged)
        except Exception as error:  # damaged EXIF raises whatever its parser meets
            log.warning("the EXIF metadata cannot be parsed and is ignored: %s", error)
        else:
            merged = exif
    return merged


def _complete(newer: MutableMapping[int, Any], older: Mapping[int, Any]) -> None:
    for tag, value in older.items():
        newer.setdefault(tag, value)


def _reduced(image: Image.Image, min_size: tuple[int, int]) -> Image.Image:
    """Averaged down before any copy is made, so that a large image is in memory once."""
    factor = min(image.height // (2 * min_size[0]), image.width // (2 * min_size[1]))
    if factor < 2:
        return image
    if "transparency" in image.info:  # a colour or palette entries, which cannot be averaged
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
