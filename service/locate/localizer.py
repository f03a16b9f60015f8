"""The whole query path: geometry, decode, encode, search, describe.

`prepare` is safe in any thread; only the model's threads call `answer`. Knows nothing of HTTP,
torch or faiss: both engines stand behind their own class.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from model.geo import Bounds
from model.images import image_size
from model.panorama import PanoramaGeometry, read_geometry
from service.locate.candidates import Candidates, Mask, Search, allowed_rows, find_candidates
from service.locate.fix import Explanation, Fix, Match, Stated
from service.locate.hints import Hints, check_top_k
from service.locate.position import FusedPosition, fuse

if TYPE_CHECKING:
    from service.index.live import LiveIndex
    from service.index.search import TileIndex

Strip = NDArray[np.uint8]
Descriptors = NDArray[np.float32]

NO_HINTS = Hints()


class StreetEncoder(Protocol):
    """What of `model.encoder.Encoder` a query needs; while `at_once` threads encode, others may
    read and explain."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def at_once(self) -> int: ...

    def read_street(self, data: bytes, geometry: PanoramaGeometry) -> Strip: ...

    def encode_strips(self, strips: Sequence[Strip], norths: Sequence[float]) -> Descriptors: ...

    def explain_strip(
        self, strip: Strip, north: float
    ) -> tuple[Strip, NDArray[np.float32] | None]: ...


@dataclass(frozen=True)
class Query:
    """One panorama, decoded and projected: all that the model's owner needs."""

    strip: Strip
    north: float | None
    hints: Hints
    top_k: int
    explain: bool
    geometry: dict[str, Stated]
    timings_ms: dict[str, float]
    ready_at: float  # time.perf_counter() when it began to wait for the owner


class Localizer:
    """Turns panoramas into fixes against whichever index version is live.

    rolls: how many headings are tried, evenly spaced, for a panorama whose heading is unknown.
    weights: the checkpoint that the encoder was opened from, where it was.
    """

    def __init__(
        self,
        encoder: StreetEncoder,
        live: LiveIndex,
        *,
        rolls: int = 36,
        weights: Path | None = None,
    ) -> None:
        self.encoder = encoder
        self.live = live
        self.weights = weights
        self._rolls = rolls

    def locate(
        self, data: bytes, hints: Hints = NO_HINTS, top_k: int = 10, explain: bool = False
    ) -> Fix:
        """One encoded image to its fix; see `prepare` and `answer` for what is raised."""
        return self.answer([self.prepare(data, hints, top_k, explain)])[0]

    def prepare(
        self, data: bytes, hints: Hints = NO_HINTS, top_k: int = 10, explain: bool = False
    ) -> Query:
        """Settle the geometry, decode to the encoder's strip. Safe in any thread.

        Raises:
            ImageError: not a usable image. GeometryError: not a panorama the encoder can read.
            HintError: top_k is out of bounds.
        """
        check_top_k(top_k)
        timings: dict[str, float] = {}
        with _timed(timings, "geometry"):
            geometry, sources = _settle(data, hints)
            north = None if geometry.north is None else geometry.strip_north
            stated = _stated(data, geometry, north, sources)
        with _timed(timings, "decode"):
            strip = self.encoder.read_street(data, geometry)
        ready_at = time.perf_counter()
        return Query(strip, north, hints, top_k, explain, stated, timings, ready_at)

    def answer(self, queries: Sequence[Query]) -> list[Fix]:
        """Encode all queries in one batch and search one index version for all of them.

        Raises:
            IndexMissing, EncoderMismatch, VersionCorrupt: from the live index.
        """
        timings: dict[str, float] = {}
        started = time.perf_counter()
        index = self.live.get()
        with _timed(timings, "encode"):
            vectors = self._encode(queries)
        with _timed(timings, "search"):
            searches = [
                self._search(index, query, allowed_rows(index, query.hints)) for query in queries
            ]
            found = find_candidates(index, searches, vectors)
        return [
            self._describe(
                index, query, candidates, {"queue": _ms(started - query.ready_at), **timings}
            )
            for query, candidates in zip(queries, found, strict=True)
        ]

    def candidates(
        self, index: TileIndex, query: Query, masks: Sequence[Mask | None]
    ) -> list[Candidates]:
        """The nearest tiles of one query among each of several sets of rows."""
        vectors = self._encode([query])
        searches = [self._search(index, query, mask) for mask in masks]
        return [find_candidates(index, [search], vectors)[0] for search in searches]

    def _encode(self, queries: Sequence[Query]) -> Descriptors:
        tried = [(query.strip, north) for query in queries for north in self._norths(query)]
        return self.encoder.encode_strips([strip for strip, _ in tried], [n for _, n in tried])

    def _search(self, index: TileIndex, query: Query, allowed: Mask | None) -> Search:
        """Deep enough for the position, which so does not depend on how many are asked for."""
        depth = max(query.top_k, index.calibration.depth)
        return Search(self._norths(query), depth, allowed)

    def _norths(self, query: Query) -> list[float]:
        if query.north is not None:
            return [query.north]
        return [roll / self._rolls for roll in range(self._rolls)]

    def _describe(
        self, index: TileIndex, query: Query, found: Candidates, timings: dict[str, float]
    ) -> Fix:
        explanation = None
        if query.explain:
            with _timed(timings, "explain"):
                explanation = self._explain(query, found)
        matches = []
        for rank, row in enumerate(found.rows[: query.top_k], start=1):
            tile = index.tiles[row]
            heading = _heading_of_centre(found.norths[rank - 1])
            matches.append(
                Match(
                    rank=rank,
                    tile_id=tile.tile_id,
                    latitude=tile.latitude,
                    longitude=tile.longitude,
                    bounds=Bounds(*tile.bounds),
                    distance=found.distances[rank - 1],
                    heading_deg=heading,
                )
            )
        place = place_of(index, found)
        return Fix(
            matches=tuple(matches),
            position=place and place.position,
            index_version=index.version,
            encoder=self.encoder.fingerprint,
            geometry=query.geometry,
            timings_ms={**query.timings_ms, **timings},
            explanation=explanation,
            radius_m=place and place.radius_m,
            confidence=place and place.confidence,
            in_index=place and place.in_index,
            note=None if matches else _no_tile(query.hints),
        )

    def _explain(self, query: Query, found: Candidates) -> Explanation:
        """The view at the stated heading, else at the best match's, else as if facing north."""
        stated = [query.north] if query.north is not None else []
        north = [*stated, *found.norths, 0.5][0]
        view, mask = self.encoder.explain_strip(query.strip, north)
        return Explanation(view, mask, _heading_of_centre(north))


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = _ms(time.perf_counter() - start)


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 3)


