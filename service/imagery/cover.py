"""How much of each pixel of a raster is imagery: by alpha, a mask, or values that mean none.

An alpha band counts only if it looks like one: nearly everywhere transparent or opaque. Some
deliveries flag near infrared as alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window

from service.imagery.raster_file import RasterFile
from service.imagery.source import SourceError

SAMPLE_PIXELS = 16  # along each side of a window of the lattice
ALPHA_SIDE = 6  # windows along each side: few, as an opened raster judges its alpha band anew
OPAQUE = 0.98  # share of full alpha from which on a pixel is opaque: JPEG blurs alpha
MOSTLY = 0.5  # share of an alpha band's non-zero pixels that are opaque; fewer: no alpha
USUAL_FULL = (1.0, 255.0, 32_767.0, 65_535.0)

Values = NDArray[Any]  # (bands, h, w)
Weight = NDArray[np.float32]  # (h, w) in 0..1
Shape = tuple[int, int]


class Cover:
    """What hides pixels of some bands."""

    def __init__(
        self, file: RasterFile, numbers: list[int], dtype: np.dtype[Any], nodata: float | None
    ) -> None:
        """Reads no pixels.

        Args:
            numbers: of the bands shown, all of one type.
            nodata: the user's value for no imagery; None: as the raster says.

        Raises:
            SourceError: the bands cannot hold the user's value.
        """
        self._raster, self._name = file.raster, file.name
        self._numbers, self._dtype = numbers, dtype
        flagged = [i for i, c in enumerate(file.raster.colorinterp, 1) if c == ColorInterp.alpha]
        self._flagged = next((number for number in flagged if number not in numbers), None)
        flags = file.raster.mask_flag_enums[numbers[0] - 1]
        self._mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self._nodata = self._hidden(nodata, MaskFlags.nodata in flags)
        ways = (self._flagged is not None) + self._mask + (self._nodata is not None)
        self.is_plain = ways == 0  # nothing says that a pixel may be hidden
        # GDAL knows one way alone, and takes no notice of the user's value and of NaN.
        self._own = ways > 1 or nodata is not None or dtype.kind == "f"
        self._own |= bool(flagged) and self._flagged is None

    def _hidden(self, stated: float | None, is_declared: bool) -> Values | None:
        """(bands, 1, 1) values that together mean no imagery. NaN hides no whole number."""
        values = [stated] * len(self._numbers)
        if stated is None:
            declared = self._raster.nodatavals
            values = [declared[number - 1] if is_declared else None for number in self._numbers]
        kept = [None if value is None else self._value(value) for value in values]
        if stated is not None and kept[0] is None and not math.isnan(stated):
            raise SourceError(f"{self._name}: nodata {stated:g} is no {self._dtype} value")
        return None if None in kept else np.array(kept, self._dtype)[:, None, None]

    def _value(self, nodata: float) -> Any:
        """As a value of the bands; None where no pixel can hold the value."""
        with np.errstate(all="ignore"):
            kept = np.array(nodata).astype(self._dtype)[()]
        return kept if np.isclose(float(kept), nodata, rtol=1e-6) else None

    @cached_property
    def _opaque(self) -> float | None:
        """The alpha of opaque pixels; None without an alpha band that looks like one."""
        if self._flagged is None:
            return None
        windows = lattice(self._raster.shape, ALPHA_SIDE)
        alpha = np.concatenate([self._alpha(w, (w.height, w.width)).ravel() for w in windows])
        there = alpha[alpha > 0]
        if there.size == 0:
            return 1.0
        most = float(there.max())
        return most if (there >= OPAQUE * most).mean() >= MOSTLY else None

    @property
    def is_declared(self) -> bool:
        """Whether the raster or the user says what hides pixels."""
        return self._opaque is not None or self._mask or self._nodata is not None

    @property
    def agrees_with_gdal(self) -> bool:
        """Whether GDAL leaves out the pixels without any cover, and no others, of an average."""
        return not self._own and (self._flagged is None or self._opaque is not None)

    def doubts(self) -> list[str]:
        """What a user should check."""
        if self._flagged is None or self._opaque in USUAL_FULL:
            return []
        band = f"{self._name}: band {self._flagged} is flagged alpha, but its values"
        if self._opaque is None:
            return [f"{band} are spread as light's are: it is not taken for alpha"]
        return [f"{band} end at {self._opaque:g}: this is taken for opaque"]

    def is_whole(self, window: Window, shape: Shape) -> bool:
        """Whether all of a window is imagery, as GDAL sees it at `shape`."""
        if self._own or self.is_plain:
            return not self._own
        if self._flagged is not None:
            alpha = self._alpha(window, shape)
            full = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1.0
            if alpha.min() >= full:  # so that most tiles need not judge the band
                return True
            return self._opaque is not None and bool(alpha.min() >= OPAQUE * self._opaque)
        masks = self._raster.read_masks(
            self._numbers, window=window, out_shape=(len(self._numbers), *shape)
        )
        return bool(masks.max(axis=0).min() == 255)

    def weight(self, values: Values, window: Window, fills: tuple[float, ...]) -> Weight:
        """How much of each pixel of a window, whose values are given, is imagery.

        Args:
            fills: further values of whole pixels that mean no imagery.
        """
        shape = values.shape[1:]
        weight = np.ones(shape, np.float32)
        if self._mask:
            mask = self._raster.read_masks(
                self._numbers[0], window=window, out_shape=shape, resampling=Resampling.average
            )
            weight *= mask / np.float32(max(1, mask.max()))  # 255; some write 1
        if self._opaque is not None:
            alpha = self._alpha(window, shape).astype(np.float32) / np.float32(self._opaque)
            weight *= np.where(alpha >= OPAQUE, 1.0, np.nan_to_num(alpha).clip(0.0, 1.0))
        if self._dtype.kind == "f":
            weight[~np.isfinite(values).all(axis=0)] = 0.0
        for value in (*([] if self._nodata is None else [self._nodata]), *fills):
            weight[(values == value).all(axis=0)] = 0.0
        return weight

    def _alpha(self, window: Window, shape: Shape) -> NDArray[Any]:
        alpha: NDArray[Any] = self._raster.read(
            self._flagged, window=window, out_shape=shape, resampling=Resampling.average
        )
        return alpha


def lattice(shape: Shape, side: int) -> Iterator[Window]:
    """Small windows, `side` along each side of a raster of (rows, columns)."""
    for at in np.ndindex(side, side):
        first = [length * place // side for length, place in zip(shape, at, strict=True)]
        rows, columns = (min(SAMPLE_PIXELS, -(-length // side)) for length in shape)
        yield Window(first[1], first[0], columns, rows)
