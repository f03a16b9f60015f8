"""Small images as files, and files that state more than they hold."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RED = np.full((24, 40, 3), (200, 30, 10), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encoded(image, form="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width, height):
    """A PNG that states a size and holds almost nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def with_orientation(image, orientation, form="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, form, exif=exif.tobytes(), quality=95)


def jpeg_of_size(width, height, **options):
    """A JPEG whose frame header states another size than it holds."""
    data = bytearray(encoded(RED, "JPEG", **options))
    frame = data.index(b"\xff\xc2" if options else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def heif_of_size(data, width, height):
    """An AVIF or HEIC that states another size than it holds."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]
