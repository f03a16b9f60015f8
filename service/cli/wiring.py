"""Puts the parts together: settings in, a ready Localizer out. Nothing else names both engines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from model.device import choose_device
from model.errors import public_reason
from service.locate.localizer import Localizer
from service.runtime.live_localizer import WeightsMissing
from service.runtime.weights import fingerprint_of
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
    """Load the weights and bind the live index; an index may still be missing.

    Raises:
        DeviceError, CheckpointError: see `open_encoder`.
    """
    from service.index.live import LiveIndex

    encoder = open_encoder(settings)
    live = LiveIndex(settings.home, encoder.fingerprint, _search_device(encoder.device.type))
    return Localizer(encoder, live, rolls=settings.rolls, weights=settings.weights)


def reopener(
    settings: Settings, opened: Callable[[Settings], Localizer] = open_localizer
) -> Callable[[str], Localizer]:
    """Finds the weights of a fingerprint, the settings' or in the home folder's `weights`, and
    opens them.

    The function raises WeightsMissing, naming files that cannot be used, and DeviceError.
    """

    def reopen(fingerprint: str) -> Localizer:
        from model.checkpoint import CheckpointError

        unusable = []
        files = (settings.weights, *sorted(settings.weights_folder.glob("*.safetensors")))
        for path in dict.fromkeys(files):
            try:
                if fingerprint_of(path) == fingerprint:
                    return opened(settings.model_copy(update={"weights": path}))
            except CheckpointError as error:
                unusable.append(error)
        wanted = f"weights with fingerprint {fingerprint[:12]}"
        if unusable:
            remedy = "put a whole copy of the checkpoint that built the index in"
            private, public = ("; ".join(map(text, unusable)) for text in (str, public_reason))
            raise WeightsMissing(
                f"no file that can be used holds {wanted}; {private}: {remedy} "
                f"{settings.weights_folder}",
                public=f"no file that can be used holds {wanted}; {public}: {remedy} "
                "$SKYFIX_HOME/weights",
            )
        remedy = "put there the checkpoint that built the index"
        raise WeightsMissing(
            f"no {wanted} are in {settings.weights_folder}: {remedy}",
            public=f"no {wanted} are in $SKYFIX_HOME/weights: {remedy}",
        )

    return reopen


def _search_device(device: str) -> str:
    """Where the index is searched: on the encoder's device where this faiss can."""
    import faiss

    if device == "cuda" and not hasattr(faiss, "StandardGpuResources"):
        logger.warning("this faiss has no GPU code (extra `gpu`): the index is searched on the CPU")
        return "cpu"
    return device
