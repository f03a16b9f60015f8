"""Tiles are cut where independent geodesy says, whatever the raster's CRS, type and mask."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery_oracle import ground, rows_and_columns
from imagery_samples import EAST_M, NORTH_M, patchwork, write_raster
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.shutil import copy
from scipy.ndimage import map_coordinates

from model.geo import LatLon, distance_m
from service.imagery.grid import GridError, columns_around, latitude_at
from service.imagery.gridded_source import runs
from service.imagery.raster import RasterSource
from service.imagery.source import Cut, SourceError


def centremost(source: RasterSource, size_m: float) -> Cut:
    middle = source.extent.middle
    return min(source.cuts(size_m, size_m / 4), key=lambda cut: distance_m(cut.centre, middle))


CRSES = {
    "utm": ("EPSG:32633", (500_000.0, 5_540_000.0), 0.5),
    "mercator": ("EPSG:3857", (1_669_000.0, 6_440_000.0), 0.8),
    "degrees": ("EPSG:4326", (15.0, 78.2), 5e-6),
    "polar": ("EPSG:3413", (300_000.0, -900_000.0), 0.5),
    "southern": ("EPSG:32756", (334_000.0, 6_252_000.0), 0.5),
}


@pytest.mark.parametrize("name", CRSES)
def test_pictures_are_true_north_up_in_any_crs(name: str, tmp_path: Path) -> None:
    crs, origin, resolution = CRSES[name]
    image = patchwork(600, 600, cell=24)
    north_west = Affine(resolution, 0.0, origin[0], 0.0, -resolution, origin[1])
    path = write_raster(tmp_path / "a.tif", image, crs=crs, transform=north_west)
    source = RasterSource(path)
    width_m = source.resolution_m() * 128
    cut = centremost(source, width_m)
    at = rows_and_columns(path, cut, 128)
    # Degrees are no squares far north: both sides are read as finely as the coarser one.
    corners = source._corners(cut.ground)
    assert np.abs(corners.mean(axis=0) - at[::-1].mean(axis=(1, 2)) - 0.5).max() < 0.01
    if name != "degrees":
        expected = np.stack([map_coordinates(image[..., b].astype(float), at, order=1)
                             for b in range(3)], axis=-1)  # fmt: skip
        assert np.abs(source.read(cut, 128).pixels - expected).mean() < 1.0


def test_the_affine_map_is_within_a_centimetre_for_64_m_tiles(tmp_path: Path) -> None:
    for crs, origin, resolution in CRSES.values():
        transform = Affine(resolution, 0.0, origin[0], 0.0, -resolution, origin[1])
        path = write_raster(tmp_path / "a.tif", patchwork(400, 400), crs=crs, transform=transform)
        source = RasterSource(path)
        cut = centremost(source, 64.0)
        pixel_m = min(source._pixel_size_m(cut.centre))
        exact = rows_and_columns(path, cut, 9)[::-1] + 0.5
        steps = (np.arange(9) + 0.5) / 9.0
        nw, ne, _, sw = source._corners(cut.ground)
        affine = nw[:, None, None] + (
            (ne - nw)[:, None, None] * steps + (sw - nw)[:, None, None] * steps[:, None]
        )
        assert np.abs(affine - exact).max() * pixel_m < 0.01


def test_grid_points_do_not_move_with_the_raster(tmp_path: Path) -> None:
    image = patchwork(800, 800)
    whole = RasterSource(write_raster(tmp_path / "w.tif", image), "town")
    shifted = Affine(0.5, 0.0, EAST_M + 101.3, 0.0, -0.5, NORTH_M - 57.7)
    part = RasterSource(write_raster(tmp_path / "p.tif", image[:500], transform=shifted), "town")
    of_whole = {cut.tile_id: cut for cut in whole.cuts(64.0, 16.0)}
    common = [cut for cut in part.cuts(64.0, 16.0) if cut.tile_id in of_whole]
    assert len(common) > 100
    assert all(of_whole[cut.tile_id] == cut for cut in common)
    assert len(of_whole) == pytest.approx(whole.count(64.0, 16.0), rel=0.05)


def test_a_rotated_raster_is_cut_north_up(tmp_path: Path) -> None:
    turned = Affine.translation(EAST_M, NORTH_M) @ Affine.rotation(30.0) @ Affine.scale(0.5, -0.5)
    image = patchwork(700, 700, cell=24)
    path = write_raster(tmp_path / "r.tif", image, transform=turned)
    source = RasterSource(path)
    cut = centremost(source, 64.0)
    at = rows_and_columns(path, cut, 128)
    expected = map_coordinates(image[..., 0].astype(float), at, order=1)
    assert np.abs(source.read(cut, 128).pixels[..., 0] - expected).mean() < 1.0


def test_reducing_averages_instead_of_aliasing(tmp_path: Path) -> None:
    checks = np.indices((600, 600)).sum(axis=0) % 2 * 254  # every other pixel: must become grey
    image = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    source = RasterSource(write_raster(tmp_path / "c.tif", image))
    for pixels in (32, 50, 64, 100):
        picture = source.read(centremost(source, 64.0), pixels).pixels.astype(float)
        assert abs(picture.mean() - 127.0) < 4.0
        assert picture.std() < 40.0


def test_nodata_mask_and_alpha_all_hide_the_same_ground(tmp_path: Path) -> None:
    image = patchwork(400, 400)
    hidden = np.zeros((400, 400), bool)
    hidden[:, 200:] = True
    blank = np.where(hidden[..., None], 0, image).astype(np.uint8)
    mask = np.where(hidden, 0, 255).astype(np.uint8)
    layered = np.dstack([image, mask])
    paths = [
        write_raster(tmp_path / "nodata.tif", blank, nodata=0),
        write_raster(tmp_path / "mask.tif", image, mask=mask),
        write_raster(tmp_path / "alpha.tif", layered, photometric="RGB", alpha="YES"),
        write_raster(tmp_path / "collar.tif", blank),
    ]
    for path in paths:
        source = RasterSource(path)
        shares = [source.read(cut, 64).valid for cut in source.cuts(64.0, 8.0)]
        assert min(shares) < 0.05
        assert max(shares) == 1.0
        assert np.mean(shares) == pytest.approx(0.47, abs=0.06), path.name


def test_pixels_without_imagery_take_the_mean_colour(tmp_path: Path) -> None:
    image = np.full((200, 200, 3), 90, np.uint8)
    source = RasterSource(write_raster(tmp_path / "a.tif", image, nodata=0))
    edge = next(source.cuts(64.0, 16.0))
    picture = source.read(edge, 64)
    assert 0.2 < picture.valid < 0.8
    assert (picture.pixels == 90).all()


def test_grey_uint16_and_palette_become_rgb(tmp_path: Path) -> None:
    grey = patchwork(300, 300)[..., :1]
    deep = grey.astype(np.uint16) * 40 + 1000
    paths = {
        "grey": write_raster(tmp_path / "grey.tif", grey),
        "deep": write_raster(tmp_path / "deep.tif", deep),
        "palette": write_raster(tmp_path / "palette.tif", grey % 4, photometric="palette"),
    }
    with rasterio.open(paths["palette"], "r+") as raster:
        raster.write_colormap(1, {i: (i * 60, 255 - i * 60, 7, 255) for i in range(4)})
    pictures = {name: RasterSource(p) for name, p in paths.items()}
    cut = centremost(pictures["grey"], 64.0)
    shallow, scaled, coloured = (s.read(cut, 128).pixels.astype(int) for s in pictures.values())
    assert (shallow[..., 0] == shallow[..., 2]).all()
    assert np.corrcoef(shallow.ravel(), scaled.ravel())[0, 1] > 0.99
    assert scaled.std() > 50
    assert (coloured[..., 2] == 7).all()
    assert np.abs(coloured[..., 0] + coloured[..., 1] - 255).max() <= 2


def test_colours_are_found_by_their_names(tmp_path: Path) -> None:
    image = patchwork(300, 300)
    path = write_raster(tmp_path / "bgr.tif", image[..., ::-1], photometric="RGB")
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    straight = RasterSource(write_raster(tmp_path / "rgb.tif", image))
    cut = centremost(straight, 64.0)
    assert (RasterSource(path).read(cut, 64).pixels == straight.read(cut, 64).pixels).all()


def test_licence_and_attribution_are_read_from_the_file(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(64, 64))
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(LICENCE="CC0", ATTRIBUTION="the survey")
    source = RasterSource(path)
    assert (source.licence, source.attribution) == ("CC0", "the survey")


def write_in_pieces(folder: Path) -> Path:
    """A VRT of a VRT of a raster, with its mask and its overviews in files of their own."""
    path = write_raster(folder / "a.tif", patchwork(256, 256))
    outside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False, TIFF_USE_OVR=True)
    with outside, rasterio.open(path, "r+") as raster:
        raster.write_mask(np.full((256, 256), 255, np.uint8))
    with outside, rasterio.open(path, "r+") as raster:
        raster.build_overviews([2])
    copy(path, folder / "inner.vrt", driver="VRT")
    text = (folder / "inner.vrt").read_text()
    (folder / "outer.vrt").write_text(text.replace("a.tif", "inner.vrt"))
    return folder / "outer.vrt"


@pytest.mark.parametrize("file", ["outer.vrt", "inner.vrt", "a.tif", "a.tif.ovr", "a.tif.msk"])
def test_every_file_behind_the_pixels_is_signed(file: str, tmp_path: Path) -> None:
    outer = write_in_pieces(tmp_path)
    raster = tmp_path / "a.tif"
    before = [RasterSource(path).signature() for path in (outer, raster)]
    assert [RasterSource(path).signature() for path in (outer, raster)] == before
    os.utime(tmp_path / file, ns=(0, 0))
    after = [RasterSource(path).signature() for path in (outer, raster)]
    assert after[0] != before[0]
    assert (after[1] != before[1]) == file.startswith("a.tif")


def test_a_mask_that_appears_or_goes_is_noticed_by_an_open_raster(tmp_path: Path) -> None:
    source = RasterSource(write_raster(tmp_path / "a.tif", patchwork(64, 64)))
    before = source.signature()
    (tmp_path / "a.tif.msk").write_bytes(b"")
    assert source.signature() != before
    (tmp_path / "a.tif.msk").unlink()
    assert source.signature() == before
    (tmp_path / "a.tif").unlink()
    assert source.signature() != before


@pytest.mark.parametrize("factor", [1, 16])
def test_more_than_eight_bits_keep_their_stretch_unless_they_look_different(
    factor: int, tmp_path: Path
) -> None:
    image = patchwork(300, 300).astype(np.uint16) * 16
    path = write_raster(tmp_path / "a.tif", image)
    former = RasterSource(path).signature()
    image *= factor
    image[:30, :30] = 65_535
    write_raster(path, image)
    source = RasterSource(path, former=former)
    kept = source.signature().partition(";")[2] == former.partition(";")[2]
    assert kept == (factor == 1)
    assert RasterSource(path, former=source.signature()).signature() == source.signature()
    assert 50 < source.read(centremost(source, 64.0), 64).pixels.mean() < 200


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_the_extremes_of_a_type_are_its_black_and_white(dtype: str, tmp_path: Path) -> None:
    low, high = (-1e30, 1e30) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    checks = np.where(patchwork(300, 300)[..., :1] < 128, low, high).astype(dtype)
    source = RasterSource(write_raster(tmp_path / "a.tif", checks))
    pixels = source.read(centremost(source, 64.0), 128).pixels
    assert (np.isin(pixels, (0, 255))).mean() > 0.8
    assert {0, 255} <= set(pixels.flat)


def test_ground_outside_the_crs_is_empty(tmp_path: Path) -> None:
    source = RasterSource(write_raster(tmp_path / "a.tif", patchwork(64, 64)))
    for longitude in range(-180, 180, 15):
        far = Cut("far", LatLon(0.0, float(longitude)), 64.0)
        assert source.read(far, 16).valid == 0.0


SITE = 'LOCAL_CS["the works",UNIT["metre",1]]'


@pytest.mark.parametrize("placed_by", ["transform", "points"])
def test_a_building_sites_own_coordinates_are_refused(placed_by: str, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(64, 64), crs=SITE)
    if placed_by == "points":
        corners = [(row, column) for row in (0, 64) for column in (0, 64)]
        points = [GroundControlPoint(row, column, column, -row) for row, column in corners]
        with rasterio.open(path, "r+") as raster:
            raster.gcps = (points, SITE)
    with pytest.raises(SourceError, match=r"the works, does not say where .* gdal_edit\.py"):
        RasterSource(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_without_a_position_on_earth_are_refused(tmp_path: Path) -> None:
    image = patchwork(64, 64)
    no_crs = write_raster(tmp_path / "no-crs.tif", image, crs=None)
    nowhere = write_raster(tmp_path / "identity.tif", image, transform=Affine.identity())
    far = Affine(0.1, 0.0, 15.0, 0.0, -0.1, 95.0)
    beyond = write_raster(tmp_path / "beyond.tif", image, crs="EPSG:4326", transform=far)
    text = tmp_path / "notes.tif"
    text.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    for path, reason in (
        (no_crs, "no coordinate reference system"),
        (nowhere, "no georeference"),
        (beyond, "outside the Earth"),
        (text, r"not a raster .*: the file is a Git LFS pointer"),
    ):
        with pytest.raises(SourceError, match=reason):
            RasterSource(path)


def test_sizes_that_show_nothing_are_refused(tmp_path: Path) -> None:
    source = RasterSource(write_raster(tmp_path / "a.tif", patchwork(64, 64), resolution_m=30.0))
    with pytest.raises(GridError, match="30 m per pixel"):
        next(source.cuts(64.0, 16.0))
    for size_m, stride_m, named in ((0.0, 16.0, "size"), (640.0, 0.0, "stride"), (-1, 1, "size")):
        with pytest.raises(GridError, match=named):
            next(source.cuts(size_m, stride_m))


def write_world(path: Path, crs: str, west: float) -> Path:
    """A belt around the equator, a hundredth of a degree a pixel, from `west` round to it."""
    degrees = 1.0 if crs == "EPSG:4326" else 20_037_508.342789244 / 180.0
    longitudes = west + (np.arange(36_000) + 0.5) / 100.0
    with rasterio.open(
        path, "w", driver="GTiff", height=60, width=36_000, count=3, dtype="uint8", crs=crs,
        transform=Affine(0.01 * degrees, 0.0, west * degrees, 0.0, -0.01 * degrees, 0.3 * degrees),
    ) as raster:  # fmt: skip
        raster.write(np.repeat(colour_of(longitudes)[:, None], 60, axis=1).round().astype(np.uint8))
    return path


def colour_of(longitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Waves of two degrees, of three, and of the whole Earth: no two longitudes look alike."""
    waves = [np.sin(2.0 * np.pi * longitudes / length) for length in (2.0, 3.0, 360.0)]
    return 128.0 + 100.0 * np.stack(waves)


