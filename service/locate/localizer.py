"""The whole query path: geometry, decode, encode, search, answer.

`prepare` is safe in any thread; only the model's threads call `answer`. Knows nothing of HTTP,
torch or faiss: both engines stand behind their own class.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.capture_time import capture_time
from model.heading_estimate import Rolls
from model.panorama import Panorama, PanoramaGeometry
from model.panorama_metadata import read_panorama
from model.stated_heading import BELIEVED, HeadingTrust
from service.locate.candidates import (
    Candidates,
    Mask,
    Search,
    allowed_rows,
    find_candidates,
)
from service.locate.confidence import fuse
from service.locate.drive import frame_of
from service.locate.drive_path import Frame
from service.locate.fix import Explanation, Fix, Match, Stated
from service.locate.hints import UNKNOWN, HintError, Hints, check_top_k

if TYPE_CHECKING:
    from model.encoder import Encoder
    from service.index.live_index import LiveIndex
    from service.index.search import TileIndex

Strip = NDArray[np.uint8]
Descriptors = NDArray[np.float32]

NO_HINTS = Hints()


@dataclass(frozen=True)
class Query:
    """A panorama decoded to its strip, ready for a thread that encodes.

    ready_at: time.perf_counter() when it began to wait. time: when the camera says it took it.
    arc_deg: how much of the horizon it shows.
    """

    strip: Strip
    rolls: Rolls
    hints: Hints
    top_k: int
    explain: bool
    geometry: dict[str, Stated]
    timings_ms: dict[str, float]
    ready_at: float
    time: datetime | None = None
    arc_deg: float = 360.0


class Localizer:
    """Turns panoramas into fixes against whichever index version is live.

    rolls: how many headings are tried for a panorama of unknown heading, evenly spaced. Within a
        stated heading's tolerance they are at most as far apart.
    trust: which of a file's headings are believed, and how far these may be off.
    weights: the encoder's checkpoint, if the encoder was opened from a file.
    """

    def __init__(
        self,
        encoder: Encoder,
        live: LiveIndex,
        *,
        rolls: int = 36,
        trust: HeadingTrust = BELIEVED,
        weights: Path | None = None,
    ) -> None:
        self.encoder = encoder
        self.live = live
        self.weights = weights
        self._rolls = rolls
        self._trust = trust

    def locate(self, data: bytes, hints: Hints = NO_HINTS, top_k: int = 10) -> Fix:
        """A panorama's bytes to its fix. Raises the errors of `prepare` and `answer`."""
        return self.answer([self.prepare(data, hints, top_k)])[0]

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
            panorama = read_panorama(
                data,
                heading_deg=hints.centre_heading_deg,
                heading_tolerance_deg=hints.heading_tolerance_deg,
                trust=HeadingTrust(()) if hints.heading_deg == UNKNOWN else self._trust,
                projection=hints.projection,
                horizon=hints.horizon,
                vertical_fov_deg=hints.vertical_fov_deg,
                horizontal_fov_deg=hints.horizontal_fov_deg,
                pitch_deg=hints.pitch_deg,
                roll_deg=hints.roll_deg,
            )
            stated = _stated(panorama)
        with _timed(timings, "decode"):
            strip = self.encoder.read_street(panorama)
        ready_at = time.perf_counter()
        rolls = self._rolls_for(panorama.heading_deg, panorama.heading_tolerance_deg)
        time_taken = capture_time(panorama.image.exif)
        arc_deg = panorama.geometry.horizontal_fov_deg
        return Query(
            strip, rolls, hints, top_k, explain, stated, timings, ready_at, time_taken, arc_deg
        )

    def answer(self, queries: Sequence[Query]) -> list[Fix]:
        """Encode all queries in one batch and search one index version for all of them.

        Raises:
            IndexMissing, EncoderMismatch, VersionCorrupt: from the live index.
        """
        timings: dict[str, float] = {}
        started = time.perf_counter()
        index = self.live.get()
        with _timed(timings, "encode"):
            descriptors = self._encode(queries)
        with _timed(timings, "search"):
            searches = [
                self._search(index, query, own, allowed_rows(index, query.hints))
                for query, own in zip(queries, descriptors, strict=True)
            ]
            found = find_candidates(index, searches)
        return [
            self._fix(index, query, candidates, {"queue": _ms(started - query.ready_at), **timings})
            for query, candidates in zip(queries, found, strict=True)
        ]

    def frames(self, index: TileIndex, queries: Sequence[Query]) -> list[Frame]:
        """The candidates of a drive's frames, all encoded in one batch; see `locate_by_time`.

        Raises:
            HintError: near or bbox allow no tile. VersionCorrupt: from the index.
        """
        allowed = [some_rows(index, query.hints) for query in queries]
        return [
            frame_of(index, query.rolls, descriptors, mask, query.arc_deg)
            for query, descriptors, mask in zip(
                queries, self._encode(queries), allowed, strict=True
            )
        ]

    def candidates(
        self, index: TileIndex, query: Query, masks: Sequence[Mask | None]
    ) -> list[Candidates]:
        """The nearest tiles of one query among each of several sets of rows."""
        (descriptors,) = self._encode([query])
        searches = [self._search(index, query, descriptors, mask) for mask in masks]
        return [find_candidates(index, [search])[0] for search in searches]

    def _encode(self, queries: Sequence[Query]) -> list[Descriptors]:
        """For each query (R, D): a descriptor for each heading that is tried."""
        headings = [query.rolls.headings_deg for query in queries]
        tried = list(zip(queries, headings, strict=True))
        strips = [query.strip for query, own in tried for _ in own]
        norths = [PanoramaGeometry.north_of(heading) for own in headings for heading in own]
        ends = np.cumsum([len(own) for own in headings])[:-1]
        return np.split(self.encoder.encode_strips(strips, norths), ends)

    def _search(
        self, index: TileIndex, query: Query, descriptors: Descriptors, allowed: Mask | None
    ) -> Search:
        """A search deep enough for the position, which must not depend on `top_k`."""
        depth = max(query.top_k, index.calibration.depth)
        return Search(query.rolls, descriptors, depth, allowed)

    def _rolls_for(self, heading_deg: float | None, tolerance_deg: float) -> Rolls:
        if heading_deg is None:
            return Rolls.around(self._rolls)
        return Rolls.within(tolerance_deg, heading_deg, widest_step_deg=360.0 / self._rolls)

    def _fix(
        self, index: TileIndex, query: Query, found: Candidates, timings: dict[str, float]
    ) -> Fix:
        explanation = None
        if query.explain:
            with _timed(timings, "explain"):
                explanation = self._explain(query, found)
        best = zip(found.rows[: query.top_k], found.distances, found.headings_deg, strict=False)
        matches = []
        for rank, (row, distance, heading_deg) in enumerate(best, start=1):
            tile = index.tiles[row]
            place = (tile.tile_id, tile.latitude, tile.longitude, tile.bounds)
            matches.append(Match(rank, *place, distance, _shown_heading(heading_deg)))
        fused = None
        if matches:
            fused = fuse(
                index.tiles.positions(found.rows), np.array(found.distances), index.calibration
            )
        return Fix(
            matches=tuple(matches),
            position=fused and fused.position,
            index_version=index.version,
            encoder=self.encoder.fingerprint,
            geometry=query.geometry,
            timings_ms={**query.timings_ms, **timings},
            rolls=query.rolls.count,
            explanation=explanation,
            radius_m=fused and fused.radius_m,
            confidence=fused and fused.confidence,
            in_index=fused and fused.in_index,
            note=None if matches else _no_tile(query.hints),
        )

    def _explain(self, query: Query, found: Candidates) -> Explanation:
        """The view at the best match's heading, else at the middle one of those tried."""
        heading = [*found.headings_deg, query.rolls.middle_deg][0]
        view, mask = self.encoder.explain_strip(query.strip, PanoramaGeometry.north_of(heading))
        return Explanation(view, mask, _shown_heading(heading))


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = _ms(time.perf_counter() - start)


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 3)