def place_of(index: TileIndex, found: Candidates) -> FusedPosition | None:
    """The position that the candidates agree on; None without any."""
    if not found.rows:
        return None
    return fuse(index.places(found.rows), np.array(found.distances), index.calibration)


def _no_tile(hints: Hints) -> str:
    return f"no tile of the index is centred {hints.place}: widen the hint, or leave it out"


def _heading_of_centre(north: float) -> float:
    return _shown((0.5 - north) * 360.0) % 360.0


def _settle(data: bytes, hints: Hints) -> tuple[PanoramaGeometry, dict[str, str]]:
    """The image's own geometry, overridden by what was given; a source for each value."""
    heading = hints.centre_heading_deg
    given = {
        "horizon": hints.horizon,
        "vertical_fov_deg": hints.vertical_fov_deg,
        "horizontal_fov_deg": hints.horizontal_fov_deg,
    }
    stated = {name: value for name, value in given.items() if value is not None}
    reading = read_geometry(data, [*stated, *["north"] * (heading is not None)])
    sources = {**reading.sources, **dict.fromkeys(stated, "given")}
    if heading is None:
        heading = reading.geometry.heading_of_centre_deg
    else:
        sources["north"] = "given"
    geometry = dataclasses.replace(reading.geometry, **stated)
    if heading is None:
        return geometry, {**sources, "north": "unknown"}
    north = PanoramaGeometry.north_of(heading, geometry.horizontal_fov_deg)
    return dataclasses.replace(geometry, north=north), sources


def _stated(
    data: bytes, geometry: PanoramaGeometry, north: float | None, sources: dict[str, str]
) -> dict[str, Stated]:
    """Every value with its source; impossible proportions are refused before a pixel is decoded."""
    extent = geometry.extent(*image_size(data))
    values = {
        "heading_deg": None if north is None else _heading_of_centre(north),
        "north": None if north is None else _shown(north) % 1.0,
        "horizon": geometry.horizon,
        "vertical_fov_deg": extent.top_deg - extent.bottom_deg,
        "horizontal_fov_deg": geometry.horizontal_fov_deg,
    }
    sources = {**sources, "heading_deg": sources["north"]}
    return {
        name: Stated(None if value is None else _shown(value), sources[name])
        for name, value in values.items()
    }


def _shown(value: float) -> float:
    """A heading of 2 through its fraction of a turn and back is 1.9999999999999991."""
    return round(value, 6)
