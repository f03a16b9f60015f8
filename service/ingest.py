"""Imagery in, catalogue entries out: every tile is cut once to see whether it holds anything.

Knows nothing of encoders: `service.build` decides later which tiles are encoded.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from model.errors import SkyfixError
from model.images import Rgb
from service.imagery.area import Area
from service.imagery.grid import GridError
from service.imagery.gridded_source import runs
from service.imagery.reading import AS_STATED, Reading
from service.imagery.signature import values_kept
from service.imagery.source import Cut, Source, SourceError, source_name
from service.imagery.source_kinds import open_source
from service.index.catalogue import Catalogue, SourceRecord, Tile

log = logging.getLogger(__name__)

HASH_PIXELS = 128  # a tile's content is hashed at this side: 0.5 m a pixel for 64 m tiles
MIN_VALID = 0.5  # share of a tile that imagery must cover; other tiles are skipped and counted
STRIDE_SHARE = 0.25  # of the tile size: any position is within 0.18 sizes of a tile's centre
MAX_BAD_TILES_NAMED = 5
MAX_DOUBTS = 5  # a line each
ALL_BLANK = 0.95  # share of blank tiles from which on imagery is refused: seas have some

Progress = Callable[[int, int], None]  # tiles done, tiles expected in all


class NothingToIngest(SkyfixError):
    """The imagery gives no tile."""


class BadImages(SkyfixError):
    """Some tiles' imagery cannot be read."""


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did; counts are of tiles."""

    source: str
    tiles: int
    skipped_empty: int
    outside: int
    added: int
    updated: int
    removed: int
    unchanged: int
    seconds: float


def ingest(
    catalogue: Catalogue,
    path: Path,
    *,
    size_m: float | None,
    stride_m: float | None = None,
    name: str | None = None,
    licence: str | None = None,
    attribution: str | None = None,
    reading: Reading = AS_STATED,
    progress: Progress = lambda done, expected: None,
    say: Callable[[str], None] = log.info,
) -> IngestReport:
    """Cuts `path` into tiles, which replace all former tiles of the source.

    Args:
        path: a georeferenced raster, or a folder of rasters, map tiles, or images with a CSV.
        size_m: ground width of a tile; None keeps a folder's images whole.
        stride_m: distance between tile centres; a folder's images have none. None: reuse the
            previous ingest's value if the size is the same, else a quarter of the size.
        name: the source's name. Ingesting under the same name again replaces the source.
        licence, attribution: None: reuse the previous ingest's value, or the imagery's own.
        reading: what the user says of the imagery; a None in it: reuse the previous
            ingest's value.
        say: takes the source's notes, before the tiles are cut.

    Raises:
        SourceError, GridError: the imagery or the sizes cannot be used; the message says why.
        BadImages, NothingToIngest: see there. The catalogue is unchanged after any error.
    """
    began = time.monotonic()
    name = source_name(path.expanduser().resolve(), name)
    former = next((record for record in catalogue.sources() if record.name == name), None)
    reading = reading.over(Reading.stored(former.reading if former else ""))
    counts: Counter[str] = Counter()
    signature = values_kept(former.signature) if former else ""
    with closing(open_source(path, name, signature, reading)) as source:
        for note in source.notes:
            say(note)
        _warn_of_doubts(source.doubts())
        area = Area.of_text(reading.area) if reading.area else None
        record = SourceRecord(
            name=name,
            kind=source.kind,
            path=str(source.path),
            size_m=size_m,
            stride_m=_stride(source, size_m, stride_m, former),
            licence=_credit("licence", licence, former, source),
            attribution=_credit("attribution", attribution, former, source),
            signature=source.signature(),
            ingested_at=datetime.now(UTC).isoformat(timespec="seconds"),
            reading=reading.text(),
        )
        tiles = _tiles(source, record, area, progress, counts)
        changes = catalogue.replace_source(record, tiles)
    _warn_of_changes(former, record)
    _warn_of_overlap(catalogue, name)
    seconds = time.monotonic() - began
    log.info("source %s: %d tiles in %.1f s, %s", name, counts["kept"], seconds, changes)
    skipped, outside = counts["skipped"], counts["outside"]
    return IngestReport(name, counts["kept"], skipped, outside, *changes, seconds)


def _stride(
    source: Source, size_m: float | None, stride_m: float | None, former: SourceRecord | None
) -> float | None:
    """The given stride; else the former ingest's at this size; else STRIDE_SHARE of the size.

    Raises:
        GridError: positions would lie between tiles.
    """
    if source.kind == "folder":
        if stride_m is not None:
            log.warning(
                "source %s: the stride of %g m is ignored: a folder's images lie where its CSV "
                "says",
                source.name, stride_m,
            )  # fmt: skip
        return None
    if size_m is None:
        return stride_m
    if stride_m is None:
        kept = former.stride_m if former and former.size_m == size_m else None
        stride_m = kept or size_m * STRIDE_SHARE
    if stride_m > size_m:
        raise GridError(
            f"stride {stride_m:g} m leaves gaps between tiles of {size_m:g} m: use "
            f"{size_m * STRIDE_SHARE:g} m, or at most {size_m:g} m"
        )
    if stride_m == size_m:
        log.warning(
            "tiles of %g m at a stride of %g m do not overlap: a camera may be %.0f m from a "
            "tile's centre; a stride of %g m finds more",
            size_m, stride_m, stride_m / 2**0.5, size_m * STRIDE_SHARE,
        )  # fmt: skip
    return stride_m


def _credit(what: str, given: str | None, former: SourceRecord | None, source: Source) -> str:
    """The given text; else the former ingest's; else the imagery's own."""
    kept, stated = getattr(former, what, ""), getattr(source, what)
    if given is not None:
        return given
    if kept and stated not in ("", kept):
        log.warning(
            "the imagery states the %s %r; %r of the former ingest is kept: --%s replaces it",
            what, stated, kept, what,
        )  # fmt: skip
    return str(kept or stated)


def _tiles(
    source: Source,
    record: SourceRecord,
    area: Area | None,
    progress: Progress,
    counts: Counter[str],
) -> Iterator[Tile]:
    """Every tile in the area with enough imagery; counts tiles kept, skipped and outside.

    Raises:
        BadImages: some tiles could not be read; all were tried.
        NothingToIngest: no tile was left.
    """
    expected = source.count(record.size_m, record.stride_m)
    bad: dict[str, str] = {}  # reasons, and the first tile of each
    cuts = _inside(source.cuts(record.size_m, record.stride_m), area, counts)
    for run in runs(cuts, HASH_PIXELS):
        try:
            images = source.read_run(run, HASH_PIXELS)
        except SourceError as error:
            bad.setdefault(str(error), run[0].tile_id)
            counts["bad"] += len(run)
            continue
        for cut, image in zip(run, images, strict=True):
            counts["kept" if image.valid >= MIN_VALID else "skipped"] += 1
            if image.valid >= MIN_VALID:
                counts["blank"] += image.is_blank
                sha256 = content_hash(image.pixels)
                yield Tile(cut.tile_id, source.name, *cut.centre, cut.size_m, sha256)
        done = counts["kept"] + counts["skipped"] + counts["outside"]
        progress(done, max(expected, done))
    if bad:
        named = "; ".join(f"{tile}: {why}" for why, tile in list(bad.items())[:MAX_BAD_TILES_NAMED])
        raise BadImages(
            f"{counts['bad']} tiles of {source.path} cannot be read, nothing was changed: {named}"
        )
    if area is not None and counts["outside"] == counts.total() > 0:
        raise _beside(area, source, record)
    if not counts["kept"]:
        raise NothingToIngest(
            f"{source.path} gives no tile: imagery covers less than {MIN_VALID:.0%} of each of "
            f"the {counts['skipped']} that were cut: use smaller tiles or other imagery"
        )
    if counts["blank"]:
        _check_blank(counts, source)


def _beside(area: Area, source: Source, record: SourceRecord) -> NothingToIngest:
    centres = np.array([cut.centre for cut in source.cuts(record.size_m, record.stride_m)])
    (south, west), (north, east) = centres.min(axis=0), centres.max(axis=0)
    return NothingToIngest(
        f"none of the {len(centres)} tiles of {source.path} lies in the area {area}: their centres "
        f"span {west:.7g},{south:.7g},{east:.7g},{north:.7g}"
    )


def _check_blank(counts: Counter[str], source: Source) -> None:
    remedy = (
        "--nodata says which value stands for no imagery, --bands which bands hold the colours; "
        "gdal_translate -scale brightens"
    )
    found = f"{counts['blank']} of {counts['kept']} tiles are black or white without contrast"
    if counts["blank"] >= ALL_BLANK * counts["kept"]:
        raise NothingToIngest(f"{source.path}: {found}, nothing was changed: {remedy}")
    log.warning("source %s: %s: %s", source.name, found, remedy)


def _inside(cuts: Iterator[Cut], area: Area | None, counts: Counter[str]) -> Iterator[Cut]:
    """The tiles whose centres lie in the area; counts the others."""
    for cut in cuts:
        if area is None or area.contains(cut.centre):
            yield cut
        else:
            counts["outside"] += 1


def content_hash(image: Rgb) -> bytes:
    """SHA-256 of a tile's image, cut at HASH_PIXELS."""
    return hashlib.sha256(image.tobytes()).digest()


