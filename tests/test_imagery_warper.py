"""Tiles of many kinds of rasters show what GDAL's warper shows of the same ground."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery_oracle import ACROSS
from imagery_samples import EAST_M, NORTH_M, write_raster
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from model.geo import distance_m
from service.imagery.raster import RasterSource
from service.imagery.reading import Reading
from service.imagery.source import Cut

SIDE = 400  # pixels of half a metre
WAVE = 40.0  # pixels of a tile: 0.1 of them is 1.6 grey levels
MOST_OFF = 2.0  # grey levels, where imagery covers more than half of a pixel
JPEG = {"compress": "jpeg", "jpeg_quality": 98}


class Case(NamedTuple):
    """A raster of waves with a hole and a collar, hidden by `by`.

    by: alpha, premultiplied, mask, msk, declared, stated, found; empty: no hole.
    top: the largest value. full: an opaque pixel's alpha. None: the type's.
    """

    dtype: str = "uint8"
    by: str = ""
    bands: int = 3
    hidden: float = 0.0
    turn: float = 0.0
    coarser: int = 1
    top: float | None = None
    full: float | None = None
    overviews: bool = False
    profile: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    def most(self, stated: float | None) -> float:
        whole = np.dtype(self.dtype).kind != "f"
        return stated or (float(np.iinfo(self.dtype).max) if whole else 1.0)

    def values(self) -> NDArray[np.float64]:
        """(SIDE, SIDE, bands) without a hole."""
        down, across = np.indices((SIDE, SIDE)) * 2.0 * np.pi / (WAVE * self.coarser)
        waves = np.stack([np.sin(across), np.sin(down), np.sin(across + down)], axis=-1)
        low = -1.0 if np.dtype(self.dtype).kind == "i" else 0.0
        return self.most(self.top) * (low + (1.0 - low) * (0.5 + 0.4 * waves[..., : self.bands]))

    def write(self, path: Path, premultiply: bool) -> Path:
        down, across = np.indices((SIDE, SIDE))
        edge = np.minimum(np.hypot(down - 210, across - 180) - 18.0, 370 - across)
        alpha = (edge / 6.0).clip(0.0, 1.0) if self.by in ("alpha", "premultiplied") else edge > 0.0
        image, profile = self.values(), dict(self.profile)
        if self.by in ("declared", "stated", "found"):
            image[alpha == 0.0] = self.hidden
            profile |= {"nodata": self.hidden} if self.by == "declared" else {}
        elif self.by in ("alpha", "premultiplied"):
            image = image * alpha[..., None] if premultiply else image
            image[alpha == 0.0] = 0.0 if premultiply else 0.3 * self.most(self.top)
            image = np.dstack([image, alpha * self.most(self.full)])
            profile |= {"alpha": "PREMULTIPLIED" if premultiply else "YES"}
            profile |= {"photometric": "RGB"} if self.bands == 3 else {}
        image = image if np.dtype(self.dtype).kind == "f" else image.round()
        north_west = Affine.translation(EAST_M, NORTH_M) @ Affine.rotation(self.turn)
        mask = (alpha * 255).astype(np.uint8) if self.by in ("mask", "msk") else None
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=self.by == "mask"):
            write_raster(path, image.astype(self.dtype), mask=mask,
                         transform=north_west @ Affine.scale(0.5, -0.5), **profile)  # fmt: skip
        if self.overviews:
            with rasterio.open(path, "r+") as raster:
                raster.build_overviews([2, 4], Resampling.average)
        return path

    def warped(self, path: Path, cut: Cut) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """GDAL's warper on the tile's plane: (3, P, P) values, (P, P) cover in 0..1."""
        centre, half = cut.centre, cut.size_m / 2.0
        step, scale = cut.size_m / ACROSS, 1.0 / self.coarser
        hidden = {"src_nodata": self.hidden} if self.by in ("stated", "found") else {}
        with rasterio.open(path) as raster, WarpedVRT(
            raster,
            crs=f"+proj=aeqd +lat_0={centre.latitude} +lon_0={centre.longitude} +datum=WGS84",
            transform=Affine(step, 0.0, -half, 0.0, -step, half),
            width=ACROSS,
            height=ACROSS,
            resampling=Resampling.bilinear if self.coarser == 1 else Resampling.average,
            add_alpha=raster.colorinterp[-1] != ColorInterp.alpha,
            tolerance=0.01,
            XSCALE=scale,
            YSCALE=scale,
            **hidden,
        ) as vrt:  # fmt: skip
            *values, alpha = vrt.read().astype(float)
        return np.broadcast_to(values, (3, ACROSS, ACROSS)), alpha / max(alpha.max(), 1e-9)


CASES = {
    "bytes": Case(),
    "jpeg": Case(profile={**JPEG, "photometric": "YCBCR", "tiled": True}),
    "webp": Case(profile={"compress": "webp", "webp_lossless": True}),
    "planes": Case(profile={"compress": "lzw", "interleave": "band"}),
    "turned": Case(turn=30.0),
    "coarser": Case(coarser=3),
    "grey": Case(bands=1),
    "grey16": Case("uint16", bands=1, coarser=3),
    "int8": Case("int8", bands=1),
    "int16": Case("int16", turn=-70.0),
    "uint32": Case("uint32", top=4e9),
    "int32": Case("int32", top=3e4, profile={"compress": "zstd"}),
    "float32": Case("float32", profile={"compress": "deflate", "predictor": 3}),
    "float64": Case("float64", top=4e3),
    "12-bits": Case("uint16", top=4095.0, profile={"nbits": 12}),
    "alpha": Case(by="alpha"),
    "alpha-turned": Case(by="alpha", turn=45.0),
    "alpha-coarser": Case(by="alpha", coarser=3),
    "alpha-overviews": Case(by="alpha", coarser=5, overviews=True),
    "alpha-grey": Case(by="alpha", bands=1),
    "alpha16": Case("uint16", by="alpha"),
    "alpha16-255": Case("uint16", by="alpha", top=4e3, full=255.0),
    "alpha-float": Case("float32", by="alpha"),
    "premultiplied": Case(by="premultiplied"),
    "premultiplied-coarser": Case(by="premultiplied", coarser=3),
    "premultiplied16": Case("uint16", by="premultiplied"),
    "mask": Case(by="mask"),
    "mask-coarser": Case(by="mask", coarser=3, overviews=True),
    "msk": Case(by="msk", turn=10.0, profile=JPEG),
    "nodata": Case(by="declared"),
    "nodata-coarser": Case(by="declared", coarser=3),
    "nodata16": Case("uint16", by="declared", turn=120.0),
    "nodata-int16": Case("int16", by="declared", hidden=-9999.0, top=4e3),
    "nodata-lowest": Case("float32", by="declared", hidden=-3.4028234663852886e38, coarser=2),
    "nan": Case("float32", by="declared", hidden=np.nan, coarser=2),
    "stated": Case(by="stated", hidden=255.0),
    "stated-coarser": Case(by="stated", hidden=255.0, coarser=3),
    "found16": Case("uint16", by="found", hidden=65_535.0, top=4e3, coarser=3),
    "found-int16": Case("int16", by="found", hidden=-32_768.0, top=4e3),
    "found-float": Case("float32", by="found", hidden=float(np.float32(1e30))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_tile_shows_what_the_warper_shows(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = case.write(tmp_path / "a.tif", case.by == "premultiplied")
    source = RasterSource(
        path, reading=Reading(nodata=case.hidden if case.by == "stated" else None)
    )
    size_m, middle = 0.5 * ACROSS * case.coarser, source.extent.middle
    cut = min(source.cuts(size_m, size_m / 4.0), key=lambda cut: distance_m(cut.centre, middle))
    layer = source.sample(cut.ground, (ACROSS, ACROSS))
    # GDAL takes premultiplied colours for plain ones, and warps overviews with a shift.
    plain = case._replace(overviews=False).write(tmp_path / "b.tif", premultiply=False)
    values, cover = case.warped(plain, cut)
    low, high, _ = source.value_range or (0.0, 255.0, ())
    expected = np.moveaxis(values - low, 0, -1) * (255.0 / (high - low))
    shown = (cover > 0.5) & (layer.weight > 0.5)
    off = np.abs(layer.image().pixels - expected.clip(0.0, 255.0)).max(axis=-1)[shown]
    # Where a soft edge is made coarser, GDAL's average is no bilinear sample of averages.
    assert np.percentile(off, 98.0 if case.coarser > 1 else 99.9) <= MOST_OFF
    assert off.max() <= 2.5 * MOST_OFF
    assert shown.mean() == pytest.approx((cover > 0.5).mean(), abs=0.02)
    assert (shown.mean() < 0.99) == bool(case.by)
    assert layer.weight.mean() == pytest.approx(cover.mean(), abs=0.02)
