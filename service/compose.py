"""Puts the parts together: settings in, a ready Localizer out. Nothing else names both engines."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import SkyfixError
from service.api.serving import WeightsMissing
from service.localizer import Localizer
from service.settings import Settings

if TYPE_CHECKING:
    from model.encoder import Encoder

logger = logging.getLogger(__name__)


class DeviceError(SkyfixError):
    """The device asked for is not there."""


def choose_device(asked: str) -> str:
    """`auto`, `cpu` or `cuda` to the device to use.

    Raises:
        DeviceError: cuda was asked for and torch sees no GPU.
    """
    import torch  # here: the command line answers --help without loading torch

    present = torch.cuda.is_available()
    if asked == "cuda" and not present:
        raise DeviceError("SKYFIX_DEVICE=cuda, but no CUDA GPU answers: use auto or cpu")
    chosen = "cuda" if present and asked in ("auto", "cuda") else "cpu"
    logger.info("device %s (asked for %s)", chosen, asked)
    return chosen


def open_encoder(settings: Settings) -> Encoder:
    """The encoder of the settings' weights on their device.

    Raises:
        DeviceError: see `choose_device`. CheckpointError: the weights cannot be used.
    """
    from model.encoder import Encoder

    encoder = Encoder.load(settings.weights, device=choose_device(settings.device))
    if settings.precision == "auto":
        encoder.accelerate()
    logger.info("encoder %s from %s", encoder.fingerprint[:12], settings.weights)
    return encoder


def open_localizer(settings: Settings) -> Localizer:
    """Load the weights and bind the live index; an index may still be missing.

    Raises:
        DeviceError, CheckpointError: see `open_encoder`.
    """
    from service.index.live import LiveIndex

    encoder = open_encoder(settings)
    live = LiveIndex(settings.home, encoder.fingerprint, _search_device(encoder.device.type))
    return Localizer(encoder, live, rolls=settings.rolls, weights=settings.weights)


def reopener(settings: Settings) -> Callable[[str], Localizer]:
    """Finds the weights of a fingerprint in the home folder's `weights` and opens them.

    The function raises WeightsMissing, and what `open_localizer` raises.
    """

    def reopen(fingerprint: str) -> Localizer:
        for path in (settings.weights, *sorted(settings.weights_folder.glob("*.safetensors"))):
            if _fingerprint(path) == fingerprint:
                return open_localizer(dataclasses.replace(settings, weights=path))
        raise WeightsMissing(
            f"no weights with fingerprint {fingerprint[:12]} are in {settings.weights_folder}: put "
            "there the checkpoint that built the index"
        )

    return reopen


def _fingerprint(path: Path) -> str | None:
    from model.checkpoint import Checkpoint, CheckpointError

    try:
        return Checkpoint.load(path).fingerprint
    except CheckpointError as error:
        logger.warning("%s", error)
        return None


def _search_device(device: str) -> str:
    """Where the index is searched: on the encoder's device where this faiss can."""
    import faiss

    if device == "cuda" and not hasattr(faiss, "StandardGpuResources"):
        logger.warning("this faiss has no GPU code (extra `gpu`): the index is searched on the CPU")
        return "cpu"
    return device
