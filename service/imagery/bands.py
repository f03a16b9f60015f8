"""How a raster's values become RGB.

GDAL averages the pixels of a window where each of them is imagery. Elsewhere they are averaged here
by their weights: for GDAL a pixel counts or does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window

from model.images import Rgb
from service.imagery.colour_bands import colour_bands
from service.imagery.cover import Cover, Shape, Values, Weight, lattice
from service.imagery.raster_file import CIELAB, ICCLAB, MIN_IS_WHITE, RasterFile
from service.imagery.reading import Reading
from service.imagery.signature import ValueRange
from service.imagery.source import SourceError

# Values are sampled in a lattice of small windows: an edit touches no larger share of many small
# windows than of the raster.
SAMPLE_SIDE = 16  # windows along each side
FINER = 2  # GDAL may average pixels to half of those asked for, before they are weighed
PIECE = 1 << 21  # pixels weighed at once

Mask = NDArray[np.uint8]  # (h, w), how much of a pixel is imagery, 0 to 255


class Bands:
    """How a raster's values become RGB.

    deep: whether values are not bytes, so that they need a ValueRange.
    """

    def __init__(self, file: RasterFile, reading: Reading) -> None:
        """Reads no pixels.

        Raises:
            SourceError: no band, complex values, colours or a nodata value that cannot be.
        """
        self._file, self._raster = file, file.raster
        if self._raster.count == 0:
            raise SourceError(f"{file.name} holds no image")
        self.colours = colour_bands(self._raster, file.name, reading.bands)
        self._numbers = list(self.colours.numbers)  # one (grey or palette) or three
        self._dtype = self._type()
        is_palette = self._raster.colorinterp[self._numbers[0] - 1] == ColorInterp.palette
        self._palette = self._colour_table() if is_palette else None
        bits = self._raster.tags(self._numbers[0], ns="IMAGE_STRUCTURE").get("NBITS", "8")
        self.deep = not is_palette and (self._dtype != np.uint8 or int(bits) < 8)
        self.cover = Cover(file, self._numbers, self._dtype, reading.nodata)

    def _type(self) -> np.dtype[Any]:
        types = {self._raster.dtypes[number - 1] for number in self._numbers}
        is_lab = self._file.photometric in (CIELAB, ICCLAB)
        if len(types) > 1 or "complex" in str(types):
            raise SourceError(
                f"{self._file.name}: bands of {', '.join(sorted(types))} are no image"
            )
        if ColorInterp.cyan in self._raster.colorinterp or (is_lab and types != {"uint8"}):
            raise SourceError(
                f"{self._file.name}: CMYK or CIELab of more than 8 bits: convert it to RGB"
            )
        dtype: np.dtype[Any] = np.dtype(types.pop())
        return dtype

    def _colour_table(self) -> NDArray[np.uint8]:
        """(N, 4), RGBA of each value."""
        colours = self._raster.colormap(self._numbers[0])
        return np.array([colours.get(i, (0, 0, 0, 0)) for i in range(max(colours) + 1)], np.uint8)

    def samples(self) -> Values:
        """(N, 3) valid values from a lattice of windows: bounded work for any raster."""
        samples = []
        for window in lattice(self._raster.shape, SAMPLE_SIDE):
            values = self._raster.read(self._numbers, window=window)
            shown = values[:, self.cover.weight(values, window, ()) > 0.0].T
            samples.append(np.broadcast_to(shown, (len(shown), 3)))
        return np.concatenate(samples)

    def read(
        self, window: Window, shape: Shape, value_range: ValueRange | None
    ) -> tuple[Rgb, Mask | None]:
        """RGB (h, w, 3) of a window averaged down to `shape`; no mask where nothing is hidden."""
        fills = value_range.fills if value_range else ()
        if self._palette is None and not fills and self.cover.is_whole(window, shape):
            planes = self._planes(self._averaged(window, shape), value_range)
            return _image(planes), None if self.cover.is_plain else np.full(shape, 255, np.uint8)
        rows = max(1, PIECE * shape[0] // (window.width * window.height))
        pieces = [
            self._weighed(part, (count, shape[1]), value_range)
            for part, count in _slices(window, shape[0], rows)
        ]
        weighed = np.concatenate(pieces, axis=1)
        mask = weighed[-1] if weighed[-1].min() < 255 or self.cover.is_declared else None
        return _image(weighed[:-1]), mask

    def _averaged(self, window: Window, shape: Shape) -> Values:
        out_shape, average = (len(self._numbers), *shape), Resampling.average
        values: Values = self._raster.read(
            self._numbers, window=window, out_shape=out_shape, resampling=average
        )
        return values

    def _weighed(
        self, window: Window, shape: Shape, value_range: ValueRange | None
    ) -> NDArray[np.uint8]:
        """(1 or 3 + 1, *shape): the colours averaged by their weights, and the weights."""
        fills = value_range.fills if value_range else ()
        size = whole = (window.height, window.width)
        is_exact = bool(fills) or self._palette is not None or self._file.premultiplied
        if self.cover.agrees_with_gdal and not is_exact:
            size = min(whole[0], FINER * shape[0]), min(whole[1], FINER * shape[1])
        values = self._averaged(window, size)
        weight = self.cover.weight(values, window, fills)
        if self._palette is not None:
            weight *= self._looked_up(values[0])[..., 3] / np.float32(255.0)
        if self._file.premultiplied:
            values = values / np.maximum(weight, 1e-6)
        return _reduced(self._planes(values, value_range), weight, shape)

    def _looked_up(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        assert self._palette is not None
        colours: NDArray[np.uint8] = self._palette[np.minimum(values, len(self._palette) - 1)]
        return colours

    def _planes(self, values: Values, value_range: ValueRange | None) -> NDArray[np.uint8]:
        """(bands, h, w) to (1 or 3, h, w)."""
        if self._palette is not None:
            return np.moveaxis(self._looked_up(values[0])[..., :3], -1, 0)
        if value_range is not None:
            low, high, _ = value_range
            values = values.astype(np.float32)
            if self._dtype.kind == "f":
                values = np.nan_to_num(values, nan=low)
            values = (values.clip(low, high) - low) * (255.0 / (high - low))
        if values.dtype != np.uint8:
            values = values.round().clip(0.0, 255.0).astype(np.uint8)
        planes: NDArray[np.uint8] = values
        if self._file.photometric in (CIELAB, ICCLAB):
            return _srgb(planes, self._file.photometric == CIELAB)
        return ~planes if self._file.photometric == MIN_IS_WHITE else planes


def _image(planes: NDArray[np.uint8]) -> Rgb:
    return np.dstack([*planes] * (3 // len(planes)))


def _slices(window: Window, height: int, rows: int) -> Iterator[tuple[Window, int]]:
    """The parts of a window that are averaged to `rows` of `height` rows, and their rows."""
    for first in range(0, height, rows):
        end = min(first + rows, height)
        top, bottom = (round(row * window.height / height) for row in (first, end))
        yield Window(window.col_off, window.row_off + top, window.width, bottom - top), end - first


def _reduced(planes: NDArray[np.uint8], weight: Weight, shape: Shape) -> NDArray[np.uint8]:
    def mean(pixels: NDArray[Any]) -> NDArray[Any]:
        return np.array(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BOX))

    if weight.min() >= 1.0:
        return np.stack([*map(mean, planes), np.full(shape, 255, np.uint8)])
    share = mean(weight)
    least = np.maximum(share, 1e-6)
    found = [*(mean(plane * weight) / least for plane in planes), 255.0 * share]
    return np.stack(found).round().clip(0.0, 255.0).astype(np.uint8)


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _srgb(lab: NDArray[np.uint8], is_signed: bool) -> NDArray[np.uint8]:
    """(3, h, w) CIELab of white D50; a and b are signed, or begin at -128 as Pillow's do."""
    flipped = [lab[0], *(lab[1:] ^ np.uint8(0x80) if is_signed else lab[1:])]
    image = Image.merge("LAB", [Image.fromarray(plane) for plane in flipped])
    return np.moveaxis(np.array(ImageCms.applyTransform(image, _lab_to_srgb())), -1, 0)
