"""Pair-consistent augmentation: what is done to one view is answered in the other.

Every draw is a function of (seed, epoch, sample), never of batch, order or worker, so a resumed
run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.geo import EarthCentred
from training import processes
from training.pairs import Arrays
from training.recipes import Recipe
from training.sampling import generator

BLANK_SHARE = 0.45  # at most so much of the band is lost at the top, and at the bottom
ARC_DEG = (60.0, 300.0)  # what a limited view keeps


class Sample(NamedTuple):
    """One augmented pair: strip uint8 (h, w, 3), north, tile uint8 (S, S, 3), and where the
    tile's centre lies, earth-centred metres."""

    strip: NDArray[np.uint8]
    north: float
    tile: NDArray[np.uint8]
    tile_position: NDArray[np.float64]


def augment(arrays: Arrays, index: int, recipe: Recipe, epoch: int, seed: int) -> Sample:
    """Pair `index` as this epoch shows it."""
    draw = generator(seed, (epoch << 32) | index)
    strength = min(1.0, epoch / recipe.ramp_epochs) if recipe.ramp_epochs else 1.0
    strip, north = arrays.strips[index], float(arrays.norths[index])
    metres_per_pixel = recipe.encoder.aerial_footprint_m / recipe.encoder.preprocessing.input_size
    east, south = draw.uniform(-1.0, 1.0, 2) * min(
        arrays.margin, strength * recipe.offset_m / metres_per_pixel
    )
    east, south = round(east), round(south)
    tile = _shifted(arrays.chips[index], arrays.margin, east, south)
    tile_position = _moved(
        arrays.positions[index], east * metres_per_pixel, -south * metres_per_pixel
    )
    quarter, flip = int(draw.integers(4)), bool(draw.integers(2))
    if recipe.rotation == "joint":
        tile, north = turned(tile, north, quarter)
    if recipe.rotation == "street":
        north += draw.uniform()
    north += draw.uniform(-1.0, 1.0) * strength * recipe.heading_noise_deg / 360.0
    if recipe.mirror and flip:
        strip, north, tile = mirrored(strip, north, tile)
    if draw.uniform() < strength * recipe.missing_band:
        strip = _blanked(strip, draw, recipe.encoder.preprocessing.fill)
    if draw.uniform() < strength * recipe.limited_view:
        fov_deg, centre = draw.uniform(*ARC_DEG), draw.uniform()
        strip = limited(strip, fov_deg, centre, recipe.encoder.preprocessing.fill)
    if recipe.colour_jitter:
        strip = _recoloured(strip, draw, strength * recipe.colour_jitter)
        tile = _recoloured(tile, draw, strength * recipe.colour_jitter)
    return Sample(strip, north % 1.0, tile, tile_position)


def turned(tile: NDArray[np.uint8], north: float, quarter: int) -> tuple[NDArray[np.uint8], float]:
    """(tile, north) of a pair whose ground is turned by so many quarters; north may pass 1."""
    # Turned counter-clockwise by a quarter, a tile has its east on top.
    return np.rot90(tile, quarter), north + quarter / 4.0


def mirrored(
    strip: NDArray[np.uint8], north: float, tile: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], float, NDArray[np.uint8]]:
    """(strip, north, tile) of a pair with east for west; north changes its sign."""
    # The transform counts columns by index: column 0 is its own mirror image.
    return np.roll(strip[:, ::-1], 1, axis=1), -north, tile[:, ::-1]


def _shifted(chip: NDArray[np.uint8], margin: int, east: int, south: int) -> NDArray[np.uint8]:
    side = chip.shape[0] - 2 * margin
    top, left = margin + south, margin + east
    return chip[top : top + side, left : left + side]


def _moved(position: NDArray[np.float64], east_m: float, north_m: float) -> NDArray[np.float64]:
    """A point moved along the ground's tangent plane (NaN stays NaN)."""
    x, y, z = EarthCentred(*position)
    across = np.hypot(x, y)
    radius = np.hypot(across, z)
    east = np.array([-y, x, 0.0]) / across
    # The geocentric vertical tilts by at most 0.2 degrees from the ellipsoid's: the point is off
    # by at most 0.4 % of the way, upward.
    north = np.array([-x * z / across, -y * z / across, across]) / radius
    moved: NDArray[np.float64] = position + east_m * east + north_m * north
    return moved


