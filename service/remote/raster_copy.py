"""Copies remote rasters, as far as an area needs them, to a folder of GeoTIFFs.

The pixels keep their values, CRS and lattice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import shapely
from rasterio import Affine
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.warp import transform_bounds
from rasterio.windows import Window, union

from model.atomic_write import sync
from service.imagery.area import Area
from service.imagery.crs import WGS84, project
from service.remote.http_client import RemoteError, shown
from service.remote.imagery_copy import ImageryCopy, Progress
from service.remote.remote_raster import BLOCK, RemoteRaster

SIDE = 1024  # pixels of a square that is copied or left out
MAX_PIXELS = 10**13  # 250 km of 0.08 m: more is a damaged header
READ_AROUND = 1.5  # bytes fetched for a byte needed: squares and blocks do not coincide
WRITTEN_AS = {
    "tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel",
    "compress": "deflate", "predictor": 2, "bigtiff": "IF_SAFER",
    "sparse_ok": True,  # squares that are left out take no room
}  # fmt: skip


class Part(NamedTuple):
    """The squares of a raster that are copied, which are all of it or fewer."""

    raster: RemoteRaster
    squares: Sequence[Window]
    is_whole: bool
    requests: int

    def write(self, target: Path) -> Iterator[None]:
        """Writes the squares to a GeoTIFF; yields after each."""
        frame = union(*self.squares)
        left, top = frame.col_off, frame.row_off
        with self.raster.open() as raster:
            mask = _needs_mask(raster, self.is_whole)
            profile = {
                **raster.meta, **WRITTEN_AS, "width": frame.width, "height": frame.height,
                "transform": raster.transform @ Affine.translation(left, top),
            }  # fmt: skip
            with rasterio.open(target, "w", **profile) as copy:
                _describe(raster, copy)
                copy.update_tags(**self.raster.credit)
                for square in self.squares:
                    x, y, *size = square.flatten()
                    at = Window(x - left, y - top, *size)
                    values = raster.read(window=square)
                    covered = raster.dataset_mask(window=square) if mask else None
                    with _disk_of(target):
                        copy.write(values, window=at)
                        if mask:
                            copy.write_mask(covered, window=at)
                    yield
        with _disk_of(target), rasterio.open(target) as copy:  # the last bytes may be missing
            for _, window in copy.block_windows():
                copy.read(window=window)


def raster_copy(rasters: Sequence[RemoteRaster], area: Area | None) -> ImageryCopy:
    """The copy of all squares that the area touches; without an area, of all.

    Raises:
        RemoteError: a raster cannot be used, or the area touches none.
    """
    parts = [part for raster in rasters if (part := _part(raster, area)).squares]
    if not parts:
        with rasters[-1].open() as last:
            spans = ",".join(f"{v:.7g}" for v in transform_bounds(last.crs, WGS84, *last.bounds))
        raise RemoteError(
            f"no imagery lies in the area {area}: {shown(rasters[-1].url)} spans {spans}"
        )
    more = f" and {len(parts) - 1} more rasters" if len(parts) > 1 else ""
    requests = sum(part.requests for part in parts)
    return ImageryCopy(
        requests,
        " ".join([*(part.raster.identity for part in parts), area.text() if area else ""]),
        f"about {requests * BLOCK >> 20} MiB of {shown(parts[0].raster.url)}{more}",
        {},
        partial(_write, parts),
    )


def _write(parts: Sequence[Part], folder: Path, progress: Progress) -> None:
    """Writes whatever raster the folder lacks; an unfinished one goes on from its blocks."""
    wanted, done = sum(len(part.squares) for part in parts), 0
    for part in parts:
        name = part.raster.name
        target, unfinished = folder / f"{name}.tif", folder / f".{name}.partial"
        part.raster.blocks = folder / f".{name}.blocks"
        if not target.exists():
            for copied, _ in enumerate(part.write(unfinished), 1):
                progress(done + copied, wanted)
            sync(unfinished)
            unfinished.rename(target)
        shutil.rmtree(part.raster.blocks, ignore_errors=True)
        done += len(part.squares)
        progress(done, wanted)


@contextmanager
def _disk_of(file: Path) -> Iterator[None]:
    """What GDAL raises while it writes, as an OSError."""
    try:
        yield
    except RasterioError as error:
        raise OSError(f"{file}: the disk may be full: {error}") from error


def _part(remote: RemoteRaster, area: Area | None) -> Part:
    """The squares that the area touches; all without an area."""
    with remote.open() as raster:
        shape, transform, crs = raster.shape, raster.transform, raster.crs
    if shape[0] * shape[1] > MAX_PIXELS:
        raise RemoteError(f"{shown(remote.url)} claims {shape[1]} x {shape[0]} pixels")
    lines, columns = (np.minimum(np.arange(-(-n // SIDE) + 1) * SIDE, n) for n in shape)
    touched = np.ones((len(lines) - 1, len(columns) - 1), bool)
    if area is not None:
        across, down = np.meshgrid(columns, lines)
        xs, ys = transform @ (across.ravel(), down.ravel())
        # Longitude and latitude of all corners; NaN where the CRS has no such point.
        at = np.stack(project(crs, WGS84, xs.tolist(), ys.tolist()), axis=-1)
        at = at.reshape(*across.shape, 2)
        corners = np.stack([at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]], axis=2)
        known = np.isfinite(corners).all(axis=(2, 3))
        corners = corners[known]
        east = corners[..., 0] - corners[:, :1, 0]
        corners[..., 0] -= 360.0 * np.round(east / 360.0)  # lest a square spans the dateline
        touched &= known
        touched[known] = area.touches(shapely.polygons(corners))
    squares = [
        Window(x, y, min(SIDE, shape[1] - x), min(SIDE, shape[0] - y))
        for y, x in (SIDE * np.argwhere(touched)).tolist()
    ]
    read = min(1.0, READ_AROUND * touched.mean()) * remote.size
    requests = 0 if remote.is_local else max(1, round(read / BLOCK))
    return Part(remote, squares, bool(touched.all()), requests)


def _needs_mask(raster: DatasetReader, is_whole: bool) -> bool:
    """Whether the copy needs a mask: its original has one, or zeros left out look like values.

    Left out, bytes are black, and a black collar is no imagery. Other values have a range that
    zeros would widen.
    """
    flags = {flag for band in raster.mask_flag_enums for flag in band}
    if MaskFlags.alpha in flags:
        return False
    widened = raster.dtypes[0] != "uint8" and not is_whole and MaskFlags.nodata not in flags
    return MaskFlags.per_dataset in flags or widened


def _describe(raster: DatasetReader, copy: DatasetWriter) -> None:
    for name in ("colorinterp", "descriptions", "scales", "offsets"):
        setattr(copy, name, getattr(raster, name))
    if raster.colorinterp[0] == ColorInterp.palette:
        copy.write_colormap(1, raster.colormap(1))
    copy.update_tags(**raster.tags())
