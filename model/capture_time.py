"""When a camera says that it took an image."""

from __future__ import annotations

from datetime import datetime

from PIL import Image

from model.exif import CAMERA, exif_group

_TIME, _SUBSECONDS, _OFFSET = 0x9003, 0x9291, 0x9011  # DateTimeOriginal and its companions


def capture_time(exif: Image.Exif) -> datetime | None:
    """DateTimeOriginal with its fraction of a second; None where EXIF states no such time.

    The time is naive where the camera states no offset from UTC: most cameras state local time.
    """
    fields = exif_group(exif, CAMERA)
    text = str(fields.get(_TIME, "")).strip("\0 ")
    fraction = str(fields.get(_SUBSECONDS, "")).strip("\0 ")[:6]
    offset = str(fields.get(_OFFSET, "")).strip("\0 ")
    try:
        time = datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    if fraction.isdecimal() and fraction.isascii():
        time = time.replace(microsecond=int(fraction.ljust(6, "0")))
    try:
        return datetime.fromisoformat(f"{time.isoformat()}{offset}")
    except ValueError:
        return time
