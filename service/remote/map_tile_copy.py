"""Copies a service's map tiles to a folder, z/x/y.png, which is ingested like any other.

A map tile's bytes are kept as they came. Whatever the folder holds is not fetched again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image

from model.atomic_write import write_atomically
from service.imagery.area import Area
from service.imagery.map_tile_levels import mercator_latitude, mercator_y
from service.imagery.map_tiles import MAX_SIDE
from service.remote.http_client import (
    NO_IMAGERY,
    Answer,
    Client,
    NoImagery,
    RemoteError,
    identity,
    shown,
)
from service.remote.tile_services import HALF_WORLD_M, TileService

MAX_LATITUDE = mercator_latitude(0.0)
MAX_CONSIDERED = 4_000_000  # map tiles in the boxes around an area
MAX_GREYS = 2  # JPEG may spread one colour over as many grey levels
FIRST_HOLES = 64  # around the area's middle: without imagery there, the rest is not asked for
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
HOLES = ".holes"  # folder of empty files x-y: where the service has no imagery

Place = tuple[int, int]  # column and row
Progress = Callable[[int, int], None]  # done, expected

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapTileCopy:
    """What is to be copied; `places` begin in the middle of the area."""

    client: Client
    service: TileService
    zoom: int
    area: Area
    places: list[Place]

    @classmethod
    def of(
        cls, client: Client, service: TileService, area: Area, zoom: int | None, pixel_m: float
    ) -> MapTileCopy:
        """All map tiles that touch the area.

        Args:
            zoom: None: the first whose pixels are not wider than `pixel_m`, or the deepest.

        Raises:
            RemoteError: the service has no such zoom, or the area has millions of map tiles.
        """
        known = sorted(service.levels) or range(service.deepest + 1)
        if zoom is None:
            _, south, _, north = area.bounds
            around_m = 2.0 * HALF_WORLD_M * math.cos(math.radians((south + north) / 2.0))
            wanted = math.ceil(math.log2(around_m / (service.side * pixel_m)))
            zoom = next((level for level in known if level >= wanted), known[-1])
        if zoom not in known:
            raise RemoteError(
                f"{shown(service.template)}: --zoom is {zoom}: give {known[0]} to {known[-1]}"
            )
        return cls(client, service, zoom, area, places_in(area, zoom))

    @property
    def requests(self) -> int:
        """How many a fetch from the start needs."""
        return len(self.places)

    @property
    def identity(self) -> str:
        """A text that changes with the imagery that is wanted."""
        return f"{identity(self.service.template)} {self.zoom} {self.area.text()}"

    @property
    def summary(self) -> str:
        """In words, for the user."""
        address = shown(self.service.template)
        return (
            f"{self.requests} map tiles of zoom {self.zoom}, if the terms of {address} allow copies"
        )

    @property
    def stated(self) -> dict[str, Any]:
        """What is known of the imagery, as folders of map tiles say it in metadata.json."""
        return {
            "source": shown(self.service.template),
            "scheme": "xyz",
            "minzoom": self.zoom,
            "maxzoom": self.zoom,
            "bounds": list(self.area.bounds),
            "licence": self.service.licence,
            "attribution": self.service.attribution,
        }

    def run(self, folder: Path, progress: Progress) -> None:
        """Fetches whatever the folder lacks.

        Raises:
            RemoteError: a request failed. NoImagery: all imagery is blank.
            OSError: the disk is full or refuses.
        """
        level, holes = folder / str(self.zoom), folder / HOLES
        holes.mkdir(parents=True, exist_ok=True)
        files = {(int(f.parent.name), int(f.stem)): f for f in level.glob("*/[0-9]*.*")}
        empty = {tuple(map(int, f.name.split("-"))) for f in holes.iterdir()}
        for done, place in enumerate(self.places):
            progress(done, self.requests)
            if place in files or place in empty:
                continue
            if file := self._fetch(level, *place):
                files[place] = file
            else:
                (holes / "{}-{}".format(*place)).touch()
                empty.add(place)
            if not files and len(empty) >= min(FIRST_HOLES, self.requests):
                raise NoImagery(
                    f"{shown(self.service.template)} has no imagery in the middle of the area "
                    f"({len(empty)} map tiles of zoom {self.zoom}): give another --zoom or area"
                )
        progress(self.requests, self.requests)
        for unfinished in level.glob("*/.*"):  # a killed process left them
            unfinished.unlink()
        self._check_pictures(files.values())
        if empty:
            log.warning(
                "%s: no imagery at %d of %d map tiles",
                *(shown(self.service.template), len(empty), self.requests),
            )

    def _fetch(self, level: Path, column: int, row: int) -> Path | None:
        """The map tile's file; None where the service has no imagery."""
        url = self.service.address(self.zoom, column, row)
        answer = self.client.get(url, allowed=NO_IMAGERY)
        suffix = None if answer.status in NO_IMAGERY else _suffix(url, answer)
        if suffix is None:
            return None
        file = level / str(column) / f"{row}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, answer.body)
        return file

    def _check_pictures(self, files: Collection[Path]) -> None:
        """Raises NoImagery where all map tiles are one picture, or each has one colour."""
        pictures = {hashlib.sha256(file.read_bytes()).digest(): file for file in files}
        if len(pictures) == 1 < len(files) or all(map(_uniform, pictures.values())):
            raise NoImagery(
                f"{shown(self.service.template)} shows one picture, or single colours, in all of "
                f"the {len(files)} map tiles: give another --zoom, --layer or area"
            )


