"""Which bands of a raster are red, green and blue, and how their values become uint8."""

from __future__ import annotations

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window

from model.images import Rgb
from service.imagery.signature import ValueRange
from service.imagery.source import SourceError

# Values are sampled in a lattice of small windows: an edit touches no larger share of many small
# windows than of the raster.
SAMPLE_SIDE = 16  # windows along each side
SAMPLE_PIXELS = 16  # along each side of a window


class Bands:
    """How a raster's values become RGB.

    deep: whether values are not bytes, so that they need a ValueRange.
    """

    def __init__(self, raster: rasterio.DatasetReader) -> None:
        """Reads no pixels.

        Raises:
            SourceError: no band, or complex values.
        """
        if raster.count == 0 or any("complex" in dtype for dtype in raster.dtypes):
            raise SourceError(f"{raster.name}: bands {raster.dtypes} are no image")
        self._raster = raster
        self._indexes = _rgb_indexes(raster.colorinterp)  # 1-based: one (grey or palette) or three
        self._masked = any(MaskFlags.all_valid not in flags for flags in raster.mask_flag_enums)
        self._palette = None
        if raster.colorinterp[0] == ColorInterp.palette:
            colours = raster.colormap(1)
            table = [colours.get(value, (0, 0, 0))[:3] for value in range(256)]
            self._palette = np.array(table, np.uint8)
        wide = any(raster.dtypes[index - 1] != "uint8" for index in self._indexes)
        self.deep = wide and self._palette is None

    def samples(self) -> NDArray[np.generic]:
        """Valid values from a lattice of windows: bounded work for any raster."""
        raster, samples = self._raster, []
        for row, column in np.ndindex(SAMPLE_SIDE, SAMPLE_SIDE):
            window = Window(
                raster.width * column // SAMPLE_SIDE,
                raster.height * row // SAMPLE_SIDE,
                min(SAMPLE_PIXELS, -(-raster.width // SAMPLE_SIDE)),
                min(SAMPLE_PIXELS, -(-raster.height // SAMPLE_SIDE)),
            )
            values = raster.read(self._indexes, window=window)
            valid = raster.dataset_mask(window=window) > 0
            samples.append(values[:, valid & np.isfinite(values).all(axis=0)].ravel())
        return np.concatenate(samples)

    def read(
        self, window: Window, shape: tuple[int, int], value_range: ValueRange | None
    ) -> tuple[Rgb, NDArray[np.uint8] | None]:
        """RGB (h, w, 3) of a window averaged down to `shape`, and its mask (0 or 255) if any.

        A palette's entries cannot be averaged: the nearest pixel is taken.
        """
        how = Resampling.nearest if self._palette is not None else Resampling.average
        values = self._raster.read(
            self._indexes, window=window, out_shape=(len(self._indexes), *shape), resampling=how
        )
        mask = None
        if self._masked:
            mask = self._raster.dataset_mask(
                window=window, out_shape=shape, resampling=Resampling.nearest
            )
        if self._palette is not None:
            return self._palette[values[0]], mask
        if value_range is not None:
            low, high = value_range
            scaled = (values.astype(np.float32) - low) * (255.0 / (high - low))
            values = np.nan_to_num(scaled).clip(0.0, 255.0).round().astype(np.uint8)
        rgb = np.broadcast_to(np.moveaxis(values, 0, -1), (*shape, 3))
        return np.ascontiguousarray(rgb), mask


def _rgb_indexes(interpretation: tuple[ColorInterp, ...]) -> list[int]:
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if set(wanted) <= set(interpretation):
        return [interpretation.index(colour) + 1 for colour in wanted]
    coloured = [i for i, colour in enumerate(interpretation, 1) if colour != ColorInterp.alpha]
    return coloured[:3] if len(coloured) >= 3 else (coloured or [1])[:1]
