"""The parts of an answer. Its JSON form stands in service.api.schemas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.geo import Bounds, LatLon


@dataclass(frozen=True)
class Stated:
    """A geometry value and its source.

    source: given, GPano, "GPano, corrected", EXIF, "EXIF, magnetic", assumed or unknown.
    note: what was done to the stated value, or why it was ignored; None: nothing to say.
    """

    value: float | str | None
    source: str
    note: str | None = None


@dataclass(frozen=True)
class Match:
    """One tile of the index.

    distance: squared L2 distance of unit descriptors, 0 (same) to 4.
    heading_deg: heading of the panorama's centre column: the best between the rolls that were
        tried, which lie within the stated heading's tolerance.
    """

    rank: int
    tile_id: str
    latitude: float
    longitude: float
    bounds: Bounds
    distance: float
    heading_deg: float


@dataclass(frozen=True)
class Explanation:
    """The street branch's view, north up, and its attention.

    projected: uint8 (S, S, 3). attention: float32 (S, S) in 0..1; None for a network without
        attention. heading_deg: heading of the panorama's centre column in this view.
    """

    projected: NDArray[np.uint8]
    attention: NDArray[np.float32] | None
    heading_deg: float


@dataclass(frozen=True)
class Fix:
    """The answer for a panorama from an index version.

    position: the position that the nearest tiles agree on (locate.position); None when hints
        allow no tile.
    radius_m: the true position lies within this radius with probability `confidence`.
    confidence, in_index: None where the index was never calibrated.
    rolls: how many headings were tried.
    note: why there is neither match nor position; None when there is a match.
    """

    matches: tuple[Match, ...]
    position: LatLon | None
    index_version: str
    encoder: str
    geometry: dict[str, Stated]
    timings_ms: dict[str, float]
    rolls: int = 1
    explanation: Explanation | None = None
    radius_m: float | None = None
    confidence: float | None = None
    in_index: bool | None = None
    note: str | None = None
