"""Pair-consistent augmentation: a change of one view is matched in the other.

Every draw is a function of (seed, epoch, row), never of batch, order or worker, so a resumed run
sees the same as an uninterrupted run. Whole batches are changed at once, on the device that
trains: one pair at a time, a CPU would keep a GPU waiting.
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

from model.panorama import Band
from model.preprocessing import Preprocessing
from training import distributed
from training.data.arrays import Arrays
from training.data.image_operations import (
    Floats,
    blank_rows,
    change_colours,
    convolve,
    lean,
    limit_height,
    limit_view,
    mirror,
    quarter_turn,
    send,
    shift_tiles,
    turn_norths,
)
from training.data.sampling import generator
from training.recipes import Recipe

BLANK_SHARE = 0.45  # of the band may be lost at the top, and as much at the bottom
# Limited views. Half of those that a rectilinear lens can take are photographs, with a frame of
# so many times the width as height. All lean as a hand does.
ARC_DEG = (60.0, 180.0)
AHEAD_DEG = 120.0  # for half views: where an arc's middle may lie
RECTILINEAR_DEG = 120.0
FRAME = (9 / 16, 4 / 3)
HAND_TILT_DEG = 3.0
WHOLE = Band(90.0, -90.0)  # without a band, the strip is taken to show a whole sphere
RESIDENT_SHARE = 0.6  # of a GPU's free memory may hold images

log = logging.getLogger(__name__)


class ImageTensors(NamedTuple):
    """The images of `Arrays`, in the same shapes and rows, and the device that trains on them."""

    strips: Tensor
    chips: Tensor
    device: str

    @classmethod
    def of(cls, arrays: Arrays, device: str = "cpu") -> ImageTensors:
        """On `device` if that leaves room to train; else in main memory, sent batch by batch."""
        here = cls(torch.from_numpy(arrays.strips), torch.from_numpy(arrays.chips), device)
        if torch.device(device).type != "cuda":
            return here
        # Free the leftovers of an earlier run of this process; they would count as taken.
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
    """The random changes of B pairs, float64, (B,) if no shape is given.

    east, south: pixels by which the tile's centre moves. quarters: quarter turns of the ground,
    counter-clockwise. roll: of the street alone, as a fraction of 360 degrees. mirrored: 1 where
    east and west are exchanged. blank: (B, 2) rows lost at the top and at the bottom. arc: visible
    fraction of 360 degrees, around `arc_centre`, clockwise from north. edge: of a photograph's
    frame, see `limit_height`. tilt: degrees, towards the fraction `tilt_towards` of the width.
    colours: (B, 2, 5) for street and aerial: three gains, a shift, an exponent. blend: (B, 2),
    share of street and aerial that their convolution replaces. kernels: (B, 2, 3, 3, 3, 3):
    channels out, channels in, rows, columns.
    """

    east: Floats
    south: Floats
    quarters: Floats
    roll: Floats
    mirrored: Floats
    blank: Floats
    arc: Floats
    arc_centre: Floats
    edge: Floats
    tilt: Floats
    tilt_towards: Floats
    colours: Floats
    blend: Floats
    kernels: Floats


def draw_counts(recipe: Recipe) -> dict[str, int]:
    """How many uniform numbers a pair needs, by the change that uses them."""
    counts = {
        "shift": 2, "roll": 2, "quarter": 1, "mirror": 1, "blank": 3, "arc": 3, "frame": 2,
        "tilt": 2, "colours": 12,
    }  # fmt: skip
    # Convolution needs seven times as many numbers as all other changes.
    return counts | ({"blend": 2 * 3, "kernels": 2 * 3**4} if recipe.random_convolution else {})


def draw(uniform: Floats, recipe: Recipe, epoch: int, margin: int) -> Draws:
    """The changes that the recipe makes in an epoch, from numbers in 0..1, (B, all counts)."""
    strength = min(1.0, epoch / recipe.ramp_epochs) if recipe.ramp_epochs else 1.0
    counts = draw_counts(recipe)
    ends = np.cumsum(list(counts.values()))[:-1]
    numbers = dict(zip(counts, np.split(uniform, ends, axis=1), strict=True))
    reach = min(margin, strength * recipe.offset_m / metres_per_pixel(recipe))
    east, south = np.round(reach * (2.0 * numbers["shift"] - 1.0)).T
    noise, around = numbers["roll"].T
    roll = (2.0 * noise - 1.0) * strength * recipe.heading_noise_deg / 360.0
    if recipe.rotation == "street":
        roll = roll + around
    loses = numbers["blank"][:, :1] < strength * recipe.missing_band
    height = recipe.encoder.preprocessing.strip_size[0]
    rows = np.floor(BLANK_SHARE * height * numbers["blank"][:, 1:])
    blend, kernels = _draw_convolutions(numbers, recipe, strength)
    return Draws(
        east,
        south,
        np.floor(4.0 * numbers["quarter"][:, 0]) * (recipe.rotation == "joint"),
        roll,
        ((numbers["mirror"][:, 0] < 0.5) & recipe.mirror).astype(np.float64),
        rows * loses,
        *_draw_limited_views(numbers, strength * recipe.limited_view, recipe),
        _draw_colours(numbers["colours"], strength, recipe.colour_jitter),
        blend,
        kernels,
    )


def _draw_limited_views(
    numbers: dict[str, Floats], share: float, recipe: Recipe
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """`arc`, `arc_centre`, `edge`, `tilt` and `tilt_towards` of `Draws`."""
    chance, width, centre = numbers["arc"].T
    framed, tallness = numbers["frame"].T
    degrees, towards = numbers["tilt"].T
    narrow = chance < share
    arc_deg = np.where(narrow, _between(ARC_DEG, width), 360.0)
    photograph = (arc_deg < RECTILINEAR_DEG) & (framed < 0.5)
    edge = np.tan(np.radians(np.where(photograph, arc_deg, 0.0) / 2.0)) * _between(FRAME, tallness)
    if recipe.encoder.network.half:  # which sees nothing of an arc behind it
        centre = (centre - 0.5) * AHEAD_DEG / 360.0
    return arc_deg / 360.0, centre, edge, narrow * degrees * HAND_TILT_DEG, towards


def _between(ends: tuple[float, float], share: Floats) -> Floats:
    return ends[0] + (ends[1] - ends[0]) * share


def _draw_colours(uniform: Floats, strength: float, jitter: float) -> Floats:
    tone = (2.0 * uniform - 1.0).reshape(-1, 2, 6) * strength * jitter
    gains = 1.0 + tone[..., :1] + 0.3 * tone[..., 1:4]
    return np.concatenate([gains, 0.3 * tone[..., 4:5], np.exp(tone[..., 5:6])], -1)


def _draw_convolutions(
    numbers: dict[str, Floats], recipe: Recipe, strength: float
) -> tuple[Floats, Floats]:
    count = len(numbers["shift"])
    if not recipe.random_convolution:
        return np.zeros((count, 2)), np.zeros((count, 2, 3, 3, 3, 3))
    chance, share, point = numbers["blend"].reshape(-1, 2, 3).transpose(2, 0, 1)
    blend = share * (chance < strength * recipe.random_convolution)
    kernels = 2.0 * numbers["kernels"].reshape(count, 2, 3, 3, 3, 3) - 1.0
    middle = np.pad([[1.0]], 1)  # half of the kernels keep one pixel: they only mix channels
    kernels *= np.where(point[..., None, None, None, None] < 0.5, middle, 1.0)
    return blend, kernels


def metres_per_pixel(recipe: Recipe) -> float:
    """Ground resolution of the network's aerial view."""
    return recipe.encoder.aerial_footprint_m / recipe.encoder.preprocessing.input_size


