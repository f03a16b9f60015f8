"""A raster's file, opened: where on Earth it lies, and what GDAL does not say of its pixels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import rasterio
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio import DatasetReader
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from model.file_kind import TIFF, kind_of_file
from service.imagery import control_points
from service.imagery.crs import crs_name, parse_crs
from service.imagery.reading import Reading
from service.imagery.signature import with_members
from service.imagery.source import SourceError

PHOTOMETRIC, EXTRA_SAMPLES = 262, 338  # TIFF tags
PREMULTIPLIED = 1  # among the extra samples: "associated" alpha
MIN_IS_WHITE, CIELAB, ICCLAB = 0, 8, 9  # photometric interpretations


class RasterFile(NamedTuple):
    """An open raster.

    name: without folders, for messages.
    crs: of its pixels, as the user, the file or a .prj beside the file states.
    photometric: TIFF's photometric interpretation, where GDAL leaves the conversion to the reader.
    premultiplied: whether the colours were multiplied by the alpha band.
    doubt: a contradiction that was settled; empty: none.
    """

    raster: DatasetReader
    name: str
    crs: CRS
    photometric: int | None
    premultiplied: bool
    doubt: str


def open_raster(path: Path, reading: Reading) -> RasterFile:
    """The raster, warped where only control points place it.

    Raises:
        SourceError: unreadable, or nothing says where on Earth the raster lies.
        ReadingError: the user's CRS is none.
    """
    stated = parse_crs(reading.crs) if reading.crs else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            raster = rasterio.open(path)
            if raster.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CIELAB":
                raster.close()
                # libtiff's own conversion takes no account of Lab's white, and is up to 34 off.
                raster = rasterio.open(f"GTIFF_RAW:{path}")
        except RasterioError as error:
            kind = kind_of_file(path)
            remedy = "convert it to GeoTIFF" if kind in ("", TIFF) else f"the file is {kind}"
            raise SourceError(
                f"{path}: not a raster that can be read: {reason(error)}: {remedy}"
            ) from error
        try:
            return _placed(raster, path, stated, reading)
        except BaseException:
            raster.close()
            raise


def _placed(raster: DatasetReader, path: Path, stated: CRS | None, reading: Reading) -> RasterFile:
    _check_whole(raster, path)
    photometric, extra = _tiff_tags(raster, path)
    points, points_crs = raster.gcps
    own = raster.crs or points_crs
    crs = stated or own or _crs_beside(path)
    if crs is None:
        raise SourceError(
            f"{path.name}: it names no coordinate reference system (CRS): state it by --crs, or "
            "put a .prj file beside it"
        )
    by_points = raster.transform.is_identity and len(points) >= control_points.FEWEST
    if not by_points and (raster.transform.is_identity or raster.transform.is_degenerate):
        why = (
            "only rational polynomials place it" if raster.rpcs else "its transform is the identity"
        )
        raise SourceError(
            f"{path.name}: it holds no georeference ({why}): add a world file, or give it one by "
            "gdal_edit.py -a_ullr or gdalwarp"
        )
    doubt = ""
    if stated and own and stated != own:
        doubt = f"{path.name}: its CRS {crs_name(own)} is replaced by --crs {reading.crs}"
    if by_points:
        raster = control_points.warped(raster, path, crs, reading.nodata)
    return RasterFile(raster, path.name, crs, photometric, PREMULTIPLIED in extra, doubt)


def reason(error: RasterioError) -> str:
    """GDAL's words: rasterio's may be "See previous exception for details"."""
    return str(error.__cause__ or error).rstrip(".")


def _check_whole(raster: DatasetReader, path: Path) -> None:
    """Raises SourceError where the file holds several rasters, or lacks some of its files."""
    if raster.count == 0 and raster.subdatasets:
        inside = raster.subdatasets
        raise SourceError(
            f"{path.name} holds {len(inside)} rasters, name one of them by a VRT: gdal_translate "
            f"-of VRT '{inside[0]}' one.vrt. It holds {', '.join(inside[:20])}"
        )
    if raster.driver == "VRT":
        members = (file for file in with_members([str(path)]) if ":" not in file)
        for file in sorted(members):
            if not file.startswith("/vsi") and not Path(file).exists():
                raise SourceError(f"{path.name}: its file {file} is missing: put it back")


def _tiff_tags(raster: DatasetReader, path: Path) -> tuple[int | None, tuple[int, ...]]:
    """(photometric interpretation, meanings of the extra samples), where either matters."""
    first, *others = raster.colorinterp or (ColorInterp.red,)
    matters = first == ColorInterp.undefined or ColorInterp.alpha in others
    if raster.driver != "GTiff" or not matters or not path.is_file():
        return None, ()
    with path.open("rb") as file:
        header = file.read(16)
        directory = ImageFileDirectory_v2(
            header if header[2] == 43 or header[3] == 43 else header[:8]
        )
        file.seek(directory.next)
        directory.load(file)
    return directory.get(PHOTOMETRIC), tuple(directory.get(EXTRA_SAMPLES, ()))


def crs_files(path: Path) -> list[Path]:
    """The .prj file of the same name, which ESRI's software writes and GDAL does not read."""
    return [file for file in map(path.with_suffix, (".prj", ".PRJ")) if file.is_file()]


def _crs_beside(path: Path) -> CRS | None:
    for beside in crs_files(path):
        try:
            text = beside.read_text("utf-8-sig", errors="replace").strip()
            return CRS.from_wkt(text, morph_from_esri_dialect=True)
        except CRSError as error:
            raise SourceError(
                f"{beside.name}: no coordinate reference system ({error}): state it by --crs"
            ) from error
    return None
