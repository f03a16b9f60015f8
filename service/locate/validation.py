"""Panoramas whose places are known: they calibrate an index, and measure it.

A folder with poses.csv; columns in any order, others are ignored:
    file       of the panorama, relative to the folder
    latitude, longitude    where it was taken, WGS84 degrees
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.errors import SkyfixError
from model.geo import LatLon, distance_m
from service.index.frozen_tiles import Mask
from service.index.search import TileIndex
from service.index.stored_calibration import Calibration
from service.locate.calibration import Flags, Seen, auroc, calibration_error, fit
from service.locate.localizer import Localizer, place_of
from service.locate.position import Numbers, Place

COLUMNS = ("file", "latitude", "longitude")
UNLIKE = 3.0  # times reach_m: tiles this far from a place share no ground with the tile around it
RADII_M = (10, 25, 50)

Progress = Callable[[int, int], None]  # panoramas done, in all
Figures = dict[str, float | int | None]


class ValidationError(SkyfixError):
    """A folder of panoramas that cannot be used."""


class Posed(NamedTuple):
    """A panorama's file and where it was taken."""

    file: Path
    truth: LatLon


def read_poses(folder: Path) -> list[Posed]:
    """The panoramas that poses.csv lists.

    Raises:
        ValidationError: no such file, a column or a panorama is missing, or a place is none.
    """
    table = folder / "poses.csv"
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValidationError(f"{table} cannot be read: {error}") from error
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise ValidationError(f"{table} needs the columns {', '.join(COLUMNS)}, and a row or more")
    return [_posed(table, line, row) for line, row in enumerate(rows, start=2)]


def _posed(table: Path, line: int, row: dict[str, str]) -> Posed:
    try:
        place = LatLon(float(row["latitude"]), float(row["longitude"]))
        file = table.parent / row["file"]
    except (TypeError, ValueError) as error:
        raise ValidationError(f"{table}, line {line}: {error}") from error
    if not (abs(place.latitude) <= 90.0 and abs(place.longitude) <= 180.0):  # also for NaN
        raise ValidationError(f"{table}, line {line}: {tuple(place)} is no place on Earth")
    if not file.is_file():
        raise ValidationError(f"{table}, line {line}: there is no file {file}")
    return Posed(file, place)


def calibrate(
    index: TileIndex,
    localizer: Localizer,
    folders: Sequence[Path],
    others: Sequence[Path] = (),
    progress: Progress = lambda done, expected: None,
) -> Calibration:
    """The calibration of an index, live or not, by panoramas that were taken in it.

    Args:
        folders: of panoramas taken where the index has imagery.
        others: of panoramas taken elsewhere. Without any, each of the former is also searched
            among the tiles that do not show its place, as one from just outside would be.

    Raises:
        ValidationError, CalibrationError, ImageError, GeometryError: nothing can be measured.
    """
    poses = [pose for folder in folders for pose in read_poses(folder)]
    strangers = [_stranger(index, pose) for folder in others for pose in read_poses(folder)]
    expected = len(poses) + len(strangers)
    seen: list[Seen] = []
    for done, pose in enumerate(poses, start=1):
        seen += _at_home(localizer, index, pose, alone=bool(strangers))
        progress(done, expected)
    for done, file in enumerate(strangers, start=len(poses) + 1):
        seen += _seen(localizer, index, file, [(None, None)])
        progress(done, expected)
    source = f"{len(poses)} panoramas of {_names(folders)}"
    if strangers:
        source += f" against {len(strangers)} of {_names(others)}"
    return fit(index.calibration, seen, source)


def _stranger(index: TileIndex, pose: Posed) -> Path:
    """Its file. Raises ValidationError when it was taken where the index has imagery."""
    if _around(index, pose).any():
        raise ValidationError(
            f"{pose.file}, taken at {pose.truth.latitude},{pose.truth.longitude}, is not from "
            "elsewhere: the index has imagery of that place"
        )
    return pose.file


def _around(index: TileIndex, pose: Posed) -> Mask:
    """The rows of tiles that may show its place."""
    return index.within(pose.truth, UNLIKE * index.calibration.reach_m)


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(folder.resolve().name for folder in folders)


