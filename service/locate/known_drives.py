"""Measures drives whose frames' positions are known: each frame alone, and in its drive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.geo import distance_m
from service.locate.confidence import Numbers
from service.locate.drive import DriveFrame, alone
from service.locate.drive_times import Taken, locate_by_time
from service.locate.fit_calibration import calibration_error
from service.locate.hints import UNKNOWN, Hints
from service.locate.known_panoramas import (
    RADII_M,
    Figures,
    Pose,
    Progress,
    read_poses,
)
from service.locate.localizer import Localizer


@dataclass(frozen=True)
class DriveReport:
    """The figures of `evaluate_drives`."""

    index_version: str
    encoder: str
    figures: Figures


def evaluate_drives(
    localizer: Localizer,
    folder: Path,
    progress: Progress = lambda done, expected: None,
    *,
    heading_known: bool = True,
) -> DriveReport:
    """Locates drives with the live index and compares with their true positions.

    Args:
        folder: a drive with poses.csv, or a folder of such folders.
        heading_known: False ignores the headings that the frames state.

    Raises:
        ValidationError, IndexMissing, VersionCorrupt, ImageError, GeometryError, DriveError.
    """
    folders = sorted(path.parent for path in folder.glob("*/poses.csv")) or [folder]
    drives = [read_poses(drive) for drive in folders]
    expected = sum(map(len, drives))
    alone: list[float] = []
    together: list[float] = []
    frames: list[DriveFrame] = []
    for poses in drives:
        errors_m, located = _measure(localizer, poses, heading_known=heading_known)
        alone += errors_m
        frames += located
        together += [
            distance_m(frame.position, pose.truth)
            for frame, pose in zip(located, poses, strict=True)
        ]
        progress(len(frames), expected)
    figures: Figures = {"drives": len(drives), "frames": expected}
    figures |= _errors("alone", np.array(alone)) | _errors("drive", np.array(together))
    return DriveReport(
        localizer.live.get().version,
        localizer.encoder.fingerprint,
        figures | _certainty(frames, np.array(together)),
    )


def _measure(
    localizer: Localizer, poses: Sequence[Pose], *, heading_known: bool
) -> tuple[list[float], list[DriveFrame]]:
    """Each frame's error alone in metres, and the frames as the drive locates them."""
    hints = Hints() if heading_known else Hints(heading_deg=UNKNOWN)
    index, errors_m, found, taken = localizer.live.get(), [], [], []
    for pose in poses:
        query = localizer.prepare(pose.file.read_bytes(), hints, top_k=1)
        (frame,) = localizer.frames(index, [query])
        errors_m.append(distance_m(alone(index, frame).position, pose.truth))
        found.append(frame)
        taken.append(Taken.at(query.time) if query.time else None)
    places = locate_by_time(index, found, taken).places
    return errors_m, [place.frame for place in places if place is not None]


def _errors(name: str, errors_m: Numbers) -> Figures:
    shares = {f"{name}_within_{radius}m": float((errors_m <= radius).mean()) for radius in RADII_M}
    return {f"{name}_median_error_m": float(np.median(errors_m)), **shares}


def _certainty(frames: Sequence[DriveFrame], errors_m: Numbers) -> Figures:
    """How far the drives' confidence and radius hold."""
    within = errors_m <= np.array([frame.radius_m for frame in frames])
    confidence = np.array([frame.confidence for frame in frames])
    return {
        "within_radius": float(within.mean()),
        "calibration_error": calibration_error(confidence, within),
        "said_inside": float(np.mean([frame.in_index for frame in frames])),
    }
