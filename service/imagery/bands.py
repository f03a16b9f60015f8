"""Which bands of a raster are its red, green and blue, and how their values become uint8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window

from model.images import Rgb
from service.imagery.source import SourceError
from service.imagery.value_range import Stretch

SAMPLE_SIDE = 16  # windows along each side that are looked at to find the range of values:
SAMPLE_PIXELS = 16  # many small ones, of which an edit touches no larger share than of the raster


@dataclass(frozen=True)
class Bands:
    """How a raster's values become RGB: found once, when it is opened."""

    indexes: tuple[int, ...]  # one (grey or palette) or three, 1-based
    deep: bool  # values are no bytes: they need a Stretch
    palette: NDArray[np.uint8] | None  # (256, 3)
    masked: bool  # some pixels may be without imagery

    @classmethod
    def of(cls, raster: rasterio.DatasetReader) -> Bands:
        """Reads types, colour interpretation and palette; no pixels.

        Raises:
            SourceError: no band, or complex values.
        """
        if raster.count == 0 or any("complex" in dtype for dtype in raster.dtypes):
            raise SourceError(f"{raster.name}: bands {raster.dtypes} are no picture")
        indexes = _rgb_indexes(raster.colorinterp)
        masked = any(MaskFlags.all_valid not in flags for flags in raster.mask_flag_enums)
        palette = _palette(raster) if raster.colorinterp[0] == ColorInterp.palette else None
        deep = palette is None and any(raster.dtypes[i - 1] != "uint8" for i in indexes)
        return cls(indexes, deep, palette, masked)

    def samples(self, raster: rasterio.DatasetReader) -> NDArray[np.generic]:
        """Valid values from a lattice of small windows: bounded work for any raster."""
        samples = []
        for part in range(SAMPLE_SIDE * SAMPLE_SIDE):
            row, column = divmod(part, SAMPLE_SIDE)
            window = Window(
                raster.width * column // SAMPLE_SIDE,
                raster.height * row // SAMPLE_SIDE,
                min(SAMPLE_PIXELS, -(-raster.width // SAMPLE_SIDE)),
                min(SAMPLE_PIXELS, -(-raster.height // SAMPLE_SIDE)),
            )
            values = raster.read(list(self.indexes), window=window)
            valid = raster.dataset_mask(window=window) > 0
            samples.append(values[:, valid & np.isfinite(values).all(axis=0)].ravel())
        return np.concatenate(samples)

    def read(
        self,
        raster: rasterio.DatasetReader,
        window: Window,
        shape: tuple[int, int],
        stretch: Stretch | None,
    ) -> tuple[Rgb, NDArray[np.uint8] | None]:
        """RGB (h, w, 3) of a window averaged down to `shape`, and its validity (0 or 255) if any.

        A palette's entries cannot be averaged: there the nearest pixel is taken.
        """
        how = Resampling.nearest if self.palette is not None else Resampling.average
        values = raster.read(
            list(self.indexes), window=window, out_shape=(len(self.indexes), *shape), resampling=how
        )
        mask = None
        if self.masked:
            mask = raster.dataset_mask(
                window=window, out_shape=shape, resampling=Resampling.nearest
            )
        return self._to_rgb(values, stretch), mask

    def _to_rgb(self, values: NDArray[np.generic], stretch: Stretch | None) -> Rgb:
        if self.palette is not None:
            return np.asarray(self.palette[values[0]])
        if stretch is not None:
            low, high = stretch
            scaled = (values.astype(np.float32) - low) * (255.0 / (high - low))
            values = np.nan_to_num(scaled).clip(0.0, 255.0).round().astype(np.uint8)
        return np.ascontiguousarray(
            np.broadcast_to(np.moveaxis(values, 0, -1), (*values.shape[1:], 3))
        )


def _rgb_indexes(interpretation: tuple[ColorInterp, ...]) -> tuple[int, ...]:
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(colour in interpretation for colour in wanted):
        return tuple(interpretation.index(colour) + 1 for colour in wanted)
    coloured = [i + 1 for i, colour in enumerate(interpretation) if colour != ColorInterp.alpha]
    return tuple(coloured[:3]) if len(coloured) >= 3 else (coloured[0] if coloured else 1,)


def _palette(raster: rasterio.DatasetReader) -> NDArray[np.uint8]:
    table = np.zeros((256, 3), dtype=np.uint8)
    for value, colour in raster.colormap(1).items():
        if value < 256:
            table[value] = colour[:3]
    return table