def augment(
    strips: Tensor,
    norths: Floats,
    chips: Tensor,
    margin: int,
    draws: Draws,
    preprocessing: Preprocessing,
) -> tuple[Tensor, Tensor, Tensor]:
    """(strips, norths, tiles) of B pairs after their changes, on the device of the images.

    strips: uint8 (B, h, w, 3). norths: (B,). chips: uint8 (B, P, P, 3), the tile and `margin`
    pixels around it.
    """
    mirrored = draws.mirrored > 0.0
    norths = turn_norths(norths + draws.roll, draws.quarters, mirrored)
    tiles = quarter_turn(shift_tiles(chips, margin, draws.east, draws.south), draws.quarters)
    strips, tiles = mirror(strips, tiles, mirrored)

    def recolour(images: Tensor, view: int) -> Tensor:
        images = change_colours(images, draws.colours[:, view])
        return convolve(images, draws.blend[:, view], draws.kernels[:, view])

    # Fill comes last: its colour is the same in every image that the service encodes.
    strips = _change_view(recolour(strips, 0), norths, draws, preprocessing)
    return strips, send(norths, strips.device), recolour(tiles, 1)


def _change_view(
    strips: Tensor, norths: Floats, draws: Draws, preprocessing: Preprocessing
) -> Tensor:
    """Strips of cameras that lean, and that saw only a part."""
    height, fill = strips.shape[1], preprocessing.fill
    band = preprocessing.band or WHOLE
    degrees_per_row = (band.top_deg - band.bottom_deg) / height
    elevations_deg = band.top_deg - (np.arange(height, dtype=np.float64) + 0.5) * degrees_per_row
    strips = lean(strips, draws.tilt / degrees_per_row, draws.tilt_towards)
    strips = blank_rows(strips, draws.blank, fill)
    centre = norths + draws.arc_centre
    strips = limit_view(strips, 360.0 * draws.arc, centre, fill)
    return limit_height(strips, draws.edge, centre, elevations_deg, fill)


