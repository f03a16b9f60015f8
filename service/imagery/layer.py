"""Ground as one raster shows it: where it lies in the raster's pixels, and the pixels seen there.

A rectangle of ground is a parallelogram in the raster. So an affine map leads from the unit square,
with (0, 0) in the north-west and (1, 0) in the north-east, to (column, row).
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine
from rasterio.windows import Window

from model.images import Rgb
from service.imagery.source import TileImage

T = TypeVar("T", np.uint8, np.float32)
Points = NDArray[np.float64]  # (N, 2): columns, rows; the first pixel spans 0 to 1

MAX_RESIDUAL = 1.25  # source pixels per sample; beyond, bilinear sampling would alias
MIN_WEIGHT = 0.25  # share of a pixel that imagery must cover for its colour to be known


def map_to(corners: Points) -> Affine:
    """The map to the parallelogram nearest to corners NW, NE, SE, SW (least squares)."""
    nw, ne, se, sw = corners
    east, south = (ne - nw + se - sw) / 2.0, (sw - nw + se - ne) / 2.0
    corner = corners.mean(axis=0) - east / 2.0 - south / 2.0
    return Affine(east[0], south[0], corner[0], east[1], south[1], corner[1])


def corners_of(ground: Affine) -> Points:
    """NW, NE, SE, SW in pixels."""
    east, south, nw = np.array(ground.column_vectors)
    return np.stack([nw, nw + east, nw + east + south, nw + south])


def window_of(
    ground: Affine, size: tuple[int, int], factors: NDArray[np.int_] | int = 1
) -> Window | None:
    """The part of a raster of `size` (columns, rows) that holds the ground.

    The part begins and ends at multiples of `factors` pixels, or at the raster's edge. None where
    the raster does not reach the ground.
    """
    at = corners_of(ground)
    if not np.isfinite(at).all():
        return None
    low = np.maximum(0, np.floor(at.min(axis=0) / factors - 2) * factors).astype(int)
    high = np.minimum(size, np.ceil(at.max(axis=0) / factors + 2) * factors).astype(int)
    width, height = (int(v) for v in high - low)
    return Window(int(low[0]), int(low[1]), width, height) if min(width, height) > 0 else None


def pixels_per_sample(ground: Affine, shape: tuple[int, int]) -> NDArray[np.float64]:
    """(columns, rows), for `shape` (rows, columns) samples of the ground."""
    east, south, _ = np.array(ground.column_vectors)
    return np.asarray(np.hypot(east / shape[1], south / shape[0]))


class Layer(NamedTuple):
    """North-up pixels of some ground, to be laid over other layers, sliced into tiles or finished.

    light: (H, W, 3), the samples' colours times their weight.
    weight: (H, W) in 0..1, the share of each pixel's samples that lie on imagery.
    seen: (H, W), whether the pixel shows something; False where weight is 0.
    """

    light: NDArray[np.uint8] | NDArray[np.float32]
    weight: NDArray[np.float32]
    seen: NDArray[np.bool_]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Layer:
        """A layer without imagery."""
        dark = np.zeros((*shape, 3), np.float32)
        return cls(dark, dark[..., 0], dark[..., 0] > 0.0)

    @classmethod
    def sampled(
        cls, rgb: Rgb, mask: NDArray[np.uint8] | None, ground: Affine, shape: tuple[int, int]
    ) -> Layer:
        """Bilinear samples of the ground in an image (h, w, 3).

        Args:
            mask: (h, w), how much of each pixel is imagery, 0 to 255; None: all of every pixel.
        """
        size, at = rgb.shape[1::-1], corners_of(ground)
        weight = np.ones(shape, np.float32)
        if mask is not None and mask.min() < 255:
            share = mask.astype(np.float32) / np.float32(255.0)
            bands = [_sample(rgb[..., band] * share, ground, shape) for band in range(3)]
            light, weight = np.stack(bands, axis=-1), _sample(share, ground, shape)
        else:
            light = _sample(rgb, ground, shape)
            if not ((at >= 0.0) & (at <= size)).all():
                whole = np.full(rgb.shape[:2], 255, np.uint8)
                weight = _sample(whole, ground, shape).astype(np.float32) / 255.0
        # Without a declared mask, a collar without imagery is exactly black. Such pixels are
        # counted but left, since shadows may be as black.
        return cls(light, weight, weight > 0.0 if mask is not None else light.max(axis=-1) > 0)

    def columns(self, left: int, width: int) -> Layer:
        """The columns of pixels from `left` on, at full height."""
        part = slice(left, left + width)
        return Layer(self.light[:, part].copy(), self.weight[:, part], self.seen[:, part])

    def over(self, below: Layer) -> Layer:
        """This layer, completed by the layer below wherever this layer lacks imagery."""
        top = self.weight * self.seen
        rest = 1.0 - top
        return Layer(
            self.light * self.seen[..., None] + below.light * rest[..., None],
            top + below.weight * rest,
            self.seen | below.seen,
        )

    def image(self) -> TileImage:
        """The colours; pixels with hardly any imagery take the mean colour of the others."""
        if self.light.dtype == np.uint8 and self.weight.min() >= 1.0:
            return TileImage(self.light.astype(np.uint8, copy=False), float(self.seen.mean()))
        covered = self.weight >= MIN_WEIGHT
        valid = float((covered & self.seen).mean())
        if not covered.any():
            return TileImage(np.zeros(self.light.shape, np.uint8), valid)
        colours = self.light / np.maximum(self.weight, MIN_WEIGHT)[..., None]
        if not covered.all():
            colours[~covered] = colours[covered].mean(axis=0)
        return TileImage(colours.round().clip(0.0, 255.0).astype(np.uint8), valid)


def _sample(image: NDArray[T], ground: Affine, shape: tuple[int, int]) -> NDArray[T]:
    """(h, w[, 3]) to (*shape[, 3]), bilinear; pixel centres at +0.5, zero outside."""
    finer = max(1, math.ceil(float(pixels_per_sample(ground, shape).max()) / MAX_RESIDUAL))
    height, width = shape[0] * finer, shape[1] * finer
    a, b, c, d, e, f = ground[:6]
    affine = (a / width, b / height, c, d / width, e / height, f)
    sampled = Image.fromarray(image).transform(
        (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    return np.array(sampled.reduce(finer) if finer > 1 else sampled)
