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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training import processes
from training.pairs import Arrays
from training.recipes import Recipe
from training.sampling import generator

BLANK_SHARE = 0.45  # at most so much of the band is lost at the top, and at the bottom
ARC_DEG = (60.0, 300.0)  # what a limited view keeps
RESIDENT_SHARE = 0.6  # of a GPU's free memory may be filled by the pictures

Fill = tuple[int, int, int]

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
    strips: Tensor, norths: Tensor, chips: Tensor, margin: int, draws: Draws, fill: Fill
) -> tuple[Tensor, Tensor, Tensor]:
    """(strips, norths, tiles) of B pairs after what was drawn, on the device of the pictures.

    strips: uint8 (B, h, w, 3). norths: float64 (B,). chips: uint8 (B, P, P, 3), the tile and
    `margin` pixels around it.
    """
    *others, blend, kernels = draws
    east, south, quarters, turn, flip, blank, arc, arc_centre, colours = (
        torch.from_numpy(one).to(strips.device, non_blocking=True) for one in others
    )
    tiles = shifted(chips, margin, east.long(), south.long())
    norths = norths.to(strips.device, non_blocking=True) + turn
    tiles, norths = turned(tiles, norths, quarters.long())
    strips, norths, tiles = mirrored(strips, norths, tiles, flip.bool())
    strips = _where(
        draws.blank.sum(1) > 0.0, strips, lambda some, at: blanked(some, blank[at].long(), fill)
    )
    strips = _where(
        draws.arc < 1.0,
        strips,
        lambda some, at: limited(some, 360.0 * arc[at], arc_centre[at], fill),
    )
    if bool((draws.colours != [1.0, 1.0, 1.0, 0.0, 1.0]).any()):  # saves time, changes nothing
        strips, tiles = recoloured(strips, colours[:, 0]), recoloured(tiles, colours[:, 1])
    strips = convolved(strips, blend[:, 0], kernels[:, 0])
    tiles = convolved(tiles, blend[:, 1], kernels[:, 1])
    return strips, norths % 1.0, tiles