@pytest.mark.parametrize("west", [-180.0, 0.0, -190.0])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_a_raster_of_the_whole_world_has_no_seam(crs: str, west: float, tmp_path: Path) -> None:
    source = RasterSource(write_world(tmp_path / "world.tif", crs, west))
    cuts = [cut for cut in source.cuts(20_000.0, 10_000.0) if abs(cut.centre.latitude) < 0.1]
    lattice = [columns_around(latitude_at(10_000.0 * row), 10_000.0) for row in (-1, 0, 1)]
    assert len(cuts) == len({cut.tile_id for cut in cuts}) == sum(lattice)
    at_the_seam = [
        cut for cut in cuts if abs((cut.centre.longitude - west + 180.0) % 360.0 - 180.0) < 0.3
    ]
    assert len(at_the_seam) > 12
    for run in runs(at_the_seam, 16):
        for cut, picture in zip(run, source.read_run(run, 16), strict=True):
            assert picture.valid == 1.0
            expected = np.moveaxis(colour_of(ground(cut, 16)[..., 0]), 0, -1)
            # Half a pixel at the seam is not mixed with its neighbour: there are 3 steps to one.
            assert np.abs(picture.pixels - expected).max() < 4.0
            beside = np.moveaxis(colour_of(ground(cut, 16)[..., 0] + 0.01), 0, -1)
            assert np.abs(picture.pixels - beside).max() > np.abs(picture.pixels - expected).max()


