"""What hides pixels is found out, or the user is told what was assumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from imagery_samples import patchwork, write_raster
from numpy.typing import NDArray

from service.imagery.raster import RasterSource
from service.imagery.reading import Reading
from service.imagery.signature import undeclared_fills, values_kept
from service.imagery.source import SourceError

RGBA = {"photometric": "RGB", "alpha": "YES"}


def first_whole(source: RasterSource, pixels: int = 64) -> NDArray[np.uint8]:
    images = (source.read(cut, pixels) for cut in source.cuts(64.0, 16.0))
    return next(image.pixels for image in images if image.valid == 1.0)


@pytest.mark.parametrize("bands", [(1, 2, 3), (4, 1, 2)])
@pytest.mark.parametrize("pixels", [32, 128])
def test_near_infrared_flagged_alpha_does_not_dim_the_colours(
    pixels: int, bands: tuple[int, ...], tmp_path: Path
) -> None:
    image = patchwork(300, 300)
    infrared = np.random.default_rng(0).integers(0, 200, (300, 300, 1), np.uint8)
    infrared[:, 150:] = 0  # water
    image = np.dstack([image, infrared])
    shown = np.stack([image[..., band - 1] for band in bands], axis=-1)
    plain = RasterSource(write_raster(tmp_path / "rgb.tif", shown, photometric="RGB"))
    path = write_raster(tmp_path / "a.tif", image, **RGBA)
    flagged = RasterSource(path, reading=Reading(bands=bands))
    for cut in list(plain.cuts(64.0, 16.0))[::5]:
        off = flagged.read(cut, pixels).pixels.astype(int) - plain.read(cut, pixels).pixels
        assert np.abs(off).max() <= 2  # rounded twice
    doubt = "a.tif: band 4 is flagged alpha, but its values are spread as light's are: it is not"
    assert bands == (4, 1, 2) or flagged.doubts()[0].startswith(doubt)


@pytest.mark.parametrize(("value", "said"), [(90, "end at 90"), (255, ""), (1, "")])
def test_the_largest_alpha_is_opaque(value: int, said: str, tmp_path: Path) -> None:
    image = np.dstack([patchwork(300, 300), np.full((300, 300), value, np.uint8)])
    source = RasterSource(write_raster(tmp_path / "a.tif", image, **RGBA))
    plain = RasterSource(write_raster(tmp_path / "b.tif", image[..., :3], photometric="RGB"))
    assert np.abs(first_whole(source).astype(int) - first_whole(plain)).max() <= 1
    assert all(said in doubt for doubt in source.doubts())
    assert bool(source.doubts()) == bool(said)


def test_alpha_and_nodata_hide_both(tmp_path: Path) -> None:
    image = np.dstack([patchwork(300, 300), np.full((300, 300), 255, np.uint8)])
    image[:, :100, 3] = 0
    image[:, 200:, :3] = 0
    source = RasterSource(write_raster(tmp_path / "a.tif", image, nodata=0, **RGBA))
    shares = [source.read(cut, 64).valid for cut in source.cuts(32.0, 16.0)]
    assert np.mean(shares) == pytest.approx(1.0 / 3.0, abs=0.06)


def test_a_mask_of_ones_hides_zeros_alone(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(300, 300))
    mask = np.ones((300, 300, 1), np.uint8)
    mask[:, :100] = 0
    flags = {f"INTERNAL_MASK_FLAGS_{band}": "2" for band in (1, 2, 3)}  # one mask for all bands
    with rasterio.open(write_raster(tmp_path / "mask.tif", mask), "r+") as raster:
        raster.update_tags(**flags)
    (tmp_path / "mask.tif").rename(tmp_path / "a.tif.msk")
    source = RasterSource(path)
    shares = [source.read(cut, 64).valid for cut in source.cuts(32.0, 16.0)]
    assert np.mean(shares) == pytest.approx(2.0 / 3.0, abs=0.06)


def test_a_value_that_no_band_can_hold_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(64, 64))
    for value in (-1.0, 256.0, 0.5):
        with pytest.raises(SourceError, match=rf"a\.tif: nodata {value:g} is no uint8 value"):
            RasterSource(path, reading=Reading(nodata=value))


def light(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(1_000.0, 200.0, (10_000, 3)).round()


@pytest.mark.parametrize("fill", [65_535.0, -9_999.0, -3.4028234663852886e38, 1e30, 1e5])
@pytest.mark.parametrize("share", [0.03, 0.5, 0.97])
def test_a_fill_value_is_found(fill: float, share: float) -> None:
    samples = light()
    samples[: int(share * len(samples))] = fill
    assert undeclared_fills(samples) == (fill,)


def test_two_fill_values_are_found() -> None:
    samples = light()
    samples[:2_000], samples[2_000:4_000] = 65_535.0, -9_999.0
    assert set(undeclared_fills(samples)) == {65_535.0, -9_999.0}


def test_snow_and_shadow_are_no_fill_values() -> None:
    brightness = np.random.default_rng(0).exponential(20_000.0, (10_000, 1)).round()
    saturated = np.repeat(brightness, 3, axis=1).clip(0.0, 40_000.0)  # 13 % of them are white
    bimodal = np.where(light() > 1_000.0, 65_000.0, 0.0)
    edited = light()
    edited[:100] = 65_535.0
    for samples in (light(), saturated, light().clip(900.0, 1_100.0), bimodal, edited, light()[:1]):
        assert undeclared_fills(samples) == ()


def with_fill(path: Path) -> Path:
    image = patchwork(300, 300).astype(np.uint16) * 10 + 300
    image[:, 200:] = 65_535
    return write_raster(path, image)


def test_a_found_fill_value_is_kept_and_said(tmp_path: Path) -> None:
    path = with_fill(tmp_path / "a.tif")
    source = RasterSource(path)
    assert source.value_range is not None
    assert source.value_range.fills == (65_535.0,)
    assert "a.tif: 65535 lies far from all other values" in source.doubts()[0]
    again = RasterSource(path, former=source.signature())
    assert again.signature() == source.signature()
    assert (first_whole(again) == first_whole(source)).all()
    assert first_whole(source).std() > 50.0


@pytest.mark.parametrize("stated", [65_535.0, float("nan")])
def test_the_users_nodata_value_ends_the_guessing(stated: float, tmp_path: Path) -> None:
    path = with_fill(tmp_path / "a.tif")
    former = values_kept(RasterSource(path).signature())
    source = RasterSource(path, former=former, reading=Reading(nodata=stated))
    assert source.doubts() == []
    assert source.value_range is not None
    assert (source.value_range.high == 65_535.0) == np.isnan(stated)
