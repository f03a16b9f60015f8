"""The segments of a JPEG file: how its pixels are coded, and bounds on what hostile files hold.

The markers are found as libjpeg finds them, so that no file means one thing here and another there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from model.errors import ImageError

START, END = b"\xff\xd8", b"\xff\xd9"
BASELINE = "baseline JPEG"
MAX_SCANS = 100  # each passes over all pixels; ordinary progressive files have 10
MAX_SEGMENTS = 65_536  # two microseconds each
MAX_EXIF_SEGMENTS = 16  # Pillow joins and parses them while it opens a JPEG

# FF00 is a byte of the picture, FFFF is fill, restarts (D0 to D7) belong to their scan. libjpeg
# passes over markers below C0 or refuses them.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_FRAMES = {0xC0 + low for low in range(16)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_SCAN, _END, _APP1, _APP13 = 0xDA, 0xD9, 0xE1, 0xED
_REFUSED = {0xC8, 0xD8, *range(0xF0, 0xFE)}  # by libjpeg; Pillow would read on behind them


class JpegStructure(NamedTuple):
    """How a JPEG is coded.

    kind: BASELINE where one sequential scan holds all components, so that libjpeg decodes row by
        row; libjpeg holds all coefficients of any other kind.
    frame, scan: offsets of the lengths of the frame's and the scan's segment, for BASELINE only.
    metadata: the contents of the segments before the pixels that may hold EXIF or XMP.
    """

    kind: str
    frame: int = 0
    scan: int = 0
    metadata: tuple[slice, ...] = ()


def scan_jpeg(data: bytes) -> JpegStructure:
    """Walk over the segments of a JPEG.

    Raises:
        ImageError: no scan, or more scans, segments or EXIF than cameras write.
    """
    kind, frame, components, scans, exifs = BASELINE, 0, 0, 0, 0
    metadata: list[slice] = []
    for marker, offset, segment in _segments(data):
        if marker in _FRAMES:
            kind, frame = "progressive JPEG" if marker in _PROGRESSIVE else BASELINE, offset
            components = int.from_bytes(segment[7:8], "big")
        elif marker == _SCAN:
            scans += 1
            if kind == BASELINE:
                if int.from_bytes(segment[2:3], "big") >= components:
                    return JpegStructure(kind, frame, offset, tuple(metadata))
                kind = "JPEG of several scans"
        elif marker in (_APP1, _APP13):
            exifs += segment.startswith(b"Exif\0\0", 2)
            if not scans:
                metadata.append(slice(offset + 2, offset + len(segment)))
        if scans > MAX_SCANS:
            raise ImageError(f"the JPEG has more than {MAX_SCANS} scans")
        if exifs > MAX_EXIF_SEGMENTS:
            raise ImageError(f"the JPEG has more than {MAX_EXIF_SEGMENTS} segments of EXIF")
    if not scans:
        raise ImageError(f"not a whole JPEG ({len(data)} bytes): it ends before its first scan")
    return JpegStructure(kind, metadata=tuple(metadata))


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, offset of the length, and segment from its length on, up to the end or the cut."""
    offset = len(START)
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, offset)
        if found is None or found[1][0] == _END:
            return
        if found[1][0] in _REFUSED:
            raise ImageError(f"the JPEG is damaged: unknown marker FF{found[1][0]:X}")
        offset = found.end()
        length = max(2, int.from_bytes(data[offset : offset + 2], "big"))
        yield found[1][0], offset, data[offset : offset + length]
        offset += length
    raise ImageError(f"the JPEG has more than {MAX_SEGMENTS} segments")
