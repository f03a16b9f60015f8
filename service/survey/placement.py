"""Writes the places that a survey found into its images, or into copies of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import NamedTuple

from model.atomic_write import write_atomically
from model.errors import SkyfixError
from model.images import open_image
from model.magnetic_north import exif_position
from model.panorama import Panorama
from model.panorama_metadata import read_panorama
from service.locate.hints import Hints
from service.survey.exif_position import with_position
from service.survey.image_file import exchange
from service.survey.images import SurveyError, SurveyImage
from service.survey.outcome import Outcome
from service.survey.place import MetadataError, Place
from service.survey.xmp_heading import with_heading

ORIGINAL = "_original"  # behind the name of an image that was changed, as ExifTool does
_PROBE_DEG = 90.0
_PART = re.compile(r"\.(.+)\.\d+\.tmp")


class Placement(NamedTuple):
    """How a survey writes places: `write` is a last step of `locate_images`.

    copies: folder of the changed copies; None: the images themselves are changed, and the
        original stays beside them with ORIGINAL behind its name.
    min_confidence: a position of less, or of unknown confidence, is not written. 0: all are.
    dry_run: everything but the writing.
    """

    copies: Path | None
    min_confidence: float = 0.5
    dry_run: bool = False

    def check(self, images: Sequence[SurveyImage], *, replace: bool) -> None:
        """Makes the folder of copies, unless files would be lost; removes a killed run's parts.

        Args:
            replace: files in the folder may be replaced.

        Raises:
            SurveyError: copies would have the same name, or replace a file, or have no folder.
        """
        if self.dry_run:
            return
        targets = [self._target(image) for image in images]
        if self.copies is not None:
            self._check_copies(images, targets, replace=replace)
        if replace:
            _sweep(set(targets))

    def _target(self, image: SurveyImage) -> Path:
        return image.path.resolve() if self.copies is None else self.copies / image.copy

    def _check_copies(
        self, images: Sequence[SurveyImage], targets: Sequence[Path], *, replace: bool
    ) -> None:
        assert self.copies is not None
        try:
            self.copies.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SurveyError(
                f"{self.copies} cannot be made: {error.strerror}: name another folder"
            ) from error
        sources: dict[Path, SurveyImage] = {}
        for image, target in zip(images, targets, strict=True):
            other = sources.setdefault(target, image)
            if other is not image:
                raise SurveyError(f"{other.file} and {image.file} would both become {target}")
            if target.exists() and image.path.exists() and target.samefile(image.path):
                raise SurveyError(f"{target} would replace its original: name another folder")
        if not replace and any(self.copies.iterdir()):
            raise SurveyError(f"{self.copies} is not empty: give --overwrite, or name another")

    def write(self, image: SurveyImage, data: bytes, outcome: Outcome) -> Outcome:
        """Writes the outcome's position into the image, if it is sure enough."""
        if outcome.latitude is None:
            return outcome
        if self.min_confidence > (outcome.confidence or 0.0):
            known = outcome.confidence is not None
            reason = "below --min-confidence" if known else "confidence unknown"
            return outcome._replace(metadata=f"not written: {reason}")
        try:
            placed = with_place(data, outcome, image.hints)
            if not self.dry_run:
                self._save(image, data, placed)
        except SkyfixError as error:
            return outcome._replace(problem=f"the place is not written: {error}")
        except OSError as error:
            return outcome._replace(problem=f"the place is not written: {error.strerror}")
        return outcome._replace(metadata="would be written" if self.dry_run else "written")

    def _save(self, image: SurveyImage, data: bytes, placed: bytes) -> None:
        target = self._target(image)
        if self.copies is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, placed)
            return
        _keep_original(target, data)
        mode = target.stat().st_mode
        write_atomically(target, placed)
        target.chmod(mode)


def _sweep(targets: AbstractSet[Path]) -> None:
    """Removes the hidden parts of files that a killed run left (see `write_atomically`)."""
    for folder in {target.parent for target in targets}:
        for part in folder.glob(".*.tmp"):
            name = _PART.fullmatch(part.name)
            if name and folder / name[1] in targets:
                part.unlink(missing_ok=True)


def _keep_original(source: Path, data: bytes) -> None:
    """The oldest original stays when an image is changed again."""
    original = source.with_name(source.name + ORIGINAL)
    if original.exists():
        return
    try:
        os.link(source, original)
    except OSError:  # a disk without links, or without room
        write_atomically(original, data)
        shutil.copystat(source, original)


def with_place(data: bytes, outcome: Outcome, hints: Hints) -> bytes:
    """The image file with the outcome's place in EXIF, and a panorama's heading in GPano.

    Raises:
        MetadataError: this file cannot hold the place, or other metadata would contradict.
    """
    assert outcome.latitude is not None
    assert outcome.longitude is not None
    assert outcome.heading_deg is not None
    panorama = _read(data, hints)
    is_panorama = panorama.geometry.projection != "rectilinear"
    place = Place(outcome.latitude, outcome.longitude, _PROBE_DEG, outcome.radius_m or 0.0)
    # A file states the heading of its full sphere's centre; a crop's centre may lie elsewhere.
    probe = _read(_exchanged(data, place, is_panorama), hints).heading_deg
    turn_deg = 0.0 if probe is None else probe - _PROBE_DEG
    heading_deg = round(outcome.heading_deg - turn_deg, 2) % 360.0
    placed = _exchanged(data, place._replace(heading_deg=heading_deg), is_panorama)
    found = exif_position(open_image(placed).exif)
    if found is None or max(abs(found[0] - place[0]), abs(found[1] - place[1])) > 1e-6:
        raise MetadataError("further EXIF in it states another position")
    return placed


def _exchanged(data: bytes, place: Place, is_panorama: bool) -> bytes:
    change = partial(with_heading, heading_deg=place.heading_deg) if is_panorama else None
    return exchange(data, partial(with_position, place=place), change)


def _read(data: bytes, hints: Hints) -> Panorama:
    return read_panorama(
        data,
        projection=hints.projection,
        horizon=hints.horizon,
        vertical_fov_deg=hints.vertical_fov_deg,
        horizontal_fov_deg=hints.horizontal_fov_deg,
        pitch_deg=hints.pitch_deg,
        roll_deg=hints.roll_deg,
    )
