"""What is written into an image: where the image was taken."""

from __future__ import annotations

from typing import NamedTuple

from model.errors import SkyfixError


class MetadataError(SkyfixError):
    """A place cannot be written into this file. The text continues "the place is not written"."""


class Place(NamedTuple):
    """heading_deg: from true north, of the middle of the image's full sphere; 0 to 359.99.
    radius_m: radius around the position."""

    latitude: float
    longitude: float
    heading_deg: float
    radius_m: float
