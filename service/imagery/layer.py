"""Ground as one raster shows it: pixels that may lack imagery, wholly or in part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.imagery.source import TileImage

MIN_WEIGHT = 0.25  # share of a pixel that imagery must cover for its colour to be known


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
