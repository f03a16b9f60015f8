"""Street panoramas seen from above: the paper's inverse polar transform, and the ground plane.

Pure, differentiable torch functions; the sampling grids are cached beside them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from model.panorama import Band

North = float | Tensor
LITERAL_NORTH = 0.75  # the column fraction that eq. 2, taken to the letter, turns upward


def inverse_polar_transform(panorama: Tensor, size: int = 288, *, north: North = 0.5) -> Tensor:
    """The paper's inverse polar transform (IPT), eq. 1 and 2, bilinear.

    Args:
        panorama: float (..., C, H, W): a full turn. The bottom row becomes the centre, the top
            row the corners.
        size: side of the square result in pixels.
        north: fraction of the width that faces north: one number, or a tensor of the leading
            shape. 0.5 where the centre column faces north; 0.75 gives eq. 2 to the letter.

    Returns:
        (..., C, size, size), north up.

    Convention:
        dx, dy from the square's centre (size - 1) / 2, in pixel centres, dy downward.
        eq. 1: y_s = sqrt(2) * H / size * sqrt(dx^2 + dy^2), upward from the bottom row. So the
        array row is H - 1 - y_s. sqrt(2) puts the top row on the circumscribed circle.
        eq. 2: x_s = W / 2pi * atan2(dy, dx), turned by (north - 0.75) * W; wraps modulo W.
        Rows beyond the first and last repeat them.
    """
    height = panorama.shape[-2]
    radius, angle = _rays(size, panorama.device)
    rows = (height - 1) - math.sqrt(2.0) * height / size * radius
    return _sample(panorama, rows, angle, north)


def ground_plane_projection(
    panorama: Tensor,
    size: int,
    *,
    band: Band,
    span_m: float,
    camera_height_m: float,
    north: North = 0.5,
) -> Tensor:
    """A metric view of flat ground from above, bilinear.

    The camera sees a ground point at range r at elevation -atan(camera_height_m / r).

    Args:
        panorama: float (..., C, H, W): a full turn between the elevations of `band`.
        size: side of the square result in pixels; it spans `span_m` metres of ground.
        camera_height_m: assumed height of the camera above the ground.
        north: as in `inverse_polar_transform`.

    Returns:
        (..., C, size, size), north up. Ground nearer than the band reaches repeats its last row.
    """
    height = panorama.shape[-2]
    radius, angle = _rays(size, panorama.device)
    metres = radius * (span_m / size)
    elevation = -torch.rad2deg(torch.atan2(torch.full_like(metres, camera_height_m), metres))
    rows = (band.top_deg - elevation) / (band.top_deg - band.bottom_deg) * height - 0.5
    return _sample(panorama, rows, angle, north)


@lru_cache(maxsize=32)
def _rays(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Distance in pixels from the centre, and atan2(dy, dx) as a fraction of a turn."""
    # Plain tensors even when first called under inference_mode: the cache outlives the caller.
    with torch.inference_mode(False):
        offsets = torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2.0
        dy, dx = torch.meshgrid(offsets, offsets, indexing="ij")
        return torch.hypot(dx, dy), torch.atan2(dy, dx) / (2.0 * math.pi)


def _sample(panorama: Tensor, rows: Tensor, angle: Tensor, north: North) -> Tensor:
    """Bilinear lookup at float64 rows (S, S) and turn fractions (S, S), columns wrapping."""
    lead, (channels, height, width) = panorama.shape[:-3], panorama.shape[-3:]
    flat = panorama.reshape(-1, channels, height, width)
    count = flat.shape[0]
    norths = torch.as_tensor(north, dtype=torch.float64, device=panorama.device)
    norths = norths.expand(lead).reshape(count, 1, 1)
    columns = angle + (norths - LITERAL_NORTH)
    columns -= columns.floor()
    # One wrapped column makes the seam an ordinary neighbour: x in [0, W] maps to [-1, 1].
    wrapped = torch.cat([flat, flat[..., :1]], dim=-1)
    grid = panorama.new_empty((*columns.shape, 2))
    grid[..., 0] = 2.0 * columns - 1.0
    grid[..., 1] = 2.0 * rows / (height - 1) - 1.0
    sampled = functional.grid_sample(
        wrapped, grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return sampled.reshape(*lead, channels, *rows.shape)