def places_in(area: Area, zoom: int) -> list[Place]:
    """The map tiles that touch the area, those near its middle first.

    Raises:
        RemoteError: there are millions.
    """
    side = 1 << zoom
    ranges = []
    for west, south, east, north in area.parts:
        ys = (mercator_y(min(max(y, -MAX_LATITUDE), MAX_LATITUDE)) for y in (north, south))
        sides = (((west + 180.0) / 360.0, (east + 180.0) / 360.0), tuple(ys))
        ranges.append([range(int(a * side), min(int(b * side) + 1, side)) for a, b in sides])
    considered = sum(len(columns) * len(rows) for columns, rows in ranges)
    if considered > MAX_CONSIDERED:
        raise RemoteError(
            f"zoom {zoom} has up to {considered} map tiles there: give a smaller area or --zoom"
        )
    found = np.unique(np.array([place for pair in ranges for place in product(*pair)]), axis=0)
    wests, easts = ((found[:, 0] + n) / side * 360.0 - 180.0 for n in (0, 1))
    norths, souths = ([mercator_latitude(y / side) for y in found[:, 1] + n] for n in (0, 1))
    found = found[area.touches(shapely.box(wests, souths, easts, norths))]
    if not len(found):
        raise RemoteError(f"the area {area} lies beyond Web Mercator, {MAX_LATITUDE:.2f} degrees")
    nearest = np.argsort(np.hypot(*(found - found.mean(axis=0)).T), kind="stable")
    return [(column, row) for column, row in found[nearest].tolist()]


def _suffix(url: str, answer: Answer) -> str | None:
    """The suffix of an image's file; None where it is transparent everywhere.

    Raises:
        RemoteError: no image, a part of one, or not square.
    """
    try:
        with Image.open(io.BytesIO(answer.body), formats=list(SUFFIXES)) as image:
            if image.width != image.height or not 1 < image.width <= MAX_SIDE:
                raise RemoteError(
                    f"{shown(url)} is {image.width}x{image.height} pixels: map tiles are square, "
                    f"at most {MAX_SIDE} wide"
                )
            transparent = image.convert("RGBA").getchannel("A").getextrema()[1] == 0
            return None if transparent else SUFFIXES[str(image.format)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RemoteError(
            f"{shown(url)} answers with {len(answer.body)} bytes of {answer.start()}, no whole "
            f"image ({type(error).__name__}): open it in a browser"
        ) from error


def _uniform(file: Path) -> bool:
    with Image.open(file) as image:
        return bool(np.ptp(np.asarray(image.convert("RGB")), axis=(0, 1)).max() <= MAX_GREYS)
