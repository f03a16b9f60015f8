"""What a folder holds, found by one walk over its names: rasters, map tiles, listed images.

Few files are read: the first line of a CSV, a sidecar that may place a picture, and one file of
each kind that no name explains.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from service.imagery.image_folder import has_columns
from service.imagery.map_tile_levels import MAX_ZOOM, NUMBER, QUADKEY, TILE
from service.imagery.map_tile_levels import SUFFIXES as TILE_SUFFIXES
from service.imagery.source import SourceError

LEFT_OUT = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "thumbs.db", "desktop.ini"}
# Formats that hold their georeference. Others are tried: see `_opens`.
RASTERS = {
    ".tif", ".tiff", ".vrt", ".jp2", ".j2k", ".jpx", ".img", ".ecw", ".sid", ".bil", ".bip", ".bsq",
    ".ntf", ".nitf", ".ers", ".kea", ".mrf", ".mbtiles", ".tpkx",
}  # fmt: skip
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}  # rasters if something places them
PLACED_BY = (b"<GeoTransform", b"<GCPList")  # in a picture's .aux.xml
WORLD_FILES = {
    world for kind in RASTERS | PICTURES for world in (f".{kind[1]}{kind[-1]}w", f"{kind}w", ".wld")
}
SIDECARS = WORLD_FILES | {".prj", ".ovr", ".msk", ".hdr", ".rrd", ".tab", ".bundlx"}
# Never rasters. GDAL would ask the network for what some XML and JSON files name.
TEXT = {
    ".xml", ".json", ".geojson", ".html", ".htm", ".txt", ".csv", ".md", ".kml", ".kmz", ".mapml",
    ".log", ".css", ".js", ".pdf", ".cpg", ".dbf", ".shp", ".shx", ".qgz", ".qgs", ".qml", ".wms",
    ".zip", ".gz", ".bundle", ".pmtiles",
}  # fmt: skip
SMALL = re.compile(r"thumb|preview|browse|quicklook|overview|legend", re.IGNORECASE)
EXPLODED = re.compile(r"C[0-9a-f]{8}")  # of ArcGIS: L18/R0001405f/C00002ab1.png
MAX_TRIED = 20  # kinds of files
MAX_NAMED = 6


class FolderContents:
    """Files by what they are.

    rasters: with a georeference of their own, or placed by a world file; sorted.
    map_tiles: how many z/x/y there are, by the folder of their levels.
    above: the folder of the levels, also where the walk began inside one level.
    quadkeys: how many map tiles are named by quadkeys.
    lists: CSVs with the columns of tiles.csv.
    unplaced: how many pictures nothing places, by suffix; `small` of them are thumbnails.
    exploded: how many map tiles of an ArcGIS cache there are.
    others: other files by suffix.
    """

    def __init__(self, folder: Path) -> None:
        """Raises SourceError where a folder cannot be listed."""
        self.folder = folder
        self.rasters: list[Path] = []
        self.map_tiles: Counter[Path] = Counter()
        self.above: Path | None = None
        self.quadkeys = self.exploded = self.small = 0
        self.lists: list[Path] = []
        self.unplaced: Counter[str] = Counter()
        self.others: dict[str, list[Path]] = {}
        for here, names in _walk(folder):
            self._sort(here, names)
        for suffix, files in list(self.others.items())[:MAX_TRIED]:
            if suffix not in TEXT and _opens(files[0]):
                self.rasters += self.others.pop(suffix)
        if ".bundle" in self.others:
            caches = ("conf.xml", "root.json")
            found = self.others.get(".xml", []) + self.others.get(".json", [])
            self.rasters += [file for file in found if file.name.lower() in caches]
        self.rasters.sort()

    def _sort(self, here: Path, names: list[str]) -> None:
        level, column = here.parts[-2:] if len(here.parts) > 2 else ("", "")
        numbered = NUMBER.fullmatch(level) and int(level) <= MAX_ZOOM and NUMBER.fullmatch(column)
        root = here.parent.parent if numbered else None
        inside = root is not None and root.is_relative_to(self.folder)
        beside = {name.lower(): here / name for name in names}
        for name in names:
            stem, suffix = os.path.splitext(name)
            suffix = suffix.lower()
            tile = suffix in TILE_SUFFIXES
            if root and tile and TILE.fullmatch(stem):
                self.above = root
                if inside:
                    self.map_tiles[root] += 1
                    continue
            if suffix in RASTERS or (suffix in PICTURES and _placed(stem, suffix, beside)):
                self.rasters.append(here / name)
            elif tile and QUADKEY.fullmatch(stem):
                self.quadkeys += 1
            elif tile and EXPLODED.fullmatch(stem):
                self.exploded += 1
            elif suffix in PICTURES:
                self.unplaced[suffix] += 1
                self.small += bool(SMALL.search(stem))
            elif suffix == ".csv" and has_columns(here / name):
                self.lists.append(here / name)
            elif suffix not in SIDECARS and not name.lower().endswith(".aux.xml"):
                self.others.setdefault(suffix, []).append(here / name)

    def __str__(self) -> str:
        """The counts, such as "12 rasters in 3 folders, 1 CSV without the columns of tiles.csv"."""
        folders = len({file.parent for file in self.rasters})
        csvs = len(self.others.get(".csv", ()))
        other = {suffix: files for suffix, files in self.others.items() if suffix != ".csv"}
        unplaced = "" if self.lists else " that nothing places"
        counts = (
            (len(self.rasters), "raster", f" in {folders} folders" if folders > 1 else ""),
            (sum(self.map_tiles.values()), "map tile", " z/x/y"),
            (self.quadkeys, "map tile", " named by quadkeys"),
            (self.exploded, "map tile", " of an ArcGIS cache"),
            (len(self.lists), "list", " of images (tiles.csv)"),
            (self.unplaced.total(), "picture", unplaced + _named(self.unplaced)),
            (csvs, "CSV", " without the columns of tiles.csv"),
            (sum(map(len, other.values())), "other file", _named(other)),
        )
        return ", ".join(f"{n} {what}{'s' * (n > 1)}{more}" for n, what, more in counts if n) or (
            "no file"
        )


def _named(suffixes: Iterable[str]) -> str:
    shown = sorted(suffix or "no suffix" for suffix in suffixes)
    return f" ({', '.join(shown[:MAX_NAMED])}{', …' * (len(shown) > MAX_NAMED)})"


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder, its files' names) for it and the folders below, each once, without hidden files."""
    waiting, seen = [folder], set()
    while waiting:
        here = waiting.pop()
        names: list[str] = []
        inner: list[str] = []
        try:
            stat = os.stat(here)
            with os.scandir(here) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and entry.name.lower() not in LEFT_OUT:
                        (inner if entry.is_dir() else names).append(entry.name)
        except OSError as error:
            raise SourceError(f"{here} cannot be listed: {error.strerror}") from error
        if (stat.st_dev, stat.st_ino) not in seen:  # a link may lead back
            seen.add((stat.st_dev, stat.st_ino))
            waiting += [here / name for name in sorted(inner, reverse=True)]
            yield here, names


def _placed(stem: str, suffix: str, beside: Mapping[str, Path]) -> bool:
    """Whether a world file or GDAL's sidecar says where a picture lies."""
    stem, ending = stem.lower(), suffix[1:]
    world = (f"{stem}.{ending[0]}{ending[-1]}w", f"{stem}.{ending}w", f"{stem}.wld")
    aux = beside.get(f"{stem}{suffix}.aux.xml")
    return any(name in beside for name in world) or (
        aux is not None and any(mark in aux.read_bytes() for mark in PLACED_BY)
    )


def _opens(file: Path) -> bool:
    """Whether GDAL reads a raster with a georeference there."""
    with suppress(RasterioError), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(file) as raster:
            return raster.crs is not None and not raster.transform.is_identity
    return False
