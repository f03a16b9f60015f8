"""Kinds of sources: a raster, or a folder of rasters, of map tiles, or of images with a CSV."""

from __future__ import annotations

from pathlib import Path

from service.imagery.folder_contents import PICTURES, FolderContents
from service.imagery.image_folder import ImageFolderSource
from service.imagery.map_tiles import MapTileSource
from service.imagery.mosaic import MosaicSource
from service.imagery.pmtiles_archive import PmtilesSource
from service.imagery.raster import RasterSource
from service.imagery.reading import AS_STATED, Reading
from service.imagery.source import Source, SourceError, SourceMissing

NEEDED = (
    "imagery is a raster with a georeference, a JPEG or PNG with a world file (.jgw, .pgw), map "
    "tiles z/x/y.png, or images with a tiles.csv (id, latitude, longitude, size_m)"
)
OF_RASTERS, OF_MAP_TILES = ("bands", "nodata", "crs"), ("scheme",)
ABOVE = "give the folder above the levels"
ONE_KIND = "one source is of one kind: ingest each kind from a folder of its own"


def open_source(
    path: Path, name: str | None = None, former: str = "", reading: Reading = AS_STATED
) -> Source:
    """The source at `path`: finds out what is there, without reading its pixels.

    Args:
        name: the source's name in the catalogue and in its tiles' ids; by default the file's stem.
        former: the source's signature at its last ingest, whose range of values is kept.
        reading: what the user says of the imagery.

    Raises:
        SourceMissing: nothing is there.
        SourceError: the imagery cannot be used; the message says why, and what was found.
    """
    resolved = path.expanduser().resolve()
    if resolved.is_dir():
        found = FolderContents(resolved)
        source = _open_folder(found, name, former, reading)
        source.notes = [f"{resolved.name}/: {found}", *source.notes]
    elif not resolved.is_file():
        raise SourceMissing(
            f"{path} is neither a raster file nor a folder of rasters, map tiles or images"
        )
    elif resolved.suffix.lower() == ".pmtiles":
        source = PmtilesSource(resolved, name, reading)
    else:
        source = RasterSource(resolved, name, former, reading)
    source.notes = [*source.notes, *_unused(source, reading)]
    return source


def _unused(source: Source, reading: Reading) -> list[str]:
    """A note of the options that say nothing of this kind of source."""
    used = {"raster": OF_RASTERS, "mosaic": OF_RASTERS, "folder": ()}.get(source.kind, OF_MAP_TILES)
    stated = (name for name in (*OF_RASTERS, *OF_MAP_TILES) if getattr(reading, name) is not None)
    unused = " and ".join(f"--{name}" for name in stated if name not in used)
    return [f"{source.path.name}: nothing uses {unused} here"] if unused else []


def open_again(kind: str, path: Path, name: str, former: str, reading: Reading) -> Source:
    """The source of a kind that was ingested, read as it was then.

    Raises:
        SourceMissing: nothing is there.
        SourceError: the imagery cannot be used; the message says why.
    """
    if not path.exists():
        raise SourceMissing(f"{path} is not there")
    for map_tiles in (MapTileSource, PmtilesSource):
        if kind == map_tiles.kind:
            return map_tiles(path, name, reading, former)
    if kind == ImageFolderSource.kind:
        return ImageFolderSource(path, name)
    sheets_or_one = MosaicSource if kind == MosaicSource.kind else RasterSource
    return sheets_or_one(path, name, former, reading)


def _open_folder(found: FolderContents, name: str | None, former: str, reading: Reading) -> Source:
    folder = found.folder
    # A list explains its pictures, whatever stands beside them.
    rasters = [f for f in found.rasters if not found.lists or f.suffix.lower() not in PICTURES]
    kinds = [found.lists, rasters, found.map_tiles, found.quadkeys, found.exploded]
    if sum(map(bool, kinds)) > 1:
        raise SourceError(f"{folder} holds {found}: {ONE_KIND}")
    if found.lists:
        return ImageFolderSource(_folder_of_list(found), name)
    if rasters:
        _check_all_placed(found)
        return MosaicSource(folder, name, former, reading, rasters)
    if found.map_tiles or found.quadkeys:
        _check_one_root(found)
        return MapTileSource(folder, name, reading)
    if any(folder.glob("*.csv")):
        return ImageFolderSource(folder, name)  # raises: the CSV lacks columns
    raise SourceError(f"{folder} holds {found}: {_remedy(found)}")


def _folder_of_list(found: FolderContents) -> Path:
    folders = {file.parent for file in found.lists}
    if len(folders) == 1:
        return folders.pop()
    if found.folder in folders:
        return found.folder
    some = ", ".join(str(file.relative_to(found.folder)) for file in found.lists[:3])
    raise SourceError(f"{found.folder} holds {found} ({some}): give the folder of one list")


def _check_all_placed(found: FolderContents) -> None:
    """Raises SourceError where some of the pictures have a world file and some have not."""
    placed = {file.suffix.lower() for file in found.rasters}
    lacking = sum(found.unplaced[suffix] for suffix in placed)
    if lacking > found.small:
        raise SourceError(
            f"{found.folder} holds {found}: pictures like those with a world file lack theirs: add "
            "the world files (.jgw, .pgw, .wld), or take the pictures away"
        )


def _check_one_root(found: FolderContents) -> None:
    """Raises SourceError where there are several pyramids of map tiles."""
    if len(found.map_tiles) > 1:
        named = " or ".join(str(root) for root in sorted(found.map_tiles)[:3])
        raise SourceError(f"{found.folder} holds {found}: {ABOVE}, {named}")


def _remedy(found: FolderContents) -> str:
    """What to do with a folder without imagery."""
    if found.above:
        return f"{ABOVE}, {found.above}"
    if found.exploded:
        return (
            "this layout of files is not read: export the cache from ArcGIS as a tile package "
            "(.tpkx) or as a GeoTIFF"
        )
    if ".pmtiles" in found.others:
        return "give the .pmtiles file itself"
    if {".zip", ".gz", ".tar", ".7z"} & found.others.keys():
        return f"unpack the archives if they hold the imagery; {NEEDED}"
    return NEEDED
