"""Evaluation protocols: an encoder and pairs in, named sets of metrics out.

A protocol is a gallery, a condition under which the panoramas are seen, and a rule for what is
right. Metrics, as far as they apply: "1", "5", "10", "1%" are recall among so many of N tiles (K
of them are 1 %); "hit" is "1" without counting semi-positives; "10 m" is the share of streets
whose best tile's middle is that near, and "median_m" its median distance; "median_heading_deg" is
the error of the best tile's heading, right or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder
from training.data.pairs import GalleryTile, Pair
from training.evaluate.gallery import (
    Gallery,
    dataset_tiles,
    overlapping_tiles,
    own_tiles,
    tiles_within,
)
from training.evaluate.recall import (
    EvaluationError,
    best_among,
    best_north,
    nearest,
    ranks,
    recall_depths,
    recall_of,
    recall_within,
)
from training.evaluate.street_views import Condition, encode_streets

# What each protocol measures, as a template over `Options`.
PROTOCOLS = {
    "centre": "one tile around each panorama, heading known",
    "rolls": "one tile around each panorama, heading unknown: the best of {rolls} headings",
    "fov": "one tile around each panorama, heading known, only a part of the panorama seen",
    "near": "one tile around each panorama, heading known; any within {near_m:g} m is right",
    "grid": "tiles every {stride_m:g} m, panoramas anywhere, heading known",
    "hard": "tiles every {stride_m:g} m, panoramas anywhere, best of {rolls} headings",
    "vigor": "the dataset's gallery, heading known; hit: semi-positives do not count",
}


@dataclass(frozen=True)
class Options:
    """Numbers of the protocols: tile spacing and radius in metres, headings tried, angles seen."""

    stride_m: float = 16.0
    rolls: int = 36
    fov_deg: tuple[float, ...] = (70.0, 90.0, 180.0, 360.0)
    near_m: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises EvaluationError for a number that measures nothing."""
        for name, low, high in (
            ("stride_m", 1.0, 1e4), ("rolls", 1, 3600), ("near_m", 0.0, 1e4), ("seed", 0, 2**63)
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise EvaluationError(f"{name} is {value:g}; it must be {low:g} to {high:g}")
        for angle in self.fov_deg:
            if not 1.0 <= angle <= 360.0:
                raise EvaluationError(f"fov_deg holds {angle:g}; each must be 1 to 360")


class Found(NamedTuple):
    """Search results of n streets: int64 (n,) each, `north` float64 (n,).

    rank: of the right tile. hit: the same without the ignored tiles. tile: the nearest. north:
    the fraction of the width that faces north, as the nearest tile suggests.
    """

    rank: NDArray[np.int64]
    hit: NDArray[np.int64]
    tile: NDArray[np.int64]
    north: NDArray[np.float64]


def description(name: str, options: Options) -> str:
    """What a protocol measures, in words.

    Raises:
        EvaluationError: the protocol is unknown.
    """
    if name not in PROTOCOLS:
        raise EvaluationError(f"protocol {name!r} is unknown; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name].format(**vars(options))


def evaluate(
    encoder: Encoder,
    pairs: Sequence[Pair],
    protocols: Sequence[str] = ("centre",),
    *,
    gallery_tiles: Sequence[GalleryTile] = (),
    options: Options | None = None,
) -> dict[str, dict[str, Any]]:
    """The metrics of each protocol by name; "fov" gives a set for each angle ("fov-70").

    Memory holds descriptors, and the images of a chunk only. Randomness is a function of the seed
    and the pair's row.

    Args:
        gallery_tiles: the dataset's gallery, for "vigor".

    Raises:
        EvaluationError: unknown protocol, or a protocol that these pairs do not allow.
        PairError: an image cannot be read; an evaluation leaves no pair out.
    """
    options = options or Options()
    for name in protocols:
        description(name, options)
    gallery_of = _galleries(encoder, pairs, gallery_tiles, options)
    searches = {
        name: (gallery_of(kind), condition)
        for protocol in protocols
        for name, kind, condition in _searches(protocol, options)
    }
    found: dict[str, list[Found]] = {name: [] for name in searches}
    norths: list[NDArray[np.float64]] = []
    conditions = {condition for _, condition in searches.values()}
    for streets in encode_streets(encoder, pairs, conditions, options.seed):
        norths.append(streets.norths)
        for name, (tiles, condition) in searches.items():
            found[name].append(_search(streets.descriptors[condition], tiles, streets.rows))
    return {
        name: _metrics(_joined(found[name]), tiles, condition, np.concatenate(norths))
        for name, (tiles, condition) in searches.items()
    }


def _galleries(
    encoder: Encoder, pairs: Sequence[Pair], gallery_tiles: Sequence[GalleryTile], options: Options
) -> Callable[[str], Gallery]:
    """A function that makes each kind of gallery once."""

    @cache
    def gallery_of(kind: str) -> Gallery:
        if kind == "near":
            return tiles_within(gallery_of("centre"), options.near_m)
        if kind == "grid":
            return overlapping_tiles(encoder, pairs, options.stride_m)
        if kind == "vigor":
            return dataset_tiles(encoder, pairs, gallery_tiles)
        return own_tiles(encoder, pairs)

    return gallery_of


def _searches(protocol: str, options: Options) -> list[tuple[str, str, Condition]]:
    """(name of the metrics, gallery, condition) of each search that a protocol makes."""
    if protocol == "fov":
        return [(f"fov-{angle:g}", "centre", Condition(fov_deg=angle)) for angle in options.fov_deg]
    condition = Condition(rolls=options.rolls) if protocol in ("rolls", "hard") else Condition()
    gallery = {"rolls": "centre", "hard": "grid"}.get(protocol, protocol)
    return [(protocol, gallery, condition)]


def _search(street: NDArray[np.float32], gallery: Gallery, rows: range) -> Found:
    aerial = gallery.descriptors
    tile = nearest(street, aerial)
    north = best_north(street, aerial[tile])
    unknown = np.full(len(street), -1)
    if gallery.right is None:
        return Found(unknown, unknown, tile, north)
    candidates = gallery.right[rows.start : rows.stop]
    truth = best_among(street, aerial, candidates)
    others = np.where(candidates == truth[:, None], -1, candidates)
    rank = ranks(street, aerial, truth, ignored=others)
    if gallery.ignored is None:
        return Found(rank, unknown, tile, north)
    ignored = gallery.ignored[rows.start : rows.stop]
    return Found(rank, ranks(street, aerial, truth, ignored=ignored), tile, north)


def _joined(found: Sequence[Found]) -> Found:
    return Found(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _metrics(
    found: Found, gallery: Gallery, condition: Condition, norths: NDArray[np.float64]
) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    if gallery.right is not None:
        metrics |= recall_of(found.rank, len(gallery))
    if gallery.ignored is not None:
        metrics["hit"] = float((found.hit == 0).mean())
    if gallery.tiles_at is not None and gallery.streets_at is not None:
        metrics |= recall_within(gallery.tiles_at[found.tile], gallery.streets_at)
    if condition.rolls:
        error = heading_error_deg(found.north, norths)
        metrics["median_heading_deg"] = float(np.median(error))
    return metrics | {"N": len(gallery), "K": recall_depths(len(gallery))["1%"]}


def heading_error_deg(
    north: NDArray[np.float64], true_north: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Degrees between two headings, 0 to 180, from the fractions of the width that face north."""
    error: NDArray[np.float64] = np.abs((north - true_north + 0.5) % 1.0 - 0.5) * 360.0
    return error
