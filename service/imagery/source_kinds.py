"""Kinds of sources: a raster, or a folder of rasters, of map tiles, or of images with a CSV."""

from __future__ import annotations

from pathlib import Path

from service.imagery.image_folder import ImageFolderSource
from service.imagery.map_tiles import MapTileSource, level_folders
from service.imagery.mosaic import MosaicSource, sheets_in
from service.imagery.raster import RasterSource
from service.imagery.reading import AS_STATED, Reading
from service.imagery.source import Source, SourceMissing


def open_source(
    path: Path, name: str | None = None, former: str = "", reading: Reading = AS_STATED
) -> Source:
    """The source at `path`, checked as far as that is possible without reading its pixels.

    Args:
        name: the source's name in the catalogue and in its tiles' ids; by default the file's stem.
        former: the source's signature at its last ingest, whose range of values is kept.
        reading: what the user says of the imagery.

    Raises:
        SourceMissing: nothing is there.
        SourceError: the imagery cannot be used; the message says why.
    """
    resolved = path.expanduser().resolve()
    if resolved.is_dir():
        if any(resolved.glob("*.csv")):
            return ImageFolderSource(resolved, name)
        if sheets_in(resolved):
            return MosaicSource(resolved, name, former, reading)
        if level_folders(resolved):
            return MapTileSource(resolved, name, reading)
        return ImageFolderSource(resolved, name)  # raises: there is no CSV
    if resolved.is_file():
        return RasterSource(resolved, name, former, reading)
    raise SourceMissing(
        f"{path} is neither a raster file nor a folder of rasters, map tiles or images"
    )
