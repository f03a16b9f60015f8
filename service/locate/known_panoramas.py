"""Measures an index, and calibrates it, with panoramas whose positions are known.

Such panoramas lie in a folder with poses.csv. Its columns, in any order; others are ignored:
    file                   the panorama, relative to the folder
    latitude, longitude    where the panorama was taken, WGS84 degrees
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.errors import SkyfixError
from model.file_kind import markup_of
from model.geo import LatLon, distance_m
from service.index.frozen_tiles import Mask
from service.index.search import TileIndex
from service.index.stored_calibration import Calibration
from service.locate.confidence import FusedPosition, Numbers
from service.locate.fit_calibration import (
    Flags,
    KnownPanorama,
    auroc,
    calibration_error,
    fit,
    locate_all,
)
from service.locate.hints import UNKNOWN, Hints
from service.locate.localizer import NO_HINTS, Localizer

COLUMNS = ("file", "latitude", "longitude")
UNSEEN = 3.0  # times reach_m: tiles this far from a position share no ground with the tile there
RADII_M = (10, 25, 50)

Progress = Callable[[int, int], None]  # panoramas done, in all
Figures = dict[str, float | int | None]


class ValidationError(SkyfixError):
    """A folder of panoramas cannot be used."""


class Pose(NamedTuple):
    """A panorama's file and where the panorama was taken."""

    file: Path
    truth: LatLon


def read_poses(folder: Path) -> list[Pose]:
    """The panoramas that poses.csv lists.

    Raises:
        ValidationError: the table, a column or a panorama is missing, or a position is not on
            Earth.
    """
    table = folder / "poses.csv"
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValidationError(f"{table} cannot be read: {error}") from error
    if not rows or not set(COLUMNS) <= rows[0].keys():
        found = f"; the file is {kind}" if (kind := markup_of(table.read_bytes())) else ""
        raise ValidationError(
            f"{table} needs the columns {', '.join(COLUMNS)} and at least a row{found}"
        )
    return [_read_pose(table, line, row) for line, row in enumerate(rows, start=2)]


def _read_pose(table: Path, line: int, row: dict[str, str]) -> Pose:
    try:
        truth = LatLon(float(row["latitude"]), float(row["longitude"]))
        file = table.parent / row["file"]
    except (TypeError, ValueError) as error:
        raise ValidationError(f"{table}, line {line}: {error}") from error
    if not (abs(truth.latitude) <= 90.0 and abs(truth.longitude) <= 180.0):  # also for NaN
        raise ValidationError(f"{table}, line {line}: {tuple(truth)} is no position on Earth")
    if not file.is_file():
        raise ValidationError(f"{table}, line {line}: there is no file {file}")
    return Pose(file, truth)


def calibrate(
    index: TileIndex,
    localizer: Localizer,
    inside: Sequence[Path],
    others: Sequence[Path] = (),
    progress: Progress = lambda done, expected: None,
) -> Calibration:
    """Calibrates an index, live or not.

    Args:
        inside: folders of panoramas taken where the index has imagery.
        others: folders of panoramas taken elsewhere. Without any, each panorama of `inside` is
            searched again among the tiles that do not show its position.

    Raises:
        ValidationError, CalibrationError, ImageError, GeometryError: nothing can be measured.
    """
    poses = [pose for folder in inside for pose in read_poses(folder)]
    strangers = [pose for folder in others for pose in read_poses(folder)]
    for pose in strangers:
        if _may_show(index, pose).any():
            raise ValidationError(
                f"{pose.file}, taken at {pose.truth.latitude},{pose.truth.longitude}, is not from "
                "elsewhere: the index has imagery of that position"
            )
    found = _search_all(localizer, index, poses, strangers, progress)
    source = f"{len(poses)} panoramas of {_names(inside)}"
    if strangers:
        source += f" against {len(strangers)} of {_names(others)}"
    return fit(index.calibration, found, source)


def _may_show(index: TileIndex, pose: Pose) -> Mask:
    """The rows of the tiles that may show the panorama's position."""
    return index.tiles.within(pose.truth, UNSEEN * index.calibration.reach_m)


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(folder.resolve().name for folder in folders)