def _at_home(localizer: Localizer, index: TileIndex, pose: Posed, *, alone: bool) -> list[Seen]:
    """A panorama among all tiles and, unless `alone`, among those that do not show its place."""
    among: list[tuple[Mask | None, LatLon | None]] = [(None, pose.truth)]
    if not alone:
        among.append((~_around(index, pose), None))
    return _seen(localizer, index, pose.file, among)


def _seen(
    localizer: Localizer,
    index: TileIndex,
    file: Path,
    among: Sequence[tuple[Mask | None, LatLon | None]],
) -> list[Seen]:
    """A panorama among each of some sets of rows, and its true place there."""
    query = localizer.prepare(file.read_bytes(), top_k=1)
    found = localizer.candidates(index, query, [rows for rows, _ in among])
    return [
        Seen(index.places(candidates.rows), np.array(candidates.distances), truth)
        for candidates, (_, truth) in zip(found, among, strict=True)
        if candidates.rows
    ]


@dataclass(frozen=True)
class Report:
    """What `evaluate` measured. inside: on panoramas taken in the index; certainty: see there."""

    index_version: str
    encoder: str
    calibration: str
    inside: Figures
    certainty: Figures


def evaluate(
    localizer: Localizer,
    inside: Path,
    other: Path | None = None,
    progress: Progress = lambda done, expected: None,
    *,
    heading_known: bool = True,
) -> Report:
    """Places panoramas by the live index and compares with where they were taken.

    Args:
        inside: a folder of panoramas taken where the index has imagery.
        other: one of panoramas taken elsewhere, to measure "not in this index".
        heading_known: False passes over what the panoramas say of their heading.

    Raises:
        ValidationError, IndexMissing, VersionCorrupt, ImageError, GeometryError.
    """
    poses, strangers = read_poses(inside), read_poses(other) if other else []
    index = localizer.live.get()
    best, fused, places = [], [], []
    for done, pose in enumerate([*poses, *strangers], start=1):
        query = localizer.prepare(pose.file.read_bytes(), top_k=1)
        if not heading_known:
            query = replace(query, north=None)
        (found,) = localizer.candidates(index, query, [None])
        place = place_of(index, found)
        assert place is not None  # an index without tiles is not built
        best.append(distance_m(LatLon(*index.places(found.rows[:1])[0]), pose.truth))
        fused.append(distance_m(place.position, pose.truth))
        places.append(place)
        progress(done, len(poses) + len(strangers))
    errors = np.array(fused)
    right = errors <= np.array([place.radius_m for place in places])
    right[len(poses) :] = False
    return Report(
        index.version,
        localizer.encoder.fingerprint,
        index.calibration.source,
        _errors(errors[: len(poses)], np.array(best[: len(poses)])),
        _certainty(places, right, len(poses)),
    )


def _errors(fused: Numbers, best: Numbers) -> Figures:
    """Metres: of the fused position, and of the best tile's centre for comparison."""
    figures: Figures = {
        "panoramas": len(fused),
        "median_error_m": float(np.median(fused)),
        "median_error_best_tile_m": float(np.median(best)),
    }
    for radius in RADII_M:
        figures[f"within_{radius}m"] = float((fused <= radius).mean())
        figures[f"best_tile_within_{radius}m"] = float((best <= radius).mean())
    return figures


def _certainty(places: Sequence[Place], right: Flags, inside: int) -> Figures:
    """Calibration error of the confidence, over all that were asked; AUROC of the distance that
    `in_index` goes by, inside against other.

    None: not calibrated, or no panoramas from elsewhere.
    """
    confidences = [place.confidence for place in places]
    known, compared = None not in confidences, len(places) > inside
    scores = np.array(confidences, dtype=np.float64)
    nearness = np.array([-place.nearest for place in places])
    said = np.array([bool(place.in_index) for place in places])
    return {
        "others": len(places) - inside,
        "within_radius": float(right[:inside].mean()),
        "calibration_error": calibration_error(scores, right) if known else None,
        "auroc": auroc(nearness[:inside], nearness[inside:]) if compared else None,
        "inside_said_inside": float(said[:inside].mean()) if known else None,
        "others_said_inside": float(said[inside:].mean()) if known and compared else None,
    }
