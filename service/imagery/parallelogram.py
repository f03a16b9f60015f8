"""A piece of ground in a raster's pixel coordinates, and its picture sampled from them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from service.imagery.source import Picture

Points = NDArray[np.float64]  # (2,) or (N, 2): columns, rows; the first pixel spans 0 to 1

MIN_WEIGHT = 0.25  # share of a pixel that imagery must cover for its colour to be known
MAX_RESIDUAL = 1.25  # source pixels per sample beyond which bilinear sampling would alias


class Patch(NamedTuple):
    """A rectangle of ground in pixel coordinates: its north-west corner and its sides to the east
    and south."""

    corner: Points
    east: Points
    south: Points

    @classmethod
    def through(cls, corners: Points) -> Patch:
        """The parallelogram nearest to four corners NW, NE, SE, SW (least squares)."""
        nw, ne, se, sw = corners
        east, south = (ne - nw + se - sw) / 2.0, (sw - nw + se - ne) / 2.0
        return cls(corners.mean(axis=0) - east / 2.0 - south / 2.0, east, south)

    def corners(self) -> Points:
        """NW, NE, SE, SW."""
        nw, ne, sw = self.corner, self.corner + self.east, self.corner + self.south
        return np.stack([nw, ne, ne + self.south, sw])

    def moved(self, left: int, top: int) -> Patch:
        """Seen from the pixel (left, top) as origin."""
        return self._replace(corner=self.corner - np.array([left, top]))

    def scaled(self, scale: Points) -> Patch:
        """In pixels that are 1 / `scale` (columns, rows) as large."""
        return Patch(self.corner * scale, self.east * scale, self.south * scale)

    def window(self, factors: NDArray[np.int_], size: tuple[int, int]) -> Window | None:
        """The whole multiples of `factors` pixels that hold the patch, within the raster."""
        at = self.corners()
        if not np.isfinite(at).all():
            return None
        low = np.maximum(0, np.floor(at.min(axis=0) / factors - 2) * factors).astype(int)
        high = np.minimum(size, np.ceil(at.max(axis=0) / factors + 2) * factors).astype(int)
        width, height = (int(v) for v in high - low)
        return Window(int(low[0]), int(low[1]), width, height) if min(width, height) > 0 else None

    def inside(self, shape: tuple[int, int]) -> bool:
        """Whether every bilinear sample lies within an image of this shape."""
        at = self.corners()
        return bool((at >= 0.0).all() and (at <= np.array([shape[1], shape[0]])).all())

    def step(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Source pixels (columns, rows) to one of `shape` (rows, columns) that the patch fills."""
        return np.hypot(self.east / shape[1], self.south / shape[0])

    def sample(self, image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
        """(h, w[, 3]) to (*shape[, 3]); pixel centres at +0.5, zero outside."""
        finer = max(1, math.ceil(float(self.step(shape).max()) / MAX_RESIDUAL))
        height, width = shape[0] * finer, shape[1] * finer
        (a, d), (b, e), (c, f) = self.east / width, self.south / height, self.corner
        sampled = Image.fromarray(image).transform(
            (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
        )
        return np.array(sampled.reduce(finer) if finer > 1 else sampled)


class View(NamedTuple):
    """Ground as seen in one raster, to be completed by others, cut into tiles, or finished.

    light: (H, W, 3), the samples' colours times their weight.
    weight: (H, W) in 0..1, the share of each pixel's samples that lie on imagery.
    seen: (H, W), whether the pixel shows something: not where weight is 0.
    """

    light: NDArray[np.uint8] | NDArray[np.float32]
    weight: NDArray[np.float32]
    seen: NDArray[np.bool_]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> View:
        """Of no imagery at all."""
        dark = np.zeros((*shape, 3), np.float32)
        return cls(dark, dark[..., 0], dark[..., 0] > 0.0)

    def columns(self, left: int, width: int) -> View:
        """A part as high as the whole."""
        part = slice(left, left + width)
        return View(self.light[:, part].copy(), self.weight[:, part], self.seen[:, part])

    def over(self, below: View) -> View:
        """This view, and the one below wherever this one shows nothing, wholly or in part."""
        top = self.weight * self.seen
        rest = 1.0 - top
        return View(
            self.light * self.seen[..., None] + below.light * rest[..., None],
            top + below.weight * rest,
            self.seen | below.seen,
        )

    def picture(self) -> Picture:
        """The colours; pixels with hardly any imagery take the mean of the others."""
        if self.light.dtype == np.uint8 and self.weight.min() >= 1.0:
            return Picture(self.light.astype(np.uint8, copy=False), float(self.seen.mean()))
        covered = self.weight >= MIN_WEIGHT
        valid = float((covered & self.seen).mean())
        if not covered.any():
            return Picture(np.zeros(self.light.shape, np.uint8), valid)
        colours = self.light / np.maximum(self.weight, MIN_WEIGHT)[..., None]
        if not covered.all():
            colours[~covered] = colours[covered].mean(axis=0)
        return Picture(colours.round().clip(0.0, 255.0).astype(np.uint8), valid)
