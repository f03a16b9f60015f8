"""The strip of a street image: a full turn around its centre column, between two elevations.

A level equirectangular image is only cut and resized. Any other is levelled and projected in the
same resampling. Numpy and Pillow only, so any thread may call it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images import Rgb, filled
from model.panorama import Band, GeometryError, PanoramaGeometry

_SAMPLES = 3  # of a strip's pixel, each way: 1.0 grey levels from a level rendering, 2 have 1.2
_ROWS = 48  # at a time, so that the arrays stay in the processor's cache: half the time

Floats = NDArray[np.float32]


def is_plain(geometry: PanoramaGeometry) -> bool:
    """Whether rows of the image are rows of the strip."""
    return geometry.projection == "equirectangular" and geometry.tilt.is_level


def cut_band(
    image: Rgb,
    geometry: PanoramaGeometry,
    band: Band | None,
    size: tuple[int, int],
    fill: tuple[int, int, int],
) -> Rgb:
    """Resample a street image to a full turn around its centre column, between two elevations.

    Args:
        image: uint8 (H, W, 3).
        geometry: the part of the sphere that the image covers; `north` is not used.
        band: elevations kept; None keeps the whole height of the image.
        size: (height, width) of the result.
        fill: RGB of the elevations and headings that the image lacks.

    Returns:
        uint8 (height, width, 3), area-averaged where it shrinks. In a level equirectangular
        image, missing rows and columns begin on a whole pixel: the placement is off by at most
        half a pixel of the result.

    Raises:
        GeometryError: impossible geometry, or the image does not reach into the band.
    """
    extent = geometry.extent(*image.shape[:2])
    wanted = band or extent
    cut = _cut_plain if is_plain(geometry) else _project
    strip = cut(image, geometry, wanted, size, fill)
    if strip is None:
        raise GeometryError(
            f"the image covers elevations {extent.bottom_deg:.0f} to {extent.top_deg:.0f} degrees; "
            f"nothing of it lies within {wanted.bottom_deg:.0f} to {wanted.top_deg:.0f}: check "
            "horizon, vertical_fov_deg and pitch_deg"
        )
    return strip


def _cut_plain(
    image: Rgb,
    geometry: PanoramaGeometry,
    band: Band,
    size: tuple[int, int],
    fill: tuple[int, int, int],
) -> Rgb | None:
    height, width = size
    rows, cols = image.shape[:2]
    extent = geometry.extent(rows, cols)
    per_degree = height / (band.top_deg - band.bottom_deg)
    top = max(0, round((band.top_deg - extent.top_deg) * per_degree))
    bottom = min(height, round((band.top_deg - extent.bottom_deg) * per_degree))
    half = round(width * geometry.horizontal_fov_deg / 360.0 / 2.0)
    if bottom - top < 2 or half < 1:
        return None
    source_per_degree = rows / (extent.top_deg - extent.bottom_deg)
    box_top = (extent.top_deg - (band.top_deg - top / per_degree)) * source_per_degree
    box_bottom = (extent.top_deg - (band.top_deg - bottom / per_degree)) * source_per_degree
    box = (0.0, max(0.0, box_top), float(cols), min(float(rows), box_bottom))
    if geometry.horizontal_fov_deg >= 360.0:
        left, right = 0, width
    else:
        left, right = width // 2 - half, width // 2 + half
    part = Image.fromarray(image).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0
    )
    strip = filled(height, width, fill)
    strip[top:bottom, left:right] = np.asarray(part)
    return strip


def _project(
    image: Rgb,
    geometry: PanoramaGeometry,
    band: Band,
    size: tuple[int, int],
    fill: tuple[int, int, int],
) -> Rgb | None:
    """Looks up what several directions of each pixel show, and averages as `_cut_plain` does."""
    height, width = size[0] * _SAMPLES, size[1] * _SAMPLES
    azimuth = np.radians((np.arange(width, dtype=np.float32) + 0.5) / width * 360.0 - 180.0)
    step = (band.top_deg - band.bottom_deg) / height
    elevation = np.radians(band.top_deg - (np.arange(height, dtype=np.float32) + 0.5) * step)
    colours = np.asarray(Image.fromarray(image).convert("RGBA")).view(np.uint32).reshape(-1)
    shown = np.empty((height, width), np.uint32)
    for top in range(0, height, _ROWS):
        rows = slice(top, top + _ROWS)
        direction = _camera_directions(geometry, azimuth, elevation[rows])
        places, seen = _pixels(geometry, image.shape[:2], *direction)
        shown[rows] = np.where(seen, colours[places], 0)
    samples = Image.fromarray(shown.view(np.uint8).reshape(height, width, 4), "RGBA")
    pixels = np.asarray(samples.resize(size[::-1], Image.Resampling.BILINEAR))
    is_seen = pixels[:, :, 3] >= 128
    if not is_seen.any():
        return None
    strip: Rgb = np.where(is_seen[:, :, None], pixels[:, :, :3], np.array(fill, np.uint8))
    return strip


def _camera_directions(
    geometry: PanoramaGeometry, azimuth: Floats, elevation: Floats
) -> tuple[Floats, Floats, Floats]:
    """Level directions in the camera's axes: right, forward, up, each (elevations, azimuths)."""
    level = geometry.tilt.to_level.astype(np.float32)  # its columns are the camera's axes
    flat, sine = np.cos(elevation)[:, None], np.sin(elevation)[:, None]
    east, north = np.sin(azimuth), np.cos(azimuth)
    right, forward, up = (
        flat * (axis[0] * east + axis[1] * north) + sine * axis[2] for axis in level.T
    )
    return right, forward, up


def _pixels(
    geometry: PanoramaGeometry,
    size: tuple[int, int],
    right: Floats,
    forward: Floats,
    up: Floats,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The index of the pixel that shows each direction, and whether the image shows it at all."""
    height, width = size
    if geometry.projection == "rectilinear":
        ahead = np.maximum(forward, np.float32(1e-6))
        across, above = right / ahead, up / ahead
    else:
        across = np.arctan2(right, forward)
        if geometry.projection == "cylindrical":
            above = up / np.maximum(np.hypot(right, forward), np.float32(1e-6))
        else:
            above = np.arcsin(up.clip(-1.0, 1.0))
    rows_per_radian, columns_per_radian = geometry.pixels_per_radian(height, width)
    column = across * np.float32(columns_per_radian) + np.float32(width / 2.0)
    row = np.float32(geometry.horizon * height) - above * np.float32(rows_per_radian)
    seen = (row >= 0.0) & (row <= height)
    if geometry.horizontal_fov_deg < 360.0:
        seen &= (column >= 0.0) & (column <= width)
    if geometry.projection == "rectilinear":
        seen &= forward > 0.0
    row, column = row.clip(0.0, height - 1), column.clip(0.0, width - 1)
    return row.astype(np.int32) * width + column.astype(np.int32), seen
