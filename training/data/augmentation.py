"""Pair-consistent augmentation: what is done to one view is answered in the other.

Every draw is a function of (seed, epoch, row), never of batch, order or worker, so a resumed run
sees what an uninterrupted one would have seen. Whole batches are changed at once, on the device
that trains: one pair at a time, a processor would keep a GPU waiting. What a GPU is sent, it is
sent without waiting for what it still has to do.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import distributed as processes
from training.data.image_operations import (
    Fill,
    blanked,
    convolved,
    facing,
    limited,
    mirrored,
    recoloured,
    sent,
    shifted,
    turned,
)
from training.data.pairs import Arrays
from training.recipes import Recipe
from training.run.sampling import generator

BLANK_SHARE = 0.45  # at most so much of the band is lost at the top, and at the bottom
ARC_DEG = (60.0, 300.0)  # what a limited view keeps
RESIDENT_SHARE = 0.6  # of a GPU's free memory may be filled by the pictures

log = logging.getLogger(__name__)


class Pictures(NamedTuple):
    """The pictures of `Arrays`, same shapes and rows, and the device that trains on them."""

    strips: Tensor
    chips: Tensor
    device: str

    @classmethod
    def of(cls, arrays: Arrays, device: str = "cpu") -> Pictures:
        """On `device` if they leave it room to train, else where they are, to be sent by batch."""
        here = cls(torch.from_numpy(arrays.strips), torch.from_numpy(arrays.chips), device)
        if torch.device(device).type != "cuda":
            return here
        # What an earlier run of this process has left counts as taken.
        gc.collect()
        torch.cuda.empty_cache()
        size, free = here.strips.nbytes + here.chips.nbytes, torch.cuda.mem_get_info(device)[0]
        if size > RESIDENT_SHARE * free:
            log.warning(
                "the pairs (%.1f GB) stay in main memory: the GPU has %.1f GB free",
                size / 1e9, free / 1e9,
            )  # fmt: skip
            return here
        return cls(here.strips.to(device), here.chips.to(device), device)


class Draws(NamedTuple):
    """What is done to B pairs, float64, (B,) if no shape is given.

    east, south: pixels by which the tile's centre is moved. quarters: of a turn, counter-clockwise,
    of the ground; turn: of the street alone, as a fraction. flip: 1 for east and west exchanged.
    blank: (B, 2) rows lost at the top and at the bottom. arc: fraction of the turn that is left,
    around `arc_centre`. colours: (B, 2, 5) of both views: three gains, a shift, an exponent.
    blend: (B, 2), how much of both views their convolution replaces. kernels: (B, 2, 3, 3, 3, 3)
    of both: channels out, channels in, rows, columns.
    """

    east: NDArray[np.float64]
    south: NDArray[np.float64]
    quarters: NDArray[np.float64]
    turn: NDArray[np.float64]
    flip: NDArray[np.float64]
    blank: NDArray[np.float64]
    arc: NDArray[np.float64]
    arc_centre: NDArray[np.float64]
    colours: NDArray[np.float64]
    blend: NDArray[np.float64]
    kernels: NDArray[np.float64]


def draws_of(recipe: Recipe) -> dict[str, int]:
    """Uniform numbers a pair: of each thing that the recipe draws, so many."""
    counts = {
        "shift": 2, "turn": 2, "quarter": 1, "flip": 1, "blank": 3, "view": 3, "colour": 12,
    }  # fmt: skip
    # Seven times all others: not for nothing.
    return counts | ({"mixed": 2 * 3, "kernels": 2 * 3**4} if recipe.random_convolution else {})


def drawn(uniform: NDArray[np.float64], recipe: Recipe, epoch: int, margin: int) -> Draws:
    """`uniform` (B, the sum of `draws_of`) in 0..1 as what the recipe does in that epoch."""
    strength = min(1.0, epoch / recipe.ramp_epochs) if recipe.ramp_epochs else 1.0
    counts = draws_of(recipe)
    ends = np.cumsum(list(counts.values()))[:-1]
    of = dict(zip(counts, np.split(uniform, ends, axis=1), strict=True))
    reach = min(margin, strength * recipe.offset_m / metres_per_pixel(recipe))
    east, south = np.round(reach * (2.0 * of["shift"] - 1.0)).T
    noise, around = of["turn"].T
    turn = (2.0 * noise - 1.0) * strength * recipe.heading_noise_deg / 360.0
    if recipe.rotation == "street":
        turn = turn + around
    lost = of["blank"][:, :1] < strength * recipe.missing_band
    rows = np.floor(BLANK_SHARE * recipe.encoder.preprocessing.strip_size[0] * of["blank"][:, 1:])
    narrow, width, centre = of["view"].T
    low, high = (degrees / 360.0 for degrees in ARC_DEG)
    tone = (2.0 * of["colour"] - 1.0).reshape(-1, 2, 6) * strength * recipe.colour_jitter
    blend, kernels = np.zeros((len(uniform), 2)), np.zeros((len(uniform), 2, 3, 3, 3, 3))
    if recipe.random_convolution:
        mixed, share, point = of["mixed"].reshape(-1, 2, 3).transpose(2, 0, 1)
        blend = share * (mixed < strength * recipe.random_convolution)
        kernels = 2.0 * of["kernels"].reshape(kernels.shape) - 1.0
        middle = np.pad([[1.0]], 1)  # half of them have one pixel alone: they mix channels
        kernels *= np.where(point[..., None, None, None, None] < 0.5, middle, 1.0)
    gains = 1.0 + tone[..., :1] + 0.3 * tone[..., 1:4]
    return Draws(
        east,
        south,
        np.floor(4.0 * of["quarter"][:, 0]) * (recipe.rotation == "joint"),
        turn,
        ((of["flip"][:, 0] < 0.5) & recipe.mirror).astype(np.float64),
        rows * lost,
        np.where(narrow < strength * recipe.limited_view, low + (high - low) * width, 1.0),
        centre,
        np.concatenate([gains, 0.3 * tone[..., 4:5], np.exp(tone[..., 5:6])], -1),
        blend,
        kernels,
    )


def metres_per_pixel(recipe: Recipe) -> float:
    """Of the network's view of a tile."""
    return recipe.encoder.aerial_footprint_m / recipe.encoder.preprocessing.input_size


