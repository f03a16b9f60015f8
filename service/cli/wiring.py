"""Builds the encoder and the localizer from settings. No other module knows torch and faiss."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from model.device import choose_device
from model.stated_heading import HeadingTrust
from service.locate.localizer import Localizer
from service.runtime.live_localizer import WeightsMissing
from service.runtime.weights_check import fingerprint_of
from service.settings import Settings

if TYPE_CHECKING:
    from model.encoder import Encoder

logger = logging.getLogger(__name__)


def open_encoder(settings: Settings) -> Encoder:
    """The encoder of the settings' weights on their device.

    Raises:
        DeviceError: see `choose_device`. CheckpointError: the weights cannot be used.
    """
    from model.encoder import Encoder

    encoder = Encoder.load(settings.weights, choose_device(settings.device, "SKYFIX_DEVICE=cuda"))
    if settings.precision == "auto":
        encoder.accelerate()
    logger.info("encoder %s from %s", encoder.fingerprint[:12], settings.weights)
    return encoder


def open_localizer(settings: Settings) -> Localizer:
    """Load the weights and bind the live index, which may still be missing.

    Raises:
        DeviceError, CheckpointError: see `open_encoder`.
    """
    return bind_localizer(open_encoder(settings), settings)


def bind_localizer(encoder: Encoder, settings: Settings) -> Localizer:
    """A localizer of this encoder and the live index, searched on the encoder's device."""
    from service.index.live_index import LiveIndex

    live = LiveIndex(settings.home, encoder.fingerprint, _search_device(encoder.device.type))
    sources = tuple(settings.heading_sources.split(","))
    trust = HeadingTrust(sources, settings.heading_tolerance_deg)
    return Localizer(encoder, live, rolls=settings.rolls, trust=trust, weights=settings.weights)


def reopener(
    settings: Settings, open_with: Callable[[Settings], Localizer] = open_localizer
) -> Callable[[str], Localizer]:
    """A function that opens the localizer whose weights have a given fingerprint.

    It looks at the settings' weights, then in the home's `weights` folder. It raises DeviceError,
    or WeightsMissing, whose message names the files that cannot be used.
    """

    def reopen(fingerprint: str) -> Localizer:
        from model.checkpoint import CheckpointError

        unusable = []
        files = (settings.weights, *sorted(settings.weights_folder.glob("*.safetensors")))
        for path in dict.fromkeys(files):
            try:
                if fingerprint_of(path) == fingerprint:
                    return open_with(settings.model_copy(update={"weights": path}))
            except CheckpointError as error:
                unusable.append(error)

        def message(*faults: str) -> str:
            causes = "; ".join(faults)
            return f"{causes}: put a whole copy of the checkpoint that built the index there"

        lacking = f"no weights with fingerprint {fingerprint[:12]} are in"
        raise WeightsMissing(
            message(f"{lacking} {settings.weights_folder}", *map(str, unusable)),
            public=message(f"{lacking} $SKYFIX_HOME/weights", *(e.public for e in unusable)),
        )

    return reopen


def _search_device(device: str) -> str:
    """The encoder's device if this faiss can search there, else the CPU."""
    from service.index.faiss_library import faiss

    if device == "cuda" and not hasattr(faiss, "StandardGpuResources"):
        logger.warning("this faiss has no GPU code (extra `gpu`): the index is searched on the CPU")
        return "cpu"
    return device
