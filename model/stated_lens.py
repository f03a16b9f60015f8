"""The field of view of an ordinary photograph, as EXIF states its lens.

EXIF's focal length "in 35 mm film" makes the same diagonal field of view on 36 x 24 mm: that is
how CIPA and most phones count. Cameras that count by the width are off by up to 4 % for 4:3.
"""

from __future__ import annotations

import math

from PIL import Image

from model.exif import CAMERA, exif_group, exif_number
from model.panorama import ASPECT_TOLERANCE
from model.stated_extent import ASSUMED, HORIZONTAL, VERTICAL, StatedExtent

FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
FILM_FOCAL_MM = (10.0, 3000.0)  # a shorter one is a fisheye, 0 stands for unknown

_FOCAL, _FILM_FOCAL, _ZOOM = 0x920A, 0xA405, 0xA404
_WIDTH, _HEIGHT, _RESOLUTION, _UNIT = 0xA002, 0xA003, 0xA20E, 0xA210
_UNIT_MM = {3.0: 10.0, 4.0: 1.0, 5.0: 0.001}  # else inches


def read_lens(exif: Image.Exif, size: tuple[int, int]) -> StatedExtent | None:
    """What the lens shows of an upright image of (height, width); None where EXIF states none."""
    camera = exif_group(exif, CAMERA)
    sides = exif_number(camera, _WIDTH), exif_number(camera, _HEIGHT)
    known = all(0.0 < side <= 1e6 for side in sides)
    taken = (max(sides), min(sides)) if known else (max(size), min(size))
    focal = _focal_pixels(camera, taken)
    if focal is None:
        return None
    scale, note = _since_taken(taken, (max(size), min(size)))
    fov_deg = math.degrees(2.0 * math.atan(size[1] / 2.0 / (focal * scale)))
    sources = {"horizon": ASSUMED, **dict.fromkeys((VERTICAL, HORIZONTAL), "EXIF")}
    notes = {} if note is None else {HORIZONTAL: note}
    return StatedExtent(horizontal_fov_deg=fov_deg, sources=sources, notes=notes)


def _focal_pixels(camera: dict[int, object], taken: tuple[float, float]) -> float | None:
    """The focal length in pixels of the image that the camera took, of (long, short) sides."""
    film = exif_number(camera, _FILM_FOCAL)
    low, high = FILM_FOCAL_MM
    if low <= film <= high:
        return film / FILM_DIAGONAL_MM * math.hypot(*taken)
    focal, resolution = exif_number(camera, _FOCAL), exif_number(camera, _RESOLUTION)
    zoom = exif_number(camera, _ZOOM)
    unit_mm = _UNIT_MM.get(exif_number(camera, _UNIT), 25.4)
    pixels = focal * resolution / unit_mm * (zoom if zoom > 1.0 else 1.0)
    as_film = pixels / math.hypot(*taken) * FILM_DIAGONAL_MM
    return pixels if low <= as_film <= high else None


def _since_taken(taken: tuple[float, float], now: tuple[int, int]) -> tuple[float, str | None]:
    """How many pixels of the file are a pixel that the camera took; sides are (long, short)."""
    flatness = taken[0] / taken[1] / (now[0] / now[1])
    if abs(flatness - 1.0) <= ASPECT_TOLERANCE:
        return now[0] / taken[0], None
    states = f"EXIF states {taken[0]:g}x{taken[1]:g} pixels, the file has {now[0]}x{now[1]}: "
    remedy = "if that is wrong, give horizontal_fov_deg"
    if now[0] <= taken[0] and now[1] <= taken[1]:
        return 1.0, f"{states}it is taken as cut from the middle and not resized; {remedy}"
    return math.hypot(*now) / math.hypot(*taken), f"{states}EXIF's are ignored; {remedy}"
