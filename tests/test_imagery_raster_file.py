"""A raster is placed by what lies beside it, or refused with the reason and the remedy."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
from imagery_samples import EAST_M, NORTH_M, UTM_33N, patchwork, write_raster
from PIL import Image, ImageCms
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.shutil import copy

from service.imagery.raster import RasterSource
from service.imagery.reading import Reading, ReadingError
from service.imagery.source import SourceError

UNPLACED = "ignore::rasterio.errors.NotGeoreferencedWarning"


def write_world(folder: Path, suffix: str = ".jpg", world: str = ".jgw") -> Path:
    """A photograph with a world file."""
    path = folder / f"a{suffix}"
    Image.fromarray(patchwork(64, 64)).save(path)
    lines = (0.5, 0.0, 0.0, -0.5, EAST_M + 0.25, NORTH_M - 0.25)
    path.with_suffix(world).write_text("\n".join(map(str, lines)))
    return path


@pytest.mark.parametrize(
    ("suffix", "world"),
    [(".jpg", ".jgw"), (".jpg", ".jpgw"), (".jpg", ".wld"), (".png", ".pgw"), (".tif", ".tfw")],
)
def test_a_world_file_takes_its_crs_from_a_prj_or_the_user(
    suffix: str, world: str, tmp_path: Path
) -> None:
    path = write_world(tmp_path, suffix, world)
    with pytest.raises(SourceError, match=rf"a{suffix}: it names no .* by --crs, or put a \.prj"):
        RasterSource(path)
    stated = RasterSource(path, reading=Reading(crs=UTM_33N))
    before = stated.signature()
    esri = CRS.from_epsg(32633).to_wkt(version="WKT1_ESRI")
    (tmp_path / "a.prj").write_text(esri, encoding="utf-8-sig")
    beside = RasterSource(path)
    placed = RasterSource(write_raster(tmp_path / "b.tiff", patchwork(64, 64)))
    for source in (stated, beside):
        assert np.allclose(source.extent, placed.extent, atol=1e-9)
    assert stated.signature() != before  # a .prj that comes or goes is noticed


def test_the_users_crs_replaces_the_files(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(64, 64))
    source = RasterSource(path, reading=Reading(crs="32634"))
    assert source.doubts() == ["a.tif: its CRS WGS 84 / UTM zone 33N is replaced by --crs 32634"]
    assert source.extent.middle.longitude == pytest.approx(21.0, abs=0.01)
    assert RasterSource(path, reading=Reading(crs=UTM_33N)).doubts() == []


@pytest.mark.parametrize("crs", ["EPSG:1", "nonsense", " "])
def test_a_crs_that_is_none_is_named(
    crs: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_world(tmp_path)
    with pytest.raises(ReadingError, match=rf"the CRS '{crs}' is not known: give .* EPSG:32633"):
        RasterSource(path, reading=Reading(crs=crs))
    (tmp_path / "a.prj").write_text(crs)
    with pytest.raises(SourceError, match=r"a\.prj: no coordinate reference system .* by --crs"):
        RasterSource(path)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings(UNPLACED)
def test_rational_polynomials_alone_place_nothing(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(64, 64), transform=rasterio.Affine.identity())
    ones = [1.0] * 20
    with rasterio.open(path, "r+") as raster:
        raster.rpcs = RPC(
            0.0, 1.0, 50.0, 1.0, ones, ones, 0.0, 1.0, 15.0, 1.0, ones, ones, 0.0, 1.0
        )
    with pytest.raises(SourceError, match=r"only rational polynomials place it.* or gdalwarp"):
        RasterSource(path)


def test_what_a_file_of_several_rasters_holds_is_listed(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(64, 64))
    for table in ("north", "south"):
        copy(path, tmp_path / "a.gpkg", driver="GPKG", append_subdataset="YES", raster_table=table)
    inside = r"'GPKG:\S+/a\.gpkg:NORTH' one\.vrt\. It holds \S+NORTH, \S+SOUTH"
    with pytest.raises(SourceError, match=rf"a\.gpkg holds 2 rasters, .* VRT: .* {inside}"):
        RasterSource(tmp_path / "a.gpkg")


@pytest.mark.parametrize("driver", ["GPKG", "JP2OpenJPEG", "MBTiles", "HFA", "PNG", "WEBP", "VRT"])
def test_formats_that_gdal_reads_show_the_same(driver: str, tmp_path: Path) -> None:
    source = RasterSource(write_raster(tmp_path / "a.tif", patchwork(256, 256)))
    lossless = {
        "GPKG": {"tile_format": "PNG"}, "MBTiles": {"tile_format": "PNG"},
        "JP2OpenJPEG": {"quality": "100", "reversible": "YES"}, "WEBP": {"lossless": "YES"},
    }  # fmt: skip
    path = tmp_path / f"b.{driver.lower()}"
    copy(tmp_path / "a.tif", path, driver=driver, **lossless.get(driver, {}))
    cuts = list(source.cuts(64.0, 16.0))
    for cut in cuts[:: len(cuts) // 4]:
        ours, theirs = source.read(cut, 64).pixels, RasterSource(path).read(cut, 64).pixels
        assert np.abs(ours.astype(int) - theirs).mean() <= (4.0 if driver == "MBTiles" else 0.0)


def test_a_missing_member_of_a_vrt_is_named(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", patchwork(64, 64))
    copy(tmp_path / "a.tif", tmp_path / "inner.vrt", driver="VRT")
    text = (tmp_path / "inner.vrt").read_text()
    (tmp_path / "outer.vrt").write_text(text.replace("a.tif", "inner.vrt"))
    (tmp_path / "a.tif").unlink()
    with pytest.raises(SourceError, match=r"outer\.vrt: its file \S+/a\.tif is missing"):
        RasterSource(tmp_path / "outer.vrt")


def test_damage_is_named_in_gdals_words(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(256, 256))
    path.write_bytes(path.read_bytes()[:100_000])
    source = RasterSource(path)
    with pytest.raises(SourceError, match=r"a\.tif: the ground around .* damaged: .*IReadBlock"):
        [source.read(cut, 64) for cut in source.cuts(64.0, 16.0)]


def colours(path: Path) -> np.ndarray:
    source = RasterSource(path)
    cuts = list(source.cuts(64.0, 16.0))
    return source.read(cuts[len(cuts) // 2], 64).pixels.astype(int)


def test_cielab_is_shown_as_rgb(tmp_path: Path) -> None:
    image = (patchwork(256, 256).astype(float) / 2.0 + 64.0).astype(np.uint8)
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    signed = np.array(
        ImageCms.profileToProfile(Image.fromarray(image), srgb, lab, outputMode="LAB")
    )
    straight = colours(write_raster(tmp_path / "rgb.tif", image, photometric="RGB"))
    offset = signed ^ np.array([0, 0x80, 0x80], np.uint8)
    for name, values in (("CIELAB", signed), ("ICCLAB", offset)):
        found = colours(write_raster(tmp_path / f"{name}.tif", values, photometric=name))
        assert np.abs(found - straight).max() <= 6  # bytes of a and b are coarse
    deep = write_raster(tmp_path / "deep.tif", signed.astype(np.uint16), photometric="CIELAB")
    with pytest.raises(SourceError, match=r"deep\.tif: CMYK or CIELab .* convert it to RGB"):
        RasterSource(deep)


def test_cmyk_white_first_and_single_bits_are_shown_as_rgb(tmp_path: Path) -> None:
    image, grey = patchwork(256, 256), patchwork(256, 256)[..., :1]
    black = np.zeros_like(grey)
    bits = (grey > 128).astype(np.uint8)
    pairs = [
        (image, np.dstack([255 - image, black]), {"photometric": "CMYK"}),
        (grey, 255 - grey, {"photometric": "MINISWHITE"}),
        (bits * 255, bits, {"nbits": 1}),
        (bits * 255, 1 - bits, {"nbits": 1, "photometric": "MINISWHITE"}),
        (bits * 255, bits * 15, {"nbits": 4}),
    ]
    for number, (straight, other, profile) in enumerate(pairs):
        ours = colours(write_raster(tmp_path / f"{number}a.tif", straight))
        theirs = colours(write_raster(tmp_path / f"{number}b.tif", other, **profile))
        assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_transparent_entries_of_a_palette_are_no_imagery(dtype: str, tmp_path: Path) -> None:
    numbers = np.zeros((256, 256, 1), dtype)
    numbers[:, 128:] = 3
    path = write_raster(tmp_path / "a.tif", numbers, photometric="palette")
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {0: (10, 20, 30, 255), 3: (200, 200, 200, 255)})
    copy(path, tmp_path / "a.vrt", driver="VRT")
    text = (tmp_path / "a.vrt").read_text()
    assert 'c3="200" c4="255"' in text
    (tmp_path / "a.vrt").write_text(text.replace('c3="200" c4="255"', 'c3="200" c4="0"'))
    source = RasterSource(tmp_path / "a.vrt")
    images = [source.read(cut, 64) for cut in source.cuts(64.0, 16.0)]
    assert min(image.valid for image in images) < 0.1
    assert {tuple(colour) for image in images if image.valid for colour in image.pixels[0]} == {
        (10, 20, 30)
    }


def test_gdals_warnings_name_the_file_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    image = np.dstack([patchwork(64, 64), patchwork(64, 64)[..., :1]])
    path = write_raster(tmp_path / "odd.tif", image, photometric="RGB")
    content = path.read_bytes()
    extra_samples = struct.pack("<HHI", 338, 3, 1)
    assert extra_samples in content
    path.write_bytes(content.replace(extra_samples, struct.pack("<HHI", 65_001, 3, 1)))
    for _ in range(2):
        source = RasterSource(path)
        source.signature()
        source.close()
    assert capfd.readouterr().err == ""
    texts = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert len(set(texts)) == len(texts) > 0
    assert all(text.startswith("odd.tif: TIFFRead") for text in texts)