def move_points(positions: Floats, east_m: Floats, north_m: Floats) -> Floats:
    """Points (B, 3) moved along the ground's tangent plane (NaN stays NaN)."""
    x, y, z = positions.T
    across = np.hypot(x, y)
    radius = np.hypot(across, z)
    east = np.stack([-y, x, np.zeros_like(x)]) / across
    # The geocentric vertical differs by at most 0.2 degrees from the ellipsoid's: the moved point
    # is too high by at most 0.4 % of the way.
    north = np.stack([-x * z / across, -y * z / across, across]) / radius
    moved: Floats = (positions.T + east_m * east + north_m * north).T
    return moved


class Batch(NamedTuple):
    """B augmented pairs.

    strips: uint8 (B, 3, h, w). norths: (B,). tiles: uint8 (B, 3, S, S). ids: int64 (B,), equal for
    pairs of one tile. street_positions, tile_positions (of the centres): (B, 3), earth-centred
    metres. rows: int64 (B,), the pairs' rows in their arrays; empty if they have none.
    """

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
    images: ImageTensors | None = None,
) -> Iterator[Batch]:
    """This process's share of each whole batch of an epoch.

    Args:
        order: the pairs in the order in which the epoch takes them.
        start: batches to leave out, for an epoch that resumes.
        workers: batches made ahead of their use. A GPU that holds the images makes none ahead.
        images: the images of `arrays`, for another device than the CPU.
    """
    images = images or ImageTensors.of(arrays)
    size = recipe.batch_size
    own = distributed.own_rows(size)
    chunks = [order[i : i + size][own] for i in range(start * size, len(order) - size + 1, size)]
    uniform = generator(seed, epoch).random((len(arrays), sum(draw_counts(recipe).values())))

    def batch(rows: NDArray[np.int64]) -> Batch:
        draws = draw(uniform[rows], recipe, epoch, arrays.margin)
        return _batch(arrays, images, rows, draws, recipe)

    if images.strips.is_cuda:
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
    arrays: Arrays, images: ImageTensors, rows: NDArray[np.int64], draws: Draws, recipe: Recipe
) -> Batch:
    at = send(rows, images.strips.device)
    strips, norths, tiles = augment(
        images.strips.index_select(0, at).to(images.device, non_blocking=True),
        arrays.norths[rows],
        images.chips.index_select(0, at).to(images.device, non_blocking=True),
        arrays.margin,
        draws,
        recipe.encoder.preprocessing,
    )
    scale = metres_per_pixel(recipe)
    positions = arrays.positions[rows]
    return Batch(
        strips.permute(0, 3, 1, 2),
        norths,
        tiles.permute(0, 3, 1, 2),
        torch.from_numpy(rows if arrays.tiles is None else arrays.tiles[rows]),
        torch.from_numpy(positions),
        torch.from_numpy(move_points(positions, draws.east * scale, -draws.south * scale)),
        torch.from_numpy(rows),
    )
