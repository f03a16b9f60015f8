"""Image operations of augmentation: uint8 (B, h, w, 3), whole batches, on the images' device.

Random draws come as arrays in main memory, so the CPU knows which rows change; they are sent to a
GPU without waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Fill = tuple[int, int, int]
Floats = NDArray[np.float64]


def send(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor on a device, without waiting for the device."""
    return torch.from_numpy(values).to(device, non_blocking=True)


def _change_rows(
    where: NDArray[np.bool_], images: Tensor, change: Callable[[Tensor, NDArray[np.int64]], Tensor]
) -> Tensor:
    """The images with some rows replaced by `change(those images, their row numbers)`."""
    rows = np.flatnonzero(where)
    if not len(rows):
        return images
    changed = change(images.index_select(0, send(rows, images.device)), rows)
    # Selecting from both costs a CPU half as much as writing into some rows.
    order = np.arange(len(images))
    order[rows] = len(images) + np.arange(len(rows))
    return torch.cat([images, changed]).index_select(0, send(order, images.device))


def shift_tiles(chips: Tensor, margin: int, east: Floats, south: Floats) -> Tensor:
    """Tiles cut from chips, with their centres moved by whole pixels, (B,)."""
    count, size, device = len(chips), chips.shape[1], chips.device
    side = torch.arange(size - 2 * margin, device=device)
    corner = (np.arange(count) * size + margin + south) * size + margin + east
    pixels = send(corner.astype(np.int64), device)[:, None, None] + size * side[:, None] + side
    return chips.reshape(-1, 3).index_select(0, pixels.flatten()).view(*pixels.shape, 3)


def quarter_turn(tiles: Tensor, quarters: Floats) -> Tensor:
    """Rotate each tile counter-clockwise by quarter turns, (B,); after one, east is on top."""

    def change(some: Tensor, rows: NDArray[np.int64]) -> Tensor:
        return some.rot90(int(quarters[rows[0]]), (1, 2))

    for quarter in (1, 2, 3):
        tiles = _change_rows(quarters == quarter, tiles, change)
    return tiles


def turn_norths(norths: Floats, quarters: Floats, mirrored: NDArray[np.bool_]) -> Floats:
    """The fraction of the width that faces north, 0 to 1, after `quarter_turn` and `mirror`."""
    norths = norths + quarters / 4.0
    return np.where(mirrored, -norths, norths) % 1.0