def some_rows(index: TileIndex, hints: Hints) -> Mask | None:
    """As `allowed_rows`. Raises HintError: no row is allowed."""
    allowed = allowed_rows(index, hints)
    if allowed is not None and not allowed.any():
        raise HintError(_no_tile(hints))
    return allowed


def _no_tile(hints: Hints) -> str:
    return f"no tile of the index is centred {hints.place}: widen the hint, or leave it out"


def _stated(panorama: Panorama) -> dict[str, Stated]:
    """Every value with its source; impossible proportions are refused before a pixel is decoded."""
    extent, geometry, heading = panorama.extent, panorama.geometry, panorama.heading_deg
    north = None if heading is None else PanoramaGeometry.north_of(heading)
    values: dict[str, float | str | None] = {
        "heading_deg": None if heading is None else _shown_heading(heading),
        "north": None if north is None else _shown(north) % 1.0,
        "projection": geometry.projection,
        "horizon": _shown(geometry.horizon_seen(*panorama.image.size)),
        "vertical_fov_deg": _shown(extent.top_deg - extent.bottom_deg),
        "horizontal_fov_deg": _shown(geometry.horizontal_fov_deg),
        "pitch_deg": _shown(geometry.tilt.pitch_deg),
        "roll_deg": _shown(geometry.tilt.roll_deg),
    }
    sources = {**panorama.sources, "north": panorama.sources["heading_deg"]}
    return {
        name: Stated(value, sources[name], panorama.notes.get(name))
        for name, value in values.items()
    }


def _shown_heading(heading_deg: float) -> float:
    return _shown(heading_deg) % 360.0


def _shown(value: float) -> float:
    """Rounded to hide floating-point noise: 2.1 - 1.1 is 1.0000000000000002, and -0.0 is 0.0."""
    return round(value, 6) + 0.0