def _search_all(
    localizer: Localizer,
    index: TileIndex,
    poses: Sequence[Pose],
    strangers: Sequence[Pose],
    progress: Progress,
    hints: Hints = NO_HINTS,
) -> list[KnownPanorama]:
    """Searches each panorama, and without `strangers` again among the tiles that do not show it.

    Panoramas of this index come first.
    """
    found: list[KnownPanorama] = []
    for done, pose in enumerate([*poses, *strangers], start=1):
        searches: list[tuple[Mask | None, LatLon | None]] = [(None, pose.truth)]
        if done > len(poses):
            searches = [(None, None)]
        elif not strangers:
            searches.append((~_may_show(index, pose), None))
        found += _search(localizer, index, pose.file, searches, hints)
        progress(done, len(poses) + len(strangers))
    return sorted(found, key=lambda panorama: panorama.truth is None)


def _search(
    localizer: Localizer,
    index: TileIndex,
    file: Path,
    searches: Sequence[tuple[Mask | None, LatLon | None]],
    hints: Hints,
) -> list[KnownPanorama]:
    """Searches a panorama once for each pair of allowed rows and true position."""
    query = localizer.prepare(file.read_bytes(), hints, top_k=1)
    found = localizer.candidates(index, query, [rows for rows, _ in searches])
    return [
        KnownPanorama(index.tiles.positions(candidates.rows), np.array(candidates.distances), truth)
        for candidates, (_, truth) in zip(found, searches, strict=True)
        if candidates.rows
    ]


@dataclass(frozen=True)
class Report:
    """The figures of `evaluate`: of the panoramas inside, and of the confidence (`_certainty`)."""

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
    """Locates panoramas with the live index and compares with their true positions.

    Args:
        inside: folder of panoramas taken where the index has imagery.
        other: folder of panoramas taken elsewhere, to measure "not in this index". Without it, as
            for `calibrate`.
        heading_known: False ignores the headings that the panoramas state.

    Raises:
        ValidationError, IndexMissing, VersionCorrupt, ImageError, GeometryError.
    """
    poses, strangers = read_poses(inside), read_poses(other) if other else []
    index = localizer.live.get()
    hints = NO_HINTS if heading_known else Hints(heading_deg=UNKNOWN)
    found = _search_all(localizer, index, poses, strangers, progress, hints)
    fused, errors_m = locate_all(index.calibration, found)
    best_m = [
        distance_m(LatLon(*panorama.centres[0]), pose.truth)
        for panorama, pose in zip(found, poses, strict=False)
    ]
    return Report(
        index.version,
        localizer.encoder.fingerprint,
        index.calibration.source,
        _errors(errors_m[: len(poses)], np.array(best_m)),
        _certainty(fused, errors_m <= [position.radius_m for position in fused], len(poses)),
    )


def _errors(fused_m: Numbers, best_m: Numbers) -> Figures:
    """Errors of the fused position in metres, beside those of the best tile's centre."""
    figures: Figures = {
        "panoramas": len(fused_m),
        "median_error_m": float(np.median(fused_m)),
        "median_error_best_tile_m": float(np.median(best_m)),
    }
    for radius in RADII_M:
        figures[f"within_{radius}m"] = float((fused_m <= radius).mean())
        figures[f"best_tile_within_{radius}m"] = float((best_m <= radius).mean())
    return figures


def _certainty(fused: Sequence[FusedPosition], within_radius: Flags, inside: int) -> Figures:
    """How far confidence and in_index hold. The first `inside` positions are of this index.

    calibration_error is over all panoramas. auroc separates inside from others by the distance of
    the nearest tile. None: not calibrated, or no panoramas from elsewhere.
    """
    confidences = [position.confidence for position in fused]
    known, compared = None not in confidences, len(fused) > inside
    scores = np.array(confidences, dtype=np.float64)
    nearness = np.array([-position.nearest for position in fused])
    in_index = np.array([bool(position.in_index) for position in fused])
    return {
        "others": len(fused) - inside,
        "within_radius": float(within_radius[:inside].mean()),
        "calibration_error": calibration_error(scores, within_radius) if known else None,
        "auroc": auroc(nearness[:inside], nearness[inside:]) if compared else None,
        "inside_said_inside": float(in_index[:inside].mean()) if known else None,
        "others_said_inside": float(in_index[inside:].mean()) if known and compared else None,
    }
