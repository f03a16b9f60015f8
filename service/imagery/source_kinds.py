"""Opens imagery by what it is: a raster, or a folder of rasters, of map tiles, of images + CSV."""

from __future__ import annotations

from pathlib import Path

from service.imagery.image_folder import FolderSource
from service.imagery.map_tiles import PyramidSource, level_folders
from service.imagery.mosaic import MosaicSource, sheets_in
from service.imagery.raster import RasterSource
from service.imagery.source import Source, SourceMissing


def open_source(path: Path, name: str | None = None, former: str = "") -> Source:
    """The source at `path`, checked as far as that is possible without reading its pixels.

    Args:
        name: its name in the catalogue and in its tiles' ids; by default the file's stem.
        former: its signature when it was ingested last: its values are shown in the same range.

    Raises:
        SourceMissing: nothing is there.
        SourceError: what is there cannot be used, with the reason.
    """
    resolved = path.expanduser().resolve()
    if resolved.is_dir():
        if sheets_in(resolved) and not any(resolved.glob("*.csv")):
            return MosaicSource(resolved, name, former)
        if level_folders(resolved) and not any(resolved.glob("*.csv")):
            return PyramidSource(resolved, name)
        return FolderSource(resolved, name)
    if resolved.is_file():
        return RasterSource(resolved, name, former)
    raise SourceMissing(
        f"{path} is neither a raster file nor a folder of rasters, map tiles or images"
    )