def mirror(strips: Tensor, tiles: Tensor, mirrored: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """(strips, tiles) with east and west exchanged where `mirrored`, (B,)."""
    return (
        # The projection counts columns by index: column 0 is its own mirror image.
        _change_rows(mirrored, strips, lambda some, _: some.flip(2).roll(1, 2)),
        _change_rows(mirrored, tiles, lambda some, _: some.flip(2)),
    )


def blank_rows(strips: Tensor, rows: Floats, fill: Fill) -> Tensor:
    """Fill so many rows at the top and at the bottom of each strip, (B, 2)."""
    row = np.arange(strips.shape[1])

    def change(some: Tensor, at: NDArray[np.int64]) -> Tensor:
        top, bottom = rows[at, None].transpose(2, 0, 1)
        lost = (row < top) | (row >= len(row) - bottom)
        return _fill(some, lost[:, :, None], fill)

    return _change_rows(rows.sum(1) > 0.0, strips, change)


def limit_view(strips: Tensor, fov_deg: Floats, centre: Floats, fill: Fill) -> Tensor:
    """Fill every column more than half of `fov_deg` (B,) away from `centre` (B,).

    `centre` is a fraction of the width; a strip spans 360 degrees, so the view may wrap.
    """

    def change(some: Tensor, at: NDArray[np.int64]) -> Tensor:
        lost = np.abs(_turns_from(centre[at], some)) > fov_deg[at, None] / 720.0
        return _fill(some, lost.repeat(3, axis=1)[:, None], fill)

    return _change_rows(fov_deg < 360.0, strips, change)


def limit_height(
    strips: Tensor, edge: Floats, centre: Floats, elevations_deg: Floats, fill: Fill
) -> Tensor:
    """Fill what lies above and below the frames of photographs, (B,); 0: no frame.

    edge: tangent of the elevation at the middle of the upper edge; the lower edge is as far from
    the horizon. centre: as in `limit_view`. elevations_deg: of the strip's rows, (h,).
    """

    def change(some: Tensor, at: NDArray[np.int64]) -> Tensor:
        # A rectilinear image's edges are straight: at an azimuth a, tan(elevation) = edge * cos(a).
        ahead = np.cos(2.0 * np.pi * _turns_from(centre[at], some)).clip(0.0)
        limits = (edge[at, None] * ahead)[:, None]
        lost = np.abs(np.tan(np.radians(elevations_deg)))[:, None] > limits
        return _fill(some, lost.repeat(3, axis=2), fill)

    return _change_rows(edge > 0.0, strips, change)


def lean(strips: Tensor, pixels: Floats, towards: Floats) -> Tensor:
    """Strips of cameras that look down by so many rows (B,) towards an azimuth (B,).

    `towards` is a fraction of the width. The content rises there and falls at the opposite
    azimuth; the outermost row is repeated. Columns stay: below the horizon they would move by as
    much as tan(elevation) times the tilt.
    """
    height, width = strips.shape[1:3]

    def change(some: Tensor, at: NDArray[np.int64]) -> Tensor:
        shift = np.round(pixels[at, None] * np.cos(2.0 * np.pi * _turns_from(towards[at], some)))
        rows = (np.arange(height)[:, None] + shift[:, None]).clip(0, height - 1)
        first = (np.arange(len(at)) * height)[:, None, None]
        taken = ((first + rows) * width + np.arange(width)).astype(np.int64)
        pixel = some.reshape(-1, 3).index_select(0, send(taken.ravel(), some.device))
        return pixel.view(some.shape)

    return _change_rows(pixels != 0.0, strips, change)


def _turns_from(centre: Floats, strips: Tensor) -> Floats:
    """How far each column lies to the right of `centre`, (n, w), in turns from -0.5 to 0.5."""
    columns = (np.arange(strips.shape[2]) + 0.5) / strips.shape[2]
    turns: Floats = (columns - centre[:, None] + 0.5) % 1.0 - 0.5
    return turns


def _fill(images: Tensor, where: NDArray[np.bool_], fill: Fill) -> Tensor:
    """Images (n, h, w, 3) filled at `where`, (n, h or 1, w * 3 or 1): columns times channels."""
    row = np.tile(np.array(fill, np.uint8), images.shape[2])
    levels = torch.where(send(where, images.device), send(row, images.device), images.flatten(2))
    return levels.view(images.shape)


def change_colours(images: Tensor, colours: Floats) -> Tensor:
    """Apply (B, 5) to levels in 0..1: a gain for each channel, a shift and an exponent for all."""
    if (colours == [1.0, 1.0, 1.0, 0.0, 1.0]).all():  # saves time, changes nothing
        return images
    sent = send(colours.astype(np.float32), images.device)[:, :, None]
    gains, shift, exponent = sent[:, :3], sent[:, 3:4], sent[:, 4:]
    levels = torch.arange(256, device=images.device) / 255.0
    # A table for each channel: 256 powers instead of a power for each pixel.
    tables = (levels.pow(exponent) * gains + shift).clamp_(0.0, 1.0).mul_(255.0).round_()
    tables = tables.to(torch.uint8).flatten()  # (B * 3 * 256,)
    first = torch.arange(0, len(tables), 256, dtype=torch.int32, device=images.device)
    # Repeated over a row of pixels: adding that is faster than adding three channels.
    first = first.view(-1, 1, 3).repeat(1, 1, images.shape[2])
    at = images.flatten(2).to(torch.int32).add_(first)
    return tables.index_select(0, at.flatten()).view(images.shape)


def convolve(images: Tensor, blend: Floats, kernels: Floats) -> Tensor:
    """Replace a share of each image, `blend` (B,), by the image correlated with its own kernel.

    kernels: (B, 3, 3, 3, 3): channels out, channels in, rows, columns. Edges are repeated. The
    result gets the mean and spread that each channel had before.
    """

    def change(some: Tensor, at: NDArray[np.int64]) -> Tensor:
        share, weights = (
            send(values[at].astype(np.float32), images.device) for values in (blend, kernels)
        )
        share = share[:, None, None, None]
        before = some.permute(0, 3, 1, 2)
        before = before.to(torch.float32, memory_format=torch.contiguous_format)
        mean = before.mean((2, 3), keepdim=True)
        # Centred on 0, so that the sums below lose no digits; the padding is centred as well.
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

    return _change_rows(blend > 0.0, images, change)


def _spread(levels: Tensor) -> Tensor:
    """Standard deviation of each channel, (B, 3, 1, 1), of levels with mean 0."""
    flat = levels.flatten(2)
    spread: Tensor = torch.linalg.vector_norm(flat, dim=2) / flat.shape[2] ** 0.5
    return spread[..., None, None]
