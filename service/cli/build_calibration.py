"""Chooses how a build calibrates its version: by panoramas, else as before, else by the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.checkpoint import Checkpoint
from model.errors import SkyfixError
from service.cli.progress import progress_bar
from service.cli.wiring import bind_localizer
from service.index.stored_calibration import Calibration, CalibrationError
from service.index.versions import Versions
from service.locate.known_panoramas import ValidationError, calibrate
from service.settings import Settings

if TYPE_CHECKING:
    from model.encoder import Encoder
    from service.build import Calibrate
    from service.index.search import TileIndex

logger = logging.getLogger(__name__)


def choose_calibration(
    inside: Sequence[Path], others: Sequence[Path], settings: Settings, encoder: Encoder
) -> Calibrate:
    """Measures with the folders `inside`; without any, inherits from the live version or weights.

    Raises:
        ValidationError: `others` are given without `inside`.
    """
    if others and not inside:
        raise ValidationError(
            f"--other {others[0]} holds panoramas from elsewhere: also give --validation, a "
            "folder of panoramas of this region"
        )

    def measured(index: TileIndex) -> Calibration:
        with progress_bar("calibrating") as progress:
            return calibrate(index, bind_localizer(encoder, settings), inside, others, progress)

    def inherited(index: TileIndex) -> Calibration:
        known = _of_live_version(settings, encoder) or _of_weights(settings)
        if known is None:
            logger.warning("no panoramas and no earlier calibration: answers state no confidence")
            return index.calibration
        logger.info("calibrated by %s", known.source)
        return known.measured_on(index.calibration)

    return measured if inside else inherited


def _of_live_version(settings: Settings, encoder: Encoder) -> Calibration | None:
    """None unless panoramas calibrated the live version, and this encoder built it."""
    versions = Versions(settings.home)
    try:
        manifest = versions.manifest(versions.require_current())
    except SkyfixError:  # the build itself reports it
        return None
    stored = manifest.calibration
    if stored is None or stored["weights"] is None or manifest.encoder != encoder.fingerprint:
        return None
    return _read(stored, f"index version {manifest.version}")


def _of_weights(settings: Settings) -> Calibration | None:
    """The calibration that `skyfix calibrate` wrote into the checkpoint."""
    stored = Checkpoint.load(settings.weights).provenance.get("calibration")
    return None if stored is None else _read(stored, str(settings.weights))


def _read(stored: Mapping[str, Any], where: str) -> Calibration | None:
    """None, and a warning, if another release of Skyfix wrote the calibration."""
    try:
        return Calibration.from_dict(stored)
    except CalibrationError as error:
        logger.warning("%s: %s; calibrate again", where, error)
        return None
