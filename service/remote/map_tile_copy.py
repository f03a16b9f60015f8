"""Copies a service's map tiles to a folder, z/x/y.png, which is ingested like any other.

A map tile's bytes are kept as they came. Whatever the folder holds is not fetched again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from model.atomic_write import write_atomically
from service.imagery.area import Area
from service.imagery.map_tile_levels import mercator_latitude
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
from service.remote.imagery_copy import ImageryCopy, Progress
from service.remote.tile_services import HALF_WORLD_M, TileService

MAX_PLACES = 1_000_000  # map tiles of the zoom above the wanted one
QUARTERS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])  # of a map tile, at the next zoom
MAX_GREYS = 2  # JPEG may spread one colour over as many grey levels
FIRST_HOLES = 64  # around the area's middle: without imagery there, the rest is not asked for
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
HOLE = ".none"  # suffix of an empty file: the service has no imagery there

Place = tuple[int, int]  # column and row

log = logging.getLogger(__name__)


def map_tile_copy(
    client: Client, service: TileService, area: Area, zoom: int | None, pixel_m: float
) -> ImageryCopy:
    """The copy of all map tiles that touch the area.

    Args:
        zoom: None: the first whose pixels are not wider than `pixel_m`, or the deepest.

    Raises:
        RemoteError: the service has no such zoom, or the area has millions of map tiles.
    """
    address = shown(service.template)
    known = sorted(service.levels)
    if zoom is None:
        _, south, _, north = area.bounds
        around_m = 2.0 * HALF_WORLD_M * math.cos(math.radians((south + north) / 2.0))
        wanted = math.ceil(math.log2(around_m / (service.side * pixel_m)))
        zoom = next((level for level in known if level >= wanted), known[-1])
    if zoom not in known:
        raise RemoteError(f"{address}: --zoom is {zoom}: give {known[0]} to {known[-1]}")
    places = places_in(area, zoom)
    return ImageryCopy(
        len(places),
        f"{identity(service.template)} {zoom} {area.text()}",
        f"{len(places)} map tiles of zoom {zoom}, if the terms of {address} allow copies",
        {"scheme": "xyz", "source": address, **service.credit},
        partial(_write, client, service, zoom, places),
    )


def _write(
    client: Client,
    service: TileService,
    zoom: int,
    places: Sequence[Place],
    folder: Path,
    progress: Progress,
) -> None:
    level, address = folder / str(zoom), shown(service.template)
    files = {(int(f.parent.name), int(f.stem)): f for f in level.glob("*/[0-9]*.*")}
    holes = sum(file.suffix == HOLE for file in files.values())
    for done, (column, row) in enumerate(places):
        progress(done, len(places))
        if (column, row) not in files:
            url = service.address(zoom, column, row)
            answer = client.get(url, allowed=NO_IMAGERY)
            suffix = HOLE if answer.status in NO_IMAGERY else _suffix(url, answer)
            file = level / str(column) / f"{row}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, b"" if suffix == HOLE else answer.body)
            files[column, row] = file
            holes += suffix == HOLE
        if len(files) == holes >= min(FIRST_HOLES, len(places)):
            raise NoImagery(
                f"{address} has no imagery in the middle of the area "
                f"({holes} map tiles of zoom {zoom}): give another --zoom or area"
            )
    progress(len(places), len(places))
    for unfinished in level.glob("*/.*"):  # a killed process left them
        unfinished.unlink()
    _check_pictures(address, [file for file in files.values() if file.suffix != HOLE])
    if holes:
        log.warning("%s: no imagery at %d of %d map tiles", address, holes, len(places))


def _check_pictures(address: str, files: Collection[Path]) -> None:
    """Raises NoImagery where all map tiles are one picture, or each has one colour."""
    pictures = {hashlib.sha256(file.read_bytes()).digest(): file for file in files}
    if len(pictures) == 1 < len(files) or all(map(_uniform, pictures.values())):
        raise NoImagery(
            f"{address} shows one picture, or single colours, in all of the {len(files)} map "
            "tiles: give another --zoom, --layer or area"
        )


def places_in(area: Area, zoom: int) -> list[Place]:
    """The map tiles that touch the area, those near its middle first.

    Raises:
        RemoteError: there are none, or millions.
    """
    found = np.zeros((1, 2), np.int64)
    for level in range(1, zoom + 1):
        if len(found) > MAX_PLACES:
            raise RemoteError(
                f"zoom {level - 1} has {len(found)} map tiles there: give a smaller area or --zoom"
            )
        found = (2 * found[:, None] + QUARTERS).reshape(-1, 2)
        (wests, norths), (easts, souths) = (((found + n) / 2**level).T for n in (0, 1))
        boxes = shapely.box(
            wests * 360.0 - 180.0, [mercator_latitude(y) for y in souths],
            easts * 360.0 - 180.0, [mercator_latitude(y) for y in norths],
        )  # fmt: skip
        found = found[area.touches(boxes)]
    if not len(found):
        limit = mercator_latitude(0.0)
        raise RemoteError(f"the area {area} lies beyond Web Mercator, {limit:.2f} degrees")
    nearest = np.argsort(np.hypot(*(found - found.mean(axis=0)).T), kind="stable")
    return [(column, row) for column, row in found[nearest].tolist()]


def _suffix(url: str, answer: Answer) -> str:
    """The suffix of an image's file; HOLE where it is transparent everywhere.

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
            return HOLE if transparent else SUFFIXES[str(image.format)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RemoteError(
            f"{shown(url)} answers with {len(answer.body)} bytes of {answer.start()}, no whole "
            f"image ({type(error).__name__}): open it in a browser"
        ) from error


def _uniform(file: Path) -> bool:
    with Image.open(file) as image:
        return bool(np.ptp(np.asarray(image.convert("RGB")), axis=(0, 1)).max() <= MAX_GREYS)