def _where(
    rows: NDArray[np.bool_], images: Tensor, change: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The images, those of some rows as `change` makes them, which is given them and the rows."""
    if not rows.any():
        return images
    at = torch.from_numpy(np.flatnonzero(rows)).to(images.device, non_blocking=True)
    return images.index_copy(0, at, change(images[at], at))


def shifted(chips: Tensor, margin: int, east: Tensor, south: Tensor) -> Tensor:
    """Tiles out of chips, their centres moved by so many pixels each, int64 (B,)."""
    side = torch.arange(chips.shape[1] - 2 * margin, device=chips.device)
    pair = torch.arange(len(chips), device=chips.device)
    rows = (margin + south)[:, None] + side
    columns = (margin + east)[:, None] + side
    return chips[pair[:, None, None], rows[:, :, None], columns[:, None, :]]


def turned(tiles: Tensor, norths: Tensor, quarters: Tensor) -> tuple[Tensor, Tensor]:
    """(tiles, norths) of pairs whose ground is turned by so many quarters; north may pass 1."""
    # Turned counter-clockwise by a quarter, a tile has its east on top.
    ways = torch.stack([tiles.rot90(quarter, (1, 2)) for quarter in range(4)])
    pair = torch.arange(len(tiles), device=tiles.device)
    return ways[quarters, pair], norths + quarters / 4.0


def mirrored(
    strips: Tensor, norths: Tensor, tiles: Tensor, flip: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(strips, norths, tiles) with east for west where `flip`; north changes its sign."""
    where = flip.view(-1, 1, 1, 1)
    # The transform counts columns by index: column 0 is its own mirror image.
    return (
        torch.where(where, strips.flip(2).roll(1, 2), strips),
        torch.where(flip, -norths, norths),
        torch.where(where, tiles.flip(2), tiles),
    )


def blanked(strips: Tensor, rows: Tensor, fill: Fill) -> Tensor:
    """The strips with so many rows filled at the top and at the bottom, int64 (B, 2)."""
    height = strips.shape[1]
    row = torch.arange(height, device=strips.device)
    lost = (row < rows[:, :1]) | (row >= height - rows[:, 1:])
    return _filled(strips, lost[:, :, None, None], fill)


def limited(strips: Tensor, fov_deg: Tensor, centre: Tensor, fill: Fill) -> Tensor:
    """The strips with every column more than half of `fov_deg` (B,) from `centre` (B,) filled.

    `centre` is a fraction of the width; a strip is a full turn, so the view may wrap.
    """
    width = strips.shape[2]
    columns = (torch.arange(width, dtype=torch.float64, device=strips.device) + 0.5) / width
    away = ((columns - centre[:, None] + 0.5) % 1.0 - 0.5).abs()
    return _filled(strips, (away > fov_deg[:, None] / 720.0)[:, None, :, None], fill)


def _filled(images: Tensor, where: Tensor, fill: Fill) -> Tensor:
    colour = torch.tensor(fill, dtype=images.dtype).to(images.device, non_blocking=True)
    return torch.where(where, colour, images)


def recoloured(images: Tensor, colours: Tensor) -> Tensor:
    """Each channel's gain, and a shift and an exponent for all: colours (B, 5), of levels 0..1."""
    colours = colours.float()[:, :, None]
    gains, shift, exponent = colours[:, :3], colours[:, 3:4], colours[:, 4:]
    levels = torch.arange(256, device=images.device) / 255.0
    # A table for each channel: 256 powers in place of one for each pixel.
    tables = (levels.pow(exponent) * gains + shift).clamp_(0.0, 1.0).mul_(255.0).round_()
    tables = tables.to(torch.uint8).flatten()  # (B * 3 * 256,)
    first = torch.arange(0, len(tables), 256, dtype=torch.int32, device=images.device)
    at = images.to(torch.int32).add_(first.view(-1, 1, 1, 3))
    return tables.index_select(0, at.flatten()).view(images.shape)


def convolved(images: Tensor, blend: NDArray[np.float64], kernels: NDArray[np.float64]) -> Tensor:
    """uint8 (B, h, w, 3) of which so much, `blend` (B,), is replaced by a correlation with a kernel
    of its own, (B, 3, 3, 3, 3), edges repeated, brought to the mean and spread that each channel
    had. What `blanked` and `limited` have filled takes part, as it does in `recoloured`."""
    share_of, weights_of = (
        torch.from_numpy(one.astype(np.float32)).to(images.device, non_blocking=True)
        for one in (blend, kernels)
    )

    def change(some: Tensor, at: Tensor) -> Tensor:
        before = some.permute(0, 3, 1, 2)
        before = before.to(torch.float32, memory_format=torch.contiguous_format)
        mean = before.mean((2, 3), keepdim=True)
        # Around 0, so that neither sum below loses its digits; the padding stays around it, too.
        before = before.sub_(mean)
        padded = functional.pad(before, (1, 1, 1, 1), mode="replicate")
        by_channel = functional.conv2d(  # a group for each image
            padded.flatten(0, 1)[None], weights_of[at].flatten(0, 1), groups=len(at)
        )
        after = by_channel.view_as(before)
        after = after.sub_(after.mean((2, 3), keepdim=True))
        share = share_of[at, None, None, None]
        gain = share * _spread(before) / _spread(after).clamp(min=1e-3)
        levels = before.mul_(1.0 - share).add_(mean).addcmul_(after, gain)
        return levels.clamp_(0.0, 255.0).round_().to(torch.uint8).permute(0, 2, 3, 1)

    return _where(blend > 0.0, images, change)


def _spread(levels: Tensor) -> Tensor:
    """Of each channel, (B, 3, 1, 1), levels being around 0."""
    flat = levels.flatten(2)
    spread: Tensor = torch.linalg.vector_norm(flat, dim=2) / flat.shape[2] ** 0.5
    return spread[..., None, None]


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
    at = torch.from_numpy(rows).to(pictures.strips.device, non_blocking=True)
    strips, norths, tiles = augment(
        pictures.strips[at].to(pictures.device, non_blocking=True),
        torch.from_numpy(arrays.norths[rows]),
        pictures.chips[at].to(pictures.device, non_blocking=True),
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
