"""Copies remote rasters, as far as an area needs them, to a folder of GeoTIFFs.

The pixels keep their values, CRS and lattice. Only GeoTIFF is opened: other formats may name more
files, which GDAL would open.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio import Affine
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from model.atomic_write import sync
from service.imagery.area import Area
from service.imagery.crs import WGS84, project
from service.remote.http_client import RemoteError, shown
from service.remote.map_tile_copy import Progress
from service.remote.range_file import BLOCK, RangeFile

SIDE = 1024  # pixels of a square that is copied or left out
MAX_PIXELS = 10**13  # 250 km of 0.08 m: more is a damaged header
READ_AROUND = 1.5  # bytes fetched for a byte needed: squares and blocks do not coincide
ENVIRONMENT = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_TIFF_INTERNAL_MASK": True}


class Sheet(NamedTuple):
    """A raster to be copied to `name`.tif."""

    name: str
    file: RangeFile | Path
    licence: str = ""
    attribution: str = ""

    @property
    def address(self) -> str:
        """Where the raster is, for messages."""
        return shown(self.file.url) if isinstance(self.file, RangeFile) else str(self.file)

    @contextmanager
    def open(self) -> Iterator[rasterio.DatasetReader]:
        """The raster.

        Raises:
            RemoteError: no GeoTIFF, no georeference, or its server failed.
        """
        remote = self.file if isinstance(self.file, RangeFile) else None
        address = remote.NAME if remote else self.file
        try:
            with rasterio.Env(**ENVIRONMENT):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)
                    opener = remote.open if remote else None
                    raster = rasterio.open(address, driver="GTiff", opener=opener)
                with raster:
                    if raster.crs is None or raster.transform.is_identity:
                        raise RemoteError(
                            f"{self.address} does not say where on Earth it lies: download the "
                            "file, and assign a CRS and a transform, as by gdal_edit.py"
                        )
                    yield raster
        except (RasterioError, CPLE_BaseError) as error:
            if remote and remote.failure:
                raise remote.failure from error
            raise RemoteError(f"{self.address} is no GeoTIFF that can be read: {error}") from error
        if remote and remote.failure:
            raise remote.failure


class Part(NamedTuple):
    """The squares of a sheet that are copied, (rows, columns)."""

    sheet: Sheet
    squares: NDArray[np.bool_]

    @property
    def requests(self) -> int:
        """About how many."""
        if isinstance(self.sheet.file, Path):
            return 0
        share = min(1.0, READ_AROUND * float(self.squares.mean()))
        return max(1, round(share * self.sheet.file.size / BLOCK))

    def copy(self, target: Path) -> Iterator[int]:
        """Writes the squares to a GeoTIFF; yields how many are written."""
        rows, columns = np.nonzero(self.squares)
        with self.sheet.open() as raster:
            lefts, tops = columns * SIDE, rows * SIDE
            left, top = int(lefts.min()), int(tops.min())
            right = min(int(lefts.max()) + SIDE, raster.width)
            bottom = min(int(tops.max()) + SIDE, raster.height)
            frame = Window(left, top, right - left, bottom - top)
            flags = {flag for band in raster.mask_flag_enums for flag in band}
            mask = MaskFlags.per_dataset in flags
            # Left out, bytes are black, and a black collar is no imagery. Other values have a range
            # that zeros would widen.
            if raster.dtypes[0] != "uint8" and not self.squares.all():
                mask |= MaskFlags.nodata not in flags
            mask &= MaskFlags.alpha not in flags
            with rasterio.open(target, "w", **_profile(raster, frame)) as copy:
                _describe(raster, copy, self.sheet)
                for done, (x, y) in enumerate(zip(lefts.tolist(), tops.tolist(), strict=True), 1):
                    window = Window(x, y, min(SIDE, right - x), min(SIDE, bottom - y))
                    place = Window(x - left, y - top, window.width, window.height)
                    values = raster.read(window=window)
                    covered = raster.dataset_mask(window=window) if mask else None
                    with _disk_of(target):
                        copy.write(values, window=place)
                        if mask:
                            copy.write_mask(covered, window=place)
                    yield done
        with _disk_of(target), rasterio.open(target) as copy:  # the last bytes may be missing
            for _, window in copy.block_windows():
                copy.read(window=window)


@dataclass(frozen=True)
class RasterCopy:
    """What is to be copied. An area leaves out whatever it does not touch."""

    parts: list[Part]
    area: Area | None

    @classmethod
    def of(cls, sheets: Sequence[Sheet], area: Area | None) -> RasterCopy:
        """Opens each sheet to see whether the area touches it.

        Raises:
            RemoteError: a sheet cannot be used, or the area touches none.
        """
        parts = []
        for sheet in sheets:
            with sheet.open() as raster:
                corners = _corners(sheet.address, raster)
            squares = np.ones(corners.shape[:2], bool) if area is None else _touched(corners, area)
            if squares.any():
                parts.append(Part(sheet, squares))
        if not parts:
            spans = (*np.nanmin(corners, axis=(0, 1, 2)), *np.nanmax(corners, axis=(0, 1, 2)))
            raise RemoteError(
                f"no imagery lies in the area {area}: {sheets[-1].address} spans "
                f"{','.join(f'{value:.7g}' for value in spans)}"
            )
        return cls(parts, area)

    @property
    def requests(self) -> int:
        """About how many a fetch from the start needs."""
        return sum(part.requests for part in self.parts)

    @property
    def identity(self) -> str:
        """A text that changes with the imagery that is wanted."""
        files = (part.sheet.file for part in self.parts)
        texts = [file.identity if isinstance(file, RangeFile) else str(file) for file in files]
        return " ".join([*texts, self.area.text() if self.area else ""])

    @property
    def summary(self) -> str:
        """In words, for the user."""
        mib = self.requests * BLOCK >> 20
        first = self.parts[0].sheet.address
        return f"about {mib} MiB of {first}" + (
            f" and {len(self.parts) - 1} more rasters" if len(self.parts) > 1 else ""
        )

    @property
    def stated(self) -> dict[str, Any]:
        """What is known of the imagery."""
        return {
            "sources": [part.sheet.address for part in self.parts],
            "bounds": list(self.area.bounds) if self.area else None,
        }

    def run(self, folder: Path, progress: Progress) -> None:
        """Writes whatever raster the folder lacks; an unfinished one goes on from its blocks.

        Raises:
            RemoteError: a request failed.
            OSError: the disk is full or refuses.
        """
        wanted, done = sum(int(part.squares.sum()) for part in self.parts), 0
        for part in self.parts:
            target, blocks, unfinished = (
                folder / f"{start}{part.sheet.name}{end}"
                for start, end in (("", ".tif"), (".", ".blocks"), (".", ".partial"))
            )
            if isinstance(part.sheet.file, RangeFile):
                part.sheet.file.blocks = blocks
            if not target.exists():
                for copied in part.copy(unfinished):
                    progress(done + copied, wanted)
                sync(unfinished)
                unfinished.rename(target)
            shutil.rmtree(blocks, ignore_errors=True)
            done += int(part.squares.sum())
            progress(done, wanted)


@contextmanager
def _disk_of(file: Path) -> Iterator[None]:
    """What GDAL raises while it writes, as an OSError."""
    try:
        yield
    except RasterioError as error:
        raise OSError(f"{file}: the disk may be full: {error}") from error


def _corners(address: str, raster: rasterio.DatasetReader) -> NDArray[np.float64]:
    """Longitude and latitude of the corners of all squares of SIDE pixels.

    Returns:
        (rows, columns, 4, 2); NaN where the CRS has no such point.

    Raises:
        RemoteError: no imagery is that large.
    """
    if raster.width * raster.height > MAX_PIXELS:
        raise RemoteError(f"{address} claims {raster.width} x {raster.height} pixels")
    edges = [np.minimum(np.arange(-(-n // SIDE) + 1) * SIDE, n) for n in raster.shape]
    lines, columns = np.meshgrid(*edges, indexing="ij")
    xs, ys = raster.transform @ (columns.ravel(), lines.ravel())
    at = np.stack(project(raster.crs, WGS84, xs.tolist(), ys.tolist()), axis=-1)
    at = at.reshape(*lines.shape, 2)
    return np.stack([at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]], axis=2)


def _touched(corners: NDArray[np.float64], area: Area) -> NDArray[np.bool_]:
    """Which squares the area touches, (rows, columns)."""
    east = corners[..., 0] - corners[:, :, :1, 0]
    corners = corners - np.stack([360.0 * np.round(east / 360.0), 0.0 * east], axis=-1)
    known = np.isfinite(corners).all(axis=(2, 3))
    squares = np.zeros(known.shape, dtype=bool)
    squares[known] = area.touches(shapely.polygons(corners[known]))
    return squares


def _describe(raster: rasterio.DatasetReader, copy: Any, sheet: Sheet) -> None:
    for name in ("colorinterp", "descriptions", "scales", "offsets"):
        setattr(copy, name, getattr(raster, name))
    if raster.colorinterp[0] == ColorInterp.palette:
        copy.write_colormap(1, raster.colormap(1))
    tags = {"LICENCE": sheet.licence, "ATTRIBUTION": sheet.attribution}
    copy.update_tags(**raster.tags() | {name: text for name, text in tags.items() if text})


def _profile(raster: rasterio.DatasetReader, window: Window) -> dict[str, Any]:
    """How the copy is written: squares that are left out take no room."""
    integers = np.issubdtype(np.dtype(raster.dtypes[0]), np.integer)
    return {
        "driver": "GTiff", "width": window.width, "height": window.height, "count": raster.count,
        "dtype": raster.dtypes[0], "nodata": raster.nodata, "crs": raster.crs,
        "transform": raster.transform @ Affine.translation(window.col_off, window.row_off),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel",
        "compress": "deflate", "predictor": 2 if integers else 1, "bigtiff": "IF_SAFER",
        "sparse_ok": True,
    }  # fmt: skip
