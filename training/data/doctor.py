"""A check of a dataset's folder: what it holds, what it lacks, whether its files agree.

Every listed file is looked for. A sample of the pairs whose images exist is decoded.
"""

from __future__ import annotations

import heapq
import io
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from model.atomic_write import write_atomically
from model.errors import SkyfixError
from model.geo import distance_m, offset
from model.images import Rgb, decode_image
from model.preprocessing import to_pixels, to_tensor
from training import recipes
from training.data import datasets
from training.data.datasets import Listing
from training.data.pairs import (
    AerialPoint,
    GalleryTile,
    Pair,
    PairError,
    raster_size,
    read_chip,
    read_strip,
)
from training.progress import progress_bar

SAMPLED = 24  # existing pairs to decode, spread evenly
SHOWN_BY = "msae-demo"  # the recipe whose preprocessing reads the pairs
NAMED = 3  # absent files to name
SIDE = 384  # height of the picture in pixels
GAP = 8  # between its parts

Sizes = Counter[tuple[int, int]]  # (height, width)


@dataclass
class Sample:
    """Some decoded pairs: image sizes, sound pairs, and the errors of the others."""

    streets: Sizes = field(default_factory=Counter)
    aerials: Sizes = field(default_factory=Counter)
    sound: list[Pair] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Findings:
    """The contents of `root`: splits that can be listed, errors of the others, tiles by id."""

    name: str
    root: Path
    listings: Mapping[str, Listing]
    faults: Mapping[str, str]
    tiles: Mapping[str, GalleryTile]
    sample: Sample

    @property
    def usable(self) -> bool:
        """Whether any pair can be read."""
        return bool(self.sample.sound)

    @property
    def trouble(self) -> str:
        """The faults in one line; empty if there are none.

        Absent images are no fault: a copy may hold a part of the dataset.
        """
        faults = [f"{_title(split)} is unusable" for split in self.faults]
        faults += [f"{a} and {b} share {n} pairs" for a, b, n in _shared(self.listings) if n]
        if broken := len(self.sample.unreadable):
            faults.append(f"{broken} of {broken + len(self.sample.sound)} sampled are unreadable")
        return "; ".join(faults)


def examine(name: str, root: Path) -> Findings:
    """Check a dataset's folder. Faults of the folder are in the findings.

    Raises:
        PairError: the dataset is unknown.
    """
    datasets.find(name)
    try:
        splits = datasets.list_splits(name, root)
    except (SkyfixError, OSError):
        splits = ["all"]  # listing it reports the same error
    listings: dict[str, Listing] = {}
    tiles: dict[str, GalleryTile] = {}
    faults: dict[str, str] = {}
    with progress_bar(f"looking through {name}", len(splits)) as advance:
        for split in splits:
            try:
                listings[split] = datasets.listing(name, root, split)
                tiles |= {tile.id: tile for tile in datasets.list_gallery(name, root, split)}
            except (SkyfixError, OSError) as error:
                faults[split] = str(error)
            advance()
    present = [pair for listing in listings.values() for pair in listing.present]
    return Findings(name, root, listings, faults, tiles, _sampled(present))


