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
from typing import Any, NamedTuple

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

    return altered(strips, 0), _sent(norths, strips.device), altered(tiles, 1)


def _sent(values: NDArray[Any], device: torch.device) -> Tensor:
    """On the device, which is not waited for."""
    return torch.from_numpy(values).to(device, non_blocking=True)


def _where(
    rows: NDArray[np.bool_], images: Tensor, change: Callable[[Tensor, NDArray[np.int64]], Tensor]
) -> Tensor:
    """The images, those of some rows as `change` makes them, which is given them and the rows."""
    at = np.flatnonzero(rows)
    if not len(at):
        return images
    changed = change(images.index_select(0, _sent(at, images.device)), at)
    # Rows taken from both cost a processor half of what writing into some does.
    order = np.arange(len(images))
    order[at] = len(images) + np.arange(len(at))
    return torch.cat([images, changed]).index_select(0, _sent(order, images.device))


def shifted(
    chips: Tensor, margin: int, east: NDArray[np.float64], south: NDArray[np.float64]
) -> Tensor:
    """Tiles out of chips, their centres moved by so many whole pixels each, (B,)."""
    count, size, on = len(chips), chips.shape[1], chips.device
    side = torch.arange(size - 2 * margin, device=on)
    corner = (np.arange(count) * size + margin + south) * size + margin + east
    at = _sent(corner.astype(np.int64), on)[:, None, None] + size * side[:, None] + side
    return chips.reshape(-1, 3).index_select(0, at.flatten()).view(*at.shape, 3)


def turned(tiles: Tensor, quarters: NDArray[np.float64]) -> Tensor:
    """Tiles turned counter-clockwise by so many quarters each: a quarter, and east is on top."""

    def by(quarter: int) -> Callable[[Tensor, NDArray[np.int64]], Tensor]:
        return lambda some, _: some.rot90(quarter, (1, 2))

    for quarter in (1, 2, 3):
        tiles = _where(quarters == quarter, tiles, by(quarter))
    return tiles


def facing(
    norths: NDArray[np.float64], quarters: NDArray[np.float64], flip: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Where north lies, 0 to 1, after `turned` and `mirrored` have had their way."""
    norths = norths + quarters / 4.0
    return np.where(flip, -norths, norths) % 1.0


def mirrored(strips: Tensor, tiles: Tensor, flip: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """(strips, tiles) with east for west where `flip`."""
    return (
        # The transform counts columns by index: column 0 is its own mirror image.
        _where(flip, strips, lambda some, _: some.flip(2).roll(1, 2)),
        _where(flip, tiles, lambda some, _: some.flip(2)),
    )


def blanked(strips: Tensor, rows: NDArray[np.float64], fill: Fill) -> Tensor:
    """The strips with so many rows filled at the top and at the bottom, (B, 2)."""
    row = np.arange(strips.shape[1])

    def change(some: Tensor, at: NDArray[np.int64]) -> Tensor:
        top, bottom = rows[at, None].transpose(2, 0, 1)
        lost = (row < top) | (row >= len(row) - bottom)
        return _filled(some, lost[:, :, None], fill)

    return _where(rows.sum(1) > 0.0, strips, change)


def limited(
    strips: Tensor, fov_deg: NDArray[np.float64], centre: NDArray[np.float64], fill: Fill
) -> Tensor:
    """The strips with every column more than half of `fov_deg` (B,) from `centre` (B,) filled.

    `centre` is a fraction of the width; a strip is a full turn, so the view may wrap.
    """
    columns = (np.arange(strips.shape[2]) + 0.5) / strips.shape[2]

    def change(some: Tensor, at: NDArray[np.int64]) -> Tensor:
        away = np.abs((columns - centre[at, None] + 0.5) % 1.0 - 0.5)
        lost = away > fov_deg[at, None] / 720.0
        return _filled(some, lost.repeat(3, axis=1)[:, None], fill)

    return _where(fov_deg < 360.0, strips, change)


def _filled(images: Tensor, where: NDArray[np.bool_], fill: Fill) -> Tensor:
    """Images (n, h, w, 3), `where` of (n, h or 1, w * 3 or 1): levels lie in one long row."""
    row = np.tile(np.array(fill, np.uint8), images.shape[2])
    levels = torch.where(_sent(where, images.device), _sent(row, images.device), images.flatten(2))
    return levels.view(images.shape)


def recoloured(images: Tensor, colours: NDArray[np.float64]) -> Tensor:
    """Each channel's gain, and a shift and an exponent for all: colours (B, 5), of levels 0..1."""
    if (colours == [1.0, 1.0, 1.0, 0.0, 1.0]).all():  # saves time, changes nothing
        return images
    of = _sent(colours.astype(np.float32), images.device)[:, :, None]
    gains, shift, exponent = of[:, :3], of[:, 3:4], of[:, 4:]
    levels = torch.arange(256, device=images.device) / 255.0
    # A table for each channel: 256 powers in place of one for each pixel.
    tables = (levels.pow(exponent) * gains + shift).clamp_(0.0, 1.0).mul_(255.0).round_()
    tables = tables.to(torch.uint8).flatten()  # (B * 3 * 256,)
    first = torch.arange(0, len(tables), 256, dtype=torch.int32, device=images.device)
    # Of a row of pixels, which is added faster than three channels are.
    first = first.view(-1, 1, 3).repeat(1, 1, images.shape[2])
    at = images.flatten(2).to(torch.int32).add_(first)
    return tables.index_select(0, at.flatten()).view(images.shape)


def convolved(images: Tensor, blend: NDArray[np.float64], kernels: NDArray[np.float64]) -> Tensor:
    """uint8 (B, h, w, 3) of which so much, `blend` (B,), is replaced by a correlation with a kernel
    of its own, (B, 3, 3, 3, 3), edges repeated, brought to the mean and spread that each channel
    had. What `blanked` and `limited` have filled takes part, as it does in `recoloured`."""

    def change(some: Tensor, at: NDArray[np.int64]) -> Tensor:
        share, weights = (
            _sent(one[at].astype(np.float32), images.device) for one in (blend, kernels)
        )
        share = share[:, None, None, None]
        before = some.permute(0, 3, 1, 2)
        before = before.to(torch.float32, memory_format=torch.contiguous_format)
        mean = before.mean((2, 3), keepdim=True)
        # Around 0, so that neither sum below loses its digits; the padding stays around it, too.
        before = before.sub_(mean)
        padded = functional.pad(before, (1, 1, 1, 1), mode="replicate")
        by_channel = functional.conv2d(  # a group for each image
            padded.flatten(0, 1)[None], weights.flatten(0, 1), groups=len(at)
        )
        after = by_channel.view_as(before)
        after = after.sub_(after.mean((2, 3), keepdim=True))
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
    at = _sent(rows, pictures.strips.device)
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
