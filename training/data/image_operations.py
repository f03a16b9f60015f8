"""What augmentation does to images: uint8 (B, h, w, 3), whole batches at once, where they lie.

What is drawn comes as arrays of the host, so that it is known there which rows change; a GPU is
sent it without being waited for.
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


def sent(values: NDArray[Any], device: torch.device) -> Tensor:
    """On the device, which is not waited for."""
    return torch.from_numpy(values).to(device, non_blocking=True)


def _where(
    rows: NDArray[np.bool_], images: Tensor, change: Callable[[Tensor, NDArray[np.int64]], Tensor]
) -> Tensor:
    """The images, those of some rows as `change` makes them, which is given them and the rows."""
    at = np.flatnonzero(rows)
    if not len(at):
        return images
    changed = change(images.index_select(0, sent(at, images.device)), at)
    # Rows taken from both cost a processor half of what writing into some does.
    order = np.arange(len(images))
    order[at] = len(images) + np.arange(len(at))
    return torch.cat([images, changed]).index_select(0, sent(order, images.device))


def shifted(
    chips: Tensor, margin: int, east: NDArray[np.float64], south: NDArray[np.float64]
) -> Tensor:
    """Tiles out of chips, their centres moved by so many whole pixels each, (B,)."""
    count, size, on = len(chips), chips.shape[1], chips.device
    side = torch.arange(size - 2 * margin, device=on)
    corner = (np.arange(count) * size + margin + south) * size + margin + east
    at = sent(corner.astype(np.int64), on)[:, None, None] + size * side[:, None] + side
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
    levels = torch.where(sent(where, images.device), sent(row, images.device), images.flatten(2))
    return levels.view(images.shape)


def recoloured(images: Tensor, colours: NDArray[np.float64]) -> Tensor:
    """Each channel's gain, and a shift and an exponent for all: colours (B, 5), of levels 0..1."""
    if (colours == [1.0, 1.0, 1.0, 0.0, 1.0]).all():  # saves time, changes nothing
        return images
    of = sent(colours.astype(np.float32), images.device)[:, :, None]
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
            sent(one[at].astype(np.float32), images.device) for one in (blend, kernels)
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
