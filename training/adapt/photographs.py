"""A folder of street images whose places are known, and why some of them cannot be used.

Places come from the folder's poses.csv (columns file, latitude, longitude; heading_deg and
horizontal_fov_deg where known), else from the images' EXIF. All other geometry comes from the
files, as in serving.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from model.errors import SkyfixError
from model.geo import LatLon
from model.magnetic_north import exif_position
from model.panorama import GeometryError, PanoramaGeometry
from model.panorama_metadata import read_panorama
from model.preprocessing import Preprocessing
from training.data.datasets import list_files
from training.data.pairs import PairError
from training.evaluate.gallery import read_in_chunks

TABLE = "poses.csv"
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif"}


class AdaptError(SkyfixError):
    """The imagery or the photographs allow no adaptation."""


@dataclass(frozen=True)
class Photograph:
    """A street image, panorama or not, at a known place.

    geometry: its north is None where neither the table nor the file states a heading.
    """

    name: str
    file: Path
    position: LatLon
    geometry: PanoramaGeometry

    def headed(self, heading_deg: float) -> Photograph:
        """The same photograph with this heading of its centre column."""
        north = PanoramaGeometry.north_of(heading_deg, self.geometry.horizontal_fov_deg)
        return replace(self, geometry=replace(self.geometry, north=north))


class LeftOut(NamedTuple):
    """A photograph that is not used."""

    name: str
    reason: str
    detail: str = ""


class _Listed(NamedTuple):
    name: str
    file: Path
    position: LatLon | None = None
    heading_deg: float | None = None
    horizontal_fov_deg: float | None = None


def read_photographs(
    folder: Path, preprocessing: Preprocessing
) -> tuple[list[Photograph], list[LeftOut]]:
    """The photographs of a folder, and those without a place or that cannot be decoded.

    Raises:
        AdaptError: the folder holds no images. PairError: its table is broken.
    """
    listed = _of_table(folder) if (folder / TABLE).is_file() else _of_folder(folder)
    if not listed:
        raise AdaptError(f"{folder} lists no photographs: give a folder of images or a {TABLE}")
    used: list[Photograph] = []
    left_out: list[LeftOut] = []

    def read(item: _Listed) -> Photograph | LeftOut:
        return _read(item, preprocessing)

    for chunk in read_in_chunks(listed, read, "reading photographs"):
        for found in chunk:
            (used if isinstance(found, Photograph) else left_out).append(found)  # type: ignore[arg-type]
    return used, left_out


def counted(left_out: Iterable[LeftOut]) -> list[str]:
    """A line for each reason: how many photographs, and the first one's name."""
    by_reason: dict[str, list[LeftOut]] = {}
    for photograph in left_out:
        by_reason.setdefault(photograph.reason, []).append(photograph)
    return [
        f"{len(found)} left out: {reason} (first: {found[0].name}"
        + (f", {found[0].detail})" if found[0].detail else ")")
        for reason, found in by_reason.items()
    ]


def _of_table(folder: Path) -> list[_Listed]:
    table = folder / TABLE
    try:
        records = list_files.records(table, ("file", "latitude", "longitude"))
    except ValueError as error:
        raise PairError(str(error)) from error
    return [_of_row(folder, f"{table}, line {line}", row) for line, row in records]


def _of_row(folder: Path, where: str, row: dict[str, str]) -> _Listed:
    with list_files.fault_at(where):
        place = row["latitude"], row["longitude"]
        return _Listed(
            row["file"],
            folder / row["file"],
            list_files.position(*place) if any(place) else None,
            _number(row, "heading_deg", -360.0, 720.0),
            _number(row, "horizontal_fov_deg", 1.0, 360.0),
        )


def _number(row: dict[str, str], name: str, low: float, high: float) -> float | None:
    cell = row.get(name, "")
    return list_files.number(name, cell, low, high) if cell else None


def _of_folder(folder: Path) -> Sequence[_Listed]:
    if not folder.is_dir():
        raise AdaptError(f"{folder} is no folder: give a folder of photographs")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
    return [_Listed(str(file.relative_to(folder)), file) for file in files]


def _read(listed: _Listed, preprocessing: Preprocessing) -> Photograph | LeftOut:
    """Decodes the image, so that none fails later."""
    try:
        panorama = read_panorama(
            listed.file.read_bytes(),
            heading_deg=listed.heading_deg,
            horizontal_fov_deg=listed.horizontal_fov_deg,
        )
        preprocessing.read_strip(panorama)
    except GeometryError as error:
        return LeftOut(listed.name, "the geometry is unknown", str(error))
    except (SkyfixError, OSError) as error:
        return LeftOut(listed.name, "the image cannot be read", str(error))
    position = listed.position or exif_position(panorama.image.exif)
    if position is None:
        return LeftOut(listed.name, f"neither {TABLE} nor EXIF states a position")
    return Photograph(listed.name, listed.file, position, panorama.geometry)
