"""A rectangle of ground as it lies in a raster's pixels, and the samples taken there."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

Points = NDArray[np.float64]  # (2,) or (N, 2): columns, rows; the first pixel spans 0 to 1

MAX_RESIDUAL = 1.25  # source pixels per sample; beyond, bilinear sampling would alias


class Parallelogram(NamedTuple):
    """A north-west corner, and the sides from there to the east and to the south, in pixels."""

    corner: Points
    east: Points
    south: Points

    @classmethod
    def through(cls, corners: Points) -> Parallelogram:
        """The parallelogram nearest to four corners NW, NE, SE, SW (least squares)."""
        nw, ne, se, sw = corners
        east, south = (ne - nw + se - sw) / 2.0, (sw - nw + se - ne) / 2.0
        return cls(corners.mean(axis=0) - east / 2.0 - south / 2.0, east, south)

    def corners(self) -> Points:
        """NW, NE, SE, SW."""
        nw, ne, sw = self.corner, self.corner + self.east, self.corner + self.south
        return np.stack([nw, ne, ne + self.south, sw])

    def shifted(self, by: Points) -> Parallelogram:
        """Moved by (columns, rows)."""
        return self._replace(corner=self.corner + by)

    def scaled(self, scale: Points) -> Parallelogram:
        """In pixels that are 1 / `scale` (columns, rows) as large."""
        return Parallelogram(self.corner * scale, self.east * scale, self.south * scale)

    def window(self, size: tuple[int, int], factors: NDArray[np.int_] | int = 1) -> Window | None:
        """The part of a raster of `size` (columns, rows) that holds the parallelogram.

        The part begins and ends at multiples of `factors` pixels, or at the raster's edge. None
        where the raster does not reach the parallelogram.
        """
        at = self.corners()
        if not np.isfinite(at).all():
            return None
        low = np.maximum(0, np.floor(at.min(axis=0) / factors - 2) * factors).astype(int)
        high = np.minimum(size, np.ceil(at.max(axis=0) / factors + 2) * factors).astype(int)
        width, height = (int(v) for v in high - low)
        return Window(int(low[0]), int(low[1]), width, height) if min(width, height) > 0 else None

    def inside(self, shape: tuple[int, int]) -> bool:
        """Whether every bilinear sample lies within an image of this shape (rows, columns)."""
        at = self.corners()
        return bool((at >= 0.0).all() and (at <= np.array([shape[1], shape[0]])).all())

    def step(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Source pixels (columns, rows) per sample, for `shape` (rows, columns) samples."""
        return np.hypot(self.east / shape[1], self.south / shape[0])

    def sample(self, image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
        """(h, w[, 3]) to (*shape[, 3]), bilinear; pixel centres at +0.5, zero outside."""
        finer = max(1, math.ceil(float(self.step(shape).max()) / MAX_RESIDUAL))
        height, width = shape[0] * finer, shape[1] * finer
        (a, d), (b, e), (c, f) = self.east / width, self.south / height, self.corner
        sampled = Image.fromarray(image).transform(
            (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
        )
        return np.array(sampled.reduce(finer) if finer > 1 else sampled)