def _sampled(pairs: Sequence[Pair]) -> Sample:
    sample, preprocessing = Sample(), recipes.find(SHOWN_BY).encoder.preprocessing
    for pair in pairs[:: max(1, len(pairs) // SAMPLED)][:SAMPLED]:
        try:
            height, width = decode_image(pair.street.read_bytes()).shape[:2]
            aerial = raster_size(pair.aerial.path)
            sample.streets[height, width] += 1
            sample.aerials[aerial] += 1
            _check_inside(pair.aerial, *aerial)
            read_strip(pair, preprocessing)  # refuses an unknown heading
        except (SkyfixError, OSError) as error:
            sample.unreadable.append(f"{pair.id}: {error}")
            continue
        sample.sound.append(pair)
    return sample


def _check_inside(point: AerialPoint, height: int, width: int) -> None:
    if not (0.0 <= point.column <= width and 0.0 <= point.row <= height):
        place = f"the point at column {point.column:g}, row {point.row:g}"
        raise PairError(f"{place} lies outside {point.path}, which is {width}x{height}")


def report_lines(findings: Findings) -> Iterator[str]:
    """The findings, line by line."""
    yield f"{findings.name} at {findings.root}"
    for split, listing in findings.listings.items():
        yield from _split_lines(findings, split, listing)
    for split, fault in findings.faults.items():
        yield f"{_title(split)}: UNUSABLE: {fault}"
    for training, other, common in _shared(findings.listings):
        verdict = f"{common} pairs SHARED" if common else "disjoint"
        yield f"{training} and {other}: {verdict}"
    files = [tile.aerial.path for tile in findings.tiles.values()]
    if files:
        yield _absent_line("tiles of the gallery", files, datasets.absent_files(files), findings)
    yield from _position_lines(findings)
    dataset, sample = datasets.find(findings.name), findings.sample
    yield from _size_lines("panoramas", sample.streets, dataset.street_size)
    yield from _size_lines("aerials", sample.aerials, dataset.aerial_size)
    yield from (f"UNREADABLE: {error}" for error in sample.unreadable)
    yield "usable" if findings.usable else "NOT USABLE: no pair can be read"


def _title(split: str) -> str:
    return split or "without a split"


def _split_lines(findings: Findings, split: str, listing: Listing) -> Iterator[str]:
    published = datasets.find(findings.name).splits.get(split)
    count, ids = len(listing.pairs), Counter(pair.id for pair in listing.pairs)
    agrees = f" (PUBLISHED: {published})" if published not in (None, count) else ""
    yield f"{_title(split)}: {count} pairs listed{agrees}, {len(listing.present)} there"
    if len(ids) < count:
        yield f"  REPEATED: {count - len(ids)} ids, such as {ids.most_common(1)[0][0]}"
    streets = [pair.street for pair in listing.pairs]
    aerials = [pair.aerial.path for pair in listing.pairs]
    yield "  " + _absent_line("panoramas", streets, listing.absent, findings)
    yield "  " + _absent_line("aerials", aerials, listing.absent, findings)


def _absent_line(
    kind: str, files: Sequence[Path], absent: Collection[Path], findings: Findings
) -> str:
    listed = set(files)
    lacking = listed & set(absent)
    if not lacking:
        return f"{kind}: all {len(listed)} there"
    named = heapq.nsmallest(NAMED, lacking, key=str)
    first = ", ".join(os.path.relpath(file, findings.root) for file in named)
    more = ", ..." if len(lacking) > NAMED else ""
    return f"{kind}: {len(lacking)} of {len(listed)} ABSENT: {first}{more}"


def _shared(listings: Mapping[str, Listing]) -> Iterator[tuple[str, str, int]]:
    """(split to train on, split to measure with, number of pairs in both, which must be 0)."""
    ids = {split: {pair.id for pair in listing.pairs} for split, listing in listings.items()}
    for training in (split for split in ids if split.endswith("train")):
        prefix = training.removesuffix("train")
        for other in ids:
            if other and other != training and other.startswith(prefix):
                yield training, other, len(ids[training] & ids[other])


def _position_lines(findings: Findings) -> Iterator[str]:
    """Compare the point where a tile shows the street with the street's own coordinates."""
    off_m, lost = [], 0
    pairs = [pair for listing in findings.listings.values() for pair in listing.pairs]
    for pair in (pair for pair in pairs if pair.tile):
        tile = findings.tiles.get(pair.tile)
        if tile is None:
            lost += 1
        elif pair.position and tile.position:
            scale = pair.aerial.metres_per_pixel
            east = (pair.aerial.column - tile.aerial.column) * scale
            north = (tile.aerial.row - pair.aerial.row) * scale
            off_m.append(distance_m(offset(tile.position, east, north), pair.position))
    if lost:
        yield f"LOST: {lost} pairs name a tile that the gallery lacks"
    if off_m:
        yield (
            f"places: {len(off_m)} streets stand {median(off_m):.2f} m (median), at most "
            f"{max(off_m):.2f} m from where their tile shows them"
        )


def _size_lines(kind: str, sizes: Sizes, published: tuple[int, int] | None) -> Iterator[str]:
    if not sizes:
        return
    found = ", ".join(f"{count} of {w}x{h}" for (h, w), count in sizes.most_common())
    agrees = ""
    if published and set(sizes) != {published}:
        agrees = f" (PUBLISHED: {published[1]}x{published[0]})"
    yield f"{kind}, a sample: {found}{agrees}"


def write_picture(pair: Pair, path: Path) -> None:
    """Draw a pair side by side: the panorama, its inverse polar transform, the aerial crop.

    North is up in both squares; the recipe SHOWN_BY gives band and footprint.

    Raises:
        PairError: `path` has no image suffix. SkyfixError: the pair cannot be read.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in ("JPEG", "PNG", "WEBP"):
        raise PairError(f"{path}: give a name that ends in .png, .jpg or .webp")
    encoded = io.BytesIO()
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    street, view, aerial = _parts(pair)
    picture = np.concatenate([street, gap, view, gap, aerial], axis=1)
    Image.fromarray(picture).save(encoded, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encoded.getvalue())


def _parts(pair: Pair) -> tuple[Rgb, Rgb, Rgb]:
    config = recipes.find(SHOWN_BY).encoder
    large = replace(config.preprocessing, input_size=SIDE, strip_size=(SIDE, 4 * SIDE))
    strip, north = read_strip(pair, large)
    view = large.project(to_tensor([strip]), north)
    panorama = Image.fromarray(decode_image(pair.street.read_bytes()))
    width = round(SIDE * panorama.width / panorama.height)
    return (
        np.asarray(panorama.resize((width, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)),
        to_pixels(view),
        read_chip(pair.aerial, config.aerial_footprint_m, SIDE, large.fill),
    )
