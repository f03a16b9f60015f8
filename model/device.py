"""The choice between CPU and GPU."""

from __future__ import annotations

import logging

from model.errors import SkyfixError

log = logging.getLogger(__name__)


class DeviceError(SkyfixError):
    """CUDA was asked for, and there is no CUDA GPU."""


def choose_device(asked: str, option: str) -> str:
    """ "cpu" or "cuda" for the setting `asked`: "auto", "cpu" or "cuda".

    option: how the caller asks for CUDA, such as "--device cuda"; the error quotes it.

    Raises:
        DeviceError: "cuda" was asked for and torch sees no GPU.
    """
    import torch  # here: the command line answers --help without loading torch

    present = torch.cuda.is_available()
    if asked == "cuda" and not present:
        raise DeviceError(f"{option}, but no CUDA GPU answers: use auto or cpu")
    chosen = "cuda" if present and asked != "cpu" else "cpu"
    log.info("device %s (asked for %s)", chosen, asked)
    return chosen