def test_a_raster_of_nearly_the_whole_world_is_empty_in_its_gap(tmp_path: Path) -> None:
    path = write_world(tmp_path / "world.tif", "EPSG:4326", -180.0)
    with rasterio.open(path) as raster:
        bands = raster.read()[..., :-40]
    part = RasterSource(
        write_raster(
            tmp_path / "part.tif", np.moveaxis(bands, 0, -1), crs="EPSG:4326",
            transform=Affine(0.01, 0.0, -180.0, 0.0, -0.01, 0.3), nodata=0,
        )
    )  # fmt: skip
    for longitude, share in ((-180.0, 0.5), (179.6, 0.5), (179.8, 0.0), (-179.5, 1.0)):
        cut = Cut("any", LatLon(0.0, longitude), 20_000.0)
        assert part.reaches(cut.ground) == (share > 0.0)
        assert part.read(cut, 16).valid == pytest.approx(share, abs=0.1)


def test_an_absurd_raster_costs_nothing_to_open(tmp_path: Path) -> None:
    path = tmp_path / "world.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=18_000, width=36_000, count=3, dtype="uint8",
        crs="EPSG:4326", transform=Affine(0.01, 0, -180, 0, -0.01, 90), tiled=True, SPARSE_OK=True,
    ):  # fmt: skip
        pass
    source = RasterSource(path)
    assert source.extent[0] <= -180.0
    assert source.extent[2] >= 180.0
    cuts = source.cuts(40_000.0, 10_000.0)
    assert source.read(next(cuts), 32).valid == 0.0
    assert source.count(40_000.0, 10_000.0) > 1_000_000