def augment(
    strips: Tensor,
    norths: NDArray[np.float64],
    chips: Tensor,
    margin: int,
    draws: Draws,
    fill: Fill,
) -> tuple[Tensor, Tensor, Tensor]:
    """(strips, norths, tiles) of B pairs after what was drawn, on the device of the pictures.

    strips: uint8 (B, h, w, 3). norths: (B,). chips: uint8 (B, P, P, 3), the tile and `margin`
    pixels around it.
    """
    flip = draws.flip > 0.0
    norths = facing(norths + draws.turn, draws.quarters, flip)
    tiles = turned(shifted(chips, margin, draws.east, draws.south), draws.quarters)
    strips, tiles = mirrored(strips, tiles, flip)
    strips = blanked(strips, draws.blank, fill)
    strips = limited(strips, 360.0 * draws.arc, draws.arc_centre, fill)

    def altered(images: Tensor, view: int) -> Tensor:
        images = recoloured(images, draws.colours[:, view])
        return convolved(images, draws.blend[:, view], draws.kernels[:, view])

    return altered(strips, 0), sent(norths, strips.device), altered(tiles, 1)


def moved(
    positions: NDArray[np.float64], east_m: NDArray[np.float64], north_m: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Points (B, 3) moved along the ground's tangent plane (NaN stays NaN)."""
    x, y, z = positions.T
    across = np.hypot(x, y)
    radius = np.hypot(across, z)
    nothing = np.zeros_like(x)
    east = np.stack([-y, x, nothing]) / across
    # The geocentric vertical tilts by at most 0.2 degrees from the ellipsoid's: the point is off
    # by at most 0.4 % of the way, upward.
    north = np.stack([-x * z / across, -y * z / across, across]) / radius
    result: NDArray[np.float64] = (positions.T + east_m * east + north_m * north).T
    return result


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
    pictures: Pictures | None = None,
) -> Iterator[Batch]:
    """One epoch in this order, whole batches only.

    Gives this process's share of each. `start` leaves out that many batches: where a resumed
    epoch goes on. `pictures`: those of `arrays`, for another device than the CPU.
    `workers` batches are made ahead of their use; none where the pictures lie on a GPU, which
    makes them itself.
    """
    pictures = pictures or Pictures.of(arrays)
    size = recipe.batch_size
    own = processes.share(size)
    chunks = [order[i : i + size][own] for i in range(start * size, len(order) - size + 1, size)]
    uniform = generator(seed, epoch).random((len(arrays), sum(draws_of(recipe).values())))

    def batch(rows: NDArray[np.int64]) -> Batch:
        return _batch(arrays, pictures, rows, uniform[rows], recipe, epoch)

    if pictures.strips.is_cuda:
        yield from map(batch, chunks)
        return
    with ThreadPoolExecutor(workers) as ahead:
        upcoming: deque[Future[Batch]] = deque()
        for chunk in chunks:
            upcoming.append(ahead.submit(batch, chunk))
            if len(upcoming) > workers:
                yield upcoming.popleft().result()
        while upcoming:
            yield upcoming.popleft().result()


def _batch(
    arrays: Arrays,
    pictures: Pictures,
    rows: NDArray[np.int64],
    uniform: NDArray[np.float64],
    recipe: Recipe,
    epoch: int,
) -> Batch:
    draws = drawn(uniform, recipe, epoch, arrays.margin)
    at = sent(rows, pictures.strips.device)
    strips, norths, tiles = augment(
        pictures.strips.index_select(0, at).to(pictures.device, non_blocking=True),
        arrays.norths[rows],
        pictures.chips.index_select(0, at).to(pictures.device, non_blocking=True),
        arrays.margin,
        draws,
        recipe.encoder.preprocessing.fill,
    )
    pixel_m = metres_per_pixel(recipe)
    return Batch(
        strips.permute(0, 3, 1, 2),
        norths,
        tiles.permute(0, 3, 1, 2),
        torch.from_numpy(rows if arrays.tiles is None else arrays.tiles[rows]),
        torch.from_numpy(arrays.positions[rows]),
        torch.from_numpy(
            moved(arrays.positions[rows], draws.east * pixel_m, -draws.south * pixel_m)
        ),
        torch.from_numpy(rows),
    )