def _warn_of_doubts(doubts: list[str]) -> None:
    for doubt in doubts[:MAX_DOUBTS]:
        log.warning("%s", doubt)
    if len(doubts) > MAX_DOUBTS:
        log.warning("%d more rasters are doubtful in the same way", len(doubts) - MAX_DOUBTS)


def _warn_of_changes(former: SourceRecord | None, record: SourceRecord) -> None:
    if former is None:
        return
    if record.size_m != former.size_m:
        log.warning(
            "source %s: tiles were %s wide and are %s: every tile shows other ground now",
            record.name, _metres(former.size_m), _metres(record.size_m),
        )  # fmt: skip
    if record.stride_m is not None and record.stride_m != former.stride_m:
        log.warning(
            "source %s: the stride was %s and is %s: every tile has another id now",
            record.name, _metres(former.stride_m), _metres(record.stride_m),
        )  # fmt: skip


def _metres(value: float | None) -> str:
    return "the images' own size" if value is None else f"{value:g} m"


def _warn_of_overlap(catalogue: Catalogue, name: str) -> None:
    for other, tiles in catalogue.around(name).items():
        log.warning(
            "%d tiles of source %s lie in the area of %s: both sources are searched. To search "
            "the finest imagery alone, put the rasters into one folder and ingest the folder, or "
            "`skyfix remove` a source",
            tiles, other, name,
        )  # fmt: skip
