"""The base error, and the errors that several modules raise. Other errors stand in their module."""

from __future__ import annotations

from pathlib import Path


class SkyfixError(Exception):
    """Something the user can act on: the message names the offending value and the remedy.

    The log and the command line show the message. Anybody may read an HTTP answer, so the API
    shows `public`: raise an error whose message names a path of this machine with a text that
    does not.
    """

    def __init__(self, message: str = "", *, public: str | None = None) -> None:
        super().__init__(message)
        self.public = message if public is None else public


def public_reason(error: BaseException) -> str:
    """The error in words that name no folder of this machine."""
    if isinstance(error, SkyfixError):
        return error.public
    if isinstance(error, OSError) and error.strerror:
        name = Path(str(error.filename)).name if error.filename else ""
        return f"{name}: {error.strerror}" if name else error.strerror
    # The text of another library may name any path.
    return f"{type(error).__name__}, see the service's log"


class ImageError(SkyfixError):
    """The bytes are not an image that can be used."""


class PretrainedError(SkyfixError):
    """ImageNet weights were asked for and are not available."""


# What messages of PretrainedError propose instead of ImageNet weights.
RANDOM = "--set pretrained=false --set frozen_maps=0"
