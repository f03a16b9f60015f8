"""Evaluation protocols: an encoder and pairs in, named sets of figures out.

A protocol is a gallery, a way in which the panoramas are seen, and what counts as right. Figures,
where they apply: "1", "5", "10", "1%" recall among so many of N tiles (K of them are 1 %); "hit"
the same as "1" but for semi-positives; "10 m" the share whose best tile's middle is so near, and
"median_m" how far it is; "median_heading_deg" the error of the best tile's heading, right or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.encoder import Encoder
from model.errors import SkyfixError
from model.images import Rgb
from training.data.image_operations import limited
from training.data.pairs import Arrays, Pair, PairError, Reference, read_strip
from training.evaluate.gallery import (
    Gallery,
    dataset_tiles,
    in_chunks,
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
    recall_at,
    recall_depths,
    recall_of,
    recall_within,
)
from training.progress import bar

SEARCHED = 2048  # street descriptors at a time: each search goes through the whole gallery

# What each measures, as a template over `Options`.
PROTOCOLS = {
    "centre": "one tile around each panorama, heading known",
    "rolls": "one tile around each panorama, heading unknown: the best of {rolls} headings",
    "fov": "one tile around each panorama, heading known, only a part of the panorama seen",
    "near": "one tile around each panorama, heading known; any within {near_m:g} m is right",
    "grid": "tiles every {stride_m:g} m, panoramas anywhere, heading known",
    "hard": "tiles every {stride_m:g} m, panoramas anywhere, best of {rolls} headings",
    "vigor": "the dataset's references, heading known; hit: semi-positives do not count",
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
        """Raises EvaluationError where a number measures nothing."""
        for name, low, high in (
            ("stride_m", 1.0, 1e4), ("rolls", 1, 3600), ("near_m", 0.0, 1e4), ("seed", 0, 2**63)
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise EvaluationError(f"{name} is {value:g}; it must be {low:g} to {high:g}")
        for angle in self.fov_deg:
            if not 1.0 <= angle <= 360.0:
                raise EvaluationError(f"fov_deg holds {angle:g}; each must be 1 to 360")


class View(NamedTuple):
    """How a panorama is seen: an angle of it, and how many headings are tried (0: known)."""

    fov_deg: float = 360.0
    rolls: int = 0


class Found(NamedTuple):
    """Of n streets, int64 (n,) each: the right tile's rank, the same but for the ignored tiles, the
    nearest tile; and where north lies as that tile has it, float64 (n,), a fraction of the turn."""

    rank: NDArray[np.int64]
    hit: NDArray[np.int64]
    tile: NDArray[np.int64]
    north: NDArray[np.float64]


def describe(name: str, options: Options) -> str:
    """What a protocol measures, in words.

    Raises:
        EvaluationError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise EvaluationError(f"protocol {name!r} is unknown; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name].format(**vars(options))


def evaluate(
    encoder: Encoder,
    pairs: Sequence[Pair],
    protocols: Sequence[str] = ("centre",),
    *,
    references: Sequence[Reference] = (),
    options: Options | None = None,
) -> dict[str, dict[str, Any]]:
    """The figures of each protocol by name; "fov" gives one set for each angle ("fov-70").

    Memory holds descriptors, and pictures of a chunk only. Randomness is a function of the seed
    and the pair's row.

    Args:
        references: the dataset's gallery, for "vigor".

    Raises:
        EvaluationError: unknown protocol, or one that these pairs do not allow.
        PairError: a picture cannot be read; an evaluation leaves none out.
    """
    options = options or Options()
    for name in protocols:
        describe(name, options)

    @cache
    def gallery(kind: str) -> Gallery:
        if kind == "near":
            return tiles_within(gallery("centre"), options.near_m)
        if kind == "grid":
            return overlapping_tiles(encoder, pairs, options.stride_m)
        if kind == "vigor":
            return dataset_tiles(encoder, pairs, references)
        return own_tiles(encoder, pairs)

    trials = {
        name: (gallery(kind), view)
        for protocol in protocols
        for name, kind, view in _trials(protocol, options)
    }
    found: dict[str, list[Found]] = {name: [] for name in trials}
    all_norths: list[NDArray[np.float64]] = []
    views = {view for _, view in trials.values()}
    for rows, norths, described in described_streets(encoder, pairs, views, options.seed):
        all_norths.append(norths)
        for name, (searched, view) in trials.items():
            found[name].append(_search(described[view], searched, rows))
    return {
        name: _figures(_joined(found[name]), searched, view, np.concatenate(all_norths))
        for name, (searched, view) in trials.items()
    }


def _trials(protocol: str, options: Options) -> list[tuple[str, str, View]]:
    """(name of the figures, gallery, view) of each search that a protocol makes."""
    if protocol == "fov":
        return [(f"fov-{angle:g}", "centre", View(fov_deg=angle)) for angle in options.fov_deg]
    view = View(rolls=options.rolls) if protocol in ("rolls", "hard") else View()
    kind = {"rolls": "centre", "hard": "grid"}.get(protocol, protocol)
    return [(protocol, kind, view)]


def _streets(
    encoder: Encoder, pairs: Sequence[Pair]
) -> Iterator[tuple[range, list[Rgb], NDArray[np.float64]]]:
    """Rows, strips and norths of a chunk of pairs at a time."""

    def read(pair: Pair) -> tuple[Rgb, float]:
        try:
            return read_strip(pair, encoder.config.preprocessing)
        except (SkyfixError, OSError) as error:
            raise PairError(f"{pair.id}: {error}") from error

    start = 0
    with bar("encoding panoramas", len(pairs)) as advance:
        for chunk in in_chunks(pairs, read):
            strips, norths = zip(*chunk, strict=True)
            yield range(start, start + len(chunk)), list(strips), np.array(norths)
            start += len(chunk)
            for _ in chunk:
                advance()


class Described(NamedTuple):
    """n streets: their rows, the fraction of the turn that faces north (n,), and float32
    (n, R, D) for each view of them."""

    rows: range
    norths: NDArray[np.float64]
    views: Mapping[View, NDArray[np.float32]]


def described_streets(
    encoder: Encoder,
    pairs: Sequence[Pair],
    views: Collection[View],
    seed: int,
    *,
    at_once: int = SEARCHED,
) -> Iterator[Described]:
    """All streets in turn, as many chunks of them as make up `at_once` descriptors of a view."""
    enough = at_once / max((max(1, view.rolls) for view in views), default=1)
    held: list[Described] = []
    for rows, strips, norths in _streets(encoder, pairs):
        seen = {view: _described(encoder, strips, norths, rows, view, seed) for view in views}
        held.append(Described(rows, norths, seen))
        if rows.stop - held[0].rows.start >= enough or rows.stop == len(pairs):
            yield Described(
                range(held[0].rows.start, rows.stop),
                np.concatenate([one.norths for one in held]),
                {view: np.concatenate([one.views[view] for one in held]) for view in views},
            )
            held = []


def _described(
    encoder: Encoder,
    strips: Sequence[Rgb],
    norths: NDArray[np.float64],
    rows: range,
    view: View,
    seed: int,
) -> NDArray[np.float32]:
    """Strips as a view shows them, to (n, R, D); R is 1 where the heading is known."""
    if view.fov_deg < 360.0:
        centres = [np.random.default_rng([seed, row]).uniform() for row in rows]
        strips = list(
            limited(
                torch.from_numpy(np.stack(strips)),
                np.full(len(strips), view.fov_deg),
                np.array(centres),
                encoder.config.preprocessing.fill,
            ).numpy()
        )
    if not view.rolls:
        return encoder.encode_strips(strips, list(norths))[:, None]
    repeated = [strip for strip in strips for _ in range(view.rolls)]
    tried = [roll / view.rolls for roll in range(view.rolls)] * len(strips)
    described = encoder.encode_strips(repeated, tried)
    return described.reshape(len(strips), view.rolls, -1)


def _search(street: NDArray[np.float32], gallery: Gallery, rows: range) -> Found:
    aerial = gallery.descriptors
    tile = nearest(street, aerial)
    north = best_north(street, aerial[tile])
    none = np.full(len(street), -1)
    if gallery.right is None:
        return Found(none, none, tile, north)
    candidates = gallery.right[rows.start : rows.stop]
    truth = best_among(street, aerial, candidates)
    others = np.where(candidates == truth[:, None], -1, candidates)
    rank = ranks(street, aerial, truth, ignored=others)
    if gallery.ignored is None:
        return Found(rank, none, tile, north)
    ignored = gallery.ignored[rows.start : rows.stop]
    return Found(rank, ranks(street, aerial, truth, ignored=ignored), tile, north)


def _joined(found: Sequence[Found]) -> Found:
    return Found(*(np.concatenate(one) for one in zip(*found, strict=True)))


def _figures(
    found: Found, gallery: Gallery, view: View, norths: NDArray[np.float64]
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if gallery.right is not None:
        figures |= recall_of(found.rank, len(gallery))
    if gallery.ignored is not None:
        figures["hit"] = float((found.hit == 0).mean())
    if gallery.tiles_at is not None and gallery.streets_at is not None:
        figures |= recall_within(gallery.tiles_at[found.tile], gallery.streets_at)
    if view.rolls:
        error = heading_error_deg(found.north, norths)
        figures["median_heading_deg"] = float(np.median(error))
    return figures | {"N": len(gallery), "K": recall_depths(len(gallery))["1%"]}


def heading_error_deg(
    north: NDArray[np.float64], true_north: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Degrees between two headings, 0 to 180, from the fractions of the turn that face north."""
    error: NDArray[np.float64] = np.abs((north - true_north + 0.5) % 1.0 - 0.5) * 360.0
    return error


def centre(encoder: Encoder, arrays: Arrays) -> dict[str, Any]:
    """The "centre" protocol on pairs already in memory: what a training run measures itself by."""
    search = Search.of(encoder, arrays)
    street, aerial = search.street, search.aerial
    figures: dict[str, Any] = dict(recall_at(street, aerial, search.right))
    if np.isfinite(search.positions).all():
        found = search.positions[search.rows[nearest(street, aerial)]]
        figures |= recall_within(found, search.positions)
    return figures | {"N": len(aerial), "K": recall_depths(len(aerial))["1%"]}


class Search(NamedTuple):
    """Pairs in memory: each street, and all tiles among which it is searched, each once.

    street: float32 (N, D). aerial: float32 (M, D). Both of unit length. rows: int64 (M,), a pair
    that shows the tile. right: int64 (N,), each street's own tile. positions: float64 (N, 3),
    metres, NaN where unknown.
    """

    street: NDArray[np.float32]
    aerial: NDArray[np.float32]
    rows: NDArray[np.int64]
    right: NDArray[np.int64]
    positions: NDArray[np.float64]

    @classmethod
    def of(cls, encoder: Encoder, arrays: Arrays) -> Search:
        street = encoder.encode_strips(list(arrays.strips), list(arrays.norths))
        rows, right = _pictures(arrays)
        tiles = centred_tiles(arrays)
        aerial = encoder.encode_aerials([tiles[row] for row in rows])
        return cls(street, aerial, rows, right, arrays.positions)

    def best(self, row: int, count: int) -> NDArray[np.int64]:
        """The nearest tiles of a street."""
        nearest_first = np.argsort(-(self.aerial @ self.street[row]), kind="stable")
        return nearest_first[:count]

    def cosine(self, row: int, tile: int) -> float:
        return float(self.aerial[tile] @ self.street[row])

    def metres(self, row: int, tile: int) -> float:
        """Between a street and one that shows the tile; NaN where a place is unknown."""
        return float(np.linalg.norm(self.positions[self.rows[tile]] - self.positions[row]))


def _pictures(arrays: Arrays) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the chips, those of one tile that are the same only once; which is each street's."""
    if arrays.tiles is None or len(np.unique(arrays.tiles)) == len(arrays):
        return np.arange(len(arrays)), np.arange(len(arrays))
    keys = [
        (tile, hashlib.sha256(chip.tobytes()).digest())
        for tile, chip in zip(arrays.tiles.tolist(), arrays.chips, strict=True)
    ]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    rows = np.array(sorted(first.values()))
    return rows, np.searchsorted(rows, [first[key] for key in keys])


def centred_tiles(arrays: Arrays) -> NDArray[np.uint8]:
    """The chips without their margin: (N, S, S, 3)."""
    end = arrays.chips.shape[1] - arrays.margin
    return arrays.chips[:, arrays.margin : end, arrays.margin : end]