def _blanked(
    strip: NDArray[np.uint8], draw: np.random.Generator, fill: tuple[int, int, int]
) -> NDArray[np.uint8]:
    height = strip.shape[0]
    top, bottom = (draw.uniform(0.0, BLANK_SHARE, 2) * height).astype(int)
    strip = strip.copy()
    strip[:top] = fill
    strip[height - bottom :] = fill
    return strip


def limited(
    strip: NDArray[np.uint8], fov_deg: float, centre: float, fill: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """The strip with every column more than half of `fov_deg` from `centre` filled.

    `centre` is a fraction of the width; the strip is a full turn, so the view may wrap.
    """
    columns = (np.arange(strip.shape[1]) + 0.5) / strip.shape[1]
    away = np.abs((columns - centre + 0.5) % 1.0 - 0.5)
    strip = strip.copy()
    strip[:, away > fov_deg / 720.0] = fill
    return strip


def _recoloured(
    image: NDArray[np.uint8], draw: np.random.Generator, strength: float
) -> NDArray[np.uint8]:
    """Another gain for each channel, brightness and gamma, as one lookup table a channel."""
    gain = 1.0 + draw.uniform(-strength, strength) + draw.uniform(-0.3, 0.3, 3) * strength
    gamma = np.exp(draw.uniform(-strength, strength))
    shift = draw.uniform(-0.3, 0.3) * strength
    levels = np.linspace(0.0, 1.0, 256)[:, None] ** gamma * gain + shift
    table = (levels.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    return np.stack([table[:, c][image[..., c]] for c in range(3)], axis=-1)


class Batch(NamedTuple):
    """B augmented pairs. strips uint8 (B, 3, h, w), norths (B,), tiles uint8 (B, 3, S, S), ids
    int64 (B,), equal for pairs of one tile; positions of streets and of tiles' centres (B, 3),
    earth-centred metres. rows: int64 (B,), where the pairs lie in their arrays; empty: nowhere."""

    strips: Tensor
    norths: Tensor
    tiles: Tensor
    ids: Tensor
    street_positions: Tensor
    tile_positions: Tensor
    rows: Tensor = torch.empty(0, dtype=torch.int64)


def batches(
    arrays: Arrays,
    recipe: Recipe,
    epoch: int,
    seed: int,
    order: NDArray[np.int64],
    *,
    start: int = 0,
    workers: int = 1,
) -> Iterator[Batch]:
    """One epoch in this order, whole batches only, `workers` of them made ahead of their use.

    Gives this process's share of each. `start` leaves out that many batches: where a resumed
    epoch goes on.
    """
    size = recipe.batch_size
    own = processes.share(size)
    chunks = [order[i : i + size][own] for i in range(start * size, len(order) - size + 1, size)]
    with ThreadPoolExecutor(workers) as ahead:
        upcoming: deque[Future[Batch]] = deque()
        for chunk in chunks:
            upcoming.append(ahead.submit(_batch, arrays, chunk, recipe, epoch, seed))
            if len(upcoming) > workers:
                yield upcoming.popleft().result()
        while upcoming:
            yield upcoming.popleft().result()


def _batch(
    arrays: Arrays, indices: NDArray[np.int64], recipe: Recipe, epoch: int, seed: int
) -> Batch:
    samples = [augment(arrays, int(index), recipe, epoch, seed) for index in indices]
    ids = indices if arrays.tiles is None else arrays.tiles[indices]
    return Batch(
        _channels_first([one.strip for one in samples]),
        torch.tensor([one.north for one in samples], dtype=torch.float64),
        _channels_first([one.tile for one in samples]),
        torch.from_numpy(ids),
        torch.from_numpy(arrays.positions[indices]),
        torch.from_numpy(np.stack([one.tile_position for one in samples])),
        torch.from_numpy(indices),
    )


def _channels_first(images: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
