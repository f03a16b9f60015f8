"""Sheets make one image, however the ground is divided among them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from imagery_samples import EAST_M, NORTH_M, patchwork, write_raster

from model.geo import LatLon, offset
from service.imagery.mosaic import MAX_OPEN, MosaicSource
from service.imagery.raster import RasterSource
from service.imagery.reading import AS_STATED
from service.imagery.sheets import Sheet, SheetIndex
from service.imagery.source import Ground, SourceError, SourceMissing
from service.imagery.source_kinds import open_again, open_source

ON_THE_DATELINE = "+proj=tmerc +lat_0=0 +lon_0=180 +k=0.9996 +x_0=500000 +datum=WGS84"


def moved(east_m: float, resolution_m: float = 0.5) -> Affine:
    return Affine(resolution_m, 0.0, EAST_M + east_m, 0.0, -resolution_m, NORTH_M)


def test_two_halves_are_the_whole(tmp_path: Path) -> None:
    image = patchwork(400, 600)
    whole = RasterSource(write_raster(tmp_path / "whole.tif", image), "town")
    halves = tmp_path / "halves"
    halves.mkdir()
    write_raster(halves / "a.tif", image[:, :300])
    write_raster(halves / "b.tif", image[:, 300:], transform=moved(150.0))
    mosaic = open_source(halves, "town")
    assert isinstance(mosaic, MosaicSource)
    assert sorted(mosaic.cuts(64.0, 16.0)) == sorted(whole.cuts(64.0, 16.0))
    for cut in list(whole.cuts(64.0, 16.0))[::7]:
        ours, theirs = mosaic.read(cut, 64), whole.read(cut, 64)
        assert abs(ours.valid - theirs.valid) < 1e-3
        # Along the seam one sheet's last pixel is not blended with the other's first.
        different = np.abs(ours.pixels.astype(int) - theirs.pixels).max(axis=2) > 2
        assert different.mean() <= 1.5 / 64


def test_one_value_has_one_colour_on_every_sheet(tmp_path: Path) -> None:
    """Two sheets of one uint16 image that grows brighter from west to east."""
    ramp = np.linspace(1_000, 5_000, 600).astype(np.uint16)[None, :, None].repeat(400, 0)
    write_raster(tmp_path / "a.tif", ramp[:, :300])
    write_raster(tmp_path / "b.tif", ramp[:, 300:], transform=moved(150.0))
    mosaic = open_source(tmp_path, "town")
    for cut in mosaic.cuts(32.0, 16.0):
        image = mosaic.read(cut, 64)
        if image.valid == 1.0:
            levels = image.pixels[..., 0].astype(int)
            assert (np.diff(levels, axis=1) >= 0).all()  # also across the seam
            west = (cut.centre.longitude - 15.0) * 111_320.0 * np.cos(np.radians(50.0)) - 16.0
            expected = np.interp(west, [0.0, 300.0], [0, 255])
            assert abs(levels[:, 0].mean() - expected) < 8.0
    assert open_source(tmp_path, "town", mosaic.signature()).signature() == mosaic.signature()


EDGE_M = 20_037_508.342789244  # of Web Mercator's world


def test_sheets_that_meet_at_the_dateline_have_no_gap(tmp_path: Path) -> None:
    image = patchwork(400, 600)
    for name, crs, edge, step in (("m", "EPSG:3857", EDGE_M, 0.8), ("d", "EPSG:4326", 180.0, 6e-6)):
        north = 6_440_000.0 if name == "m" else 50.0
        folder = tmp_path / name
        folder.mkdir()
        west = Affine(step, 0.0, edge - 300 * step, 0.0, -step, north)
        east = Affine(step, 0.0, -edge, 0.0, -step, north)
        write_raster(folder / "a.tif", image[:, :300], crs=crs, transform=west)
        write_raster(folder / "b.tif", image[:, 300:], crs=crs, transform=east)
        mosaic = open_source(folder, "sea")
        whole = RasterSource(
            write_raster(tmp_path / f"{name}.tif", image, crs=crs, transform=west), "sea"
        )
        near = [c for c in mosaic.cuts(32.0, 8.0) if 180.0 - abs(c.centre.longitude) < 1e-4]
        across = [cut for cut in near if whole.read(cut, 64).valid == 1.0]
        assert len({cut.centre.longitude > 0.0 for cut in across}) == 2
        for cut in across:
            ours, theirs = mosaic.read(cut, 64), whole.read(cut, 64)
            assert ours.valid > 0.99
            different = np.abs(ours.pixels.astype(int) - theirs.pixels).max(axis=2) > 2
            assert different.mean() <= 2.5 / 64  # a seam, as between the halves above


def test_finer_imagery_lies_on_top(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.full((300, 300, 3), 50, np.uint8))
    fine = np.full((300, 300, 3), 200, np.uint8)
    write_raster(tmp_path / "b.tif", fine, transform=moved(75.0, resolution_m=0.25))
    mosaic = open_source(tmp_path)
    values = {int(v) for cut in mosaic.cuts(32.0, 32.0) for v in mosaic.read(cut, 16).pixels.flat}
    assert {50, 200} <= values
    assert (min(values), max(values)) == (50, 200)
    over_the_fine = min(mosaic.cuts(32.0, 8.0), key=lambda cut: -cut.centre.longitude)
    assert mosaic.read(over_the_fine, 16).pixels.min() in (50, 200)


def test_many_sheets_are_the_whole_with_few_files_open(tmp_path: Path) -> None:
    image, side = patchwork(420, 420), 60
    whole = RasterSource(write_raster(tmp_path / "whole.tif", image), "town")
    for row, column in np.ndindex(7, 7):
        file = tmp_path / "sheets" / f"{row}" / f"{column}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        part = image[row * side : (row + 1) * side, column * side : (column + 1) * side]
        corner = moved(column * side / 2.0) @ Affine.translation(0, row * side)
        write_raster(file, part, transform=corner)
    before = len(os.listdir("/proc/self/fd"))
    mosaic = open_source(tmp_path / "sheets", "town")
    assert sorted(mosaic.cuts(64.0, 16.0)) == sorted(whole.cuts(64.0, 16.0))
    for cut in mosaic.cuts(64.0, 16.0):
        ours, theirs = mosaic.read(cut, 64), whole.read(cut, 64)
        different = np.abs(ours.pixels.astype(int) - theirs.pixels).max(axis=2) > 2
        assert different.mean() <= 3 * 2 * 1.5 / 64  # three seams each way
        assert len(os.listdir("/proc/self/fd")) <= before + MAX_OPEN + 1
    mosaic.close()
    assert len(os.listdir("/proc/self/fd")) == before


@given(east=st.floats(-500, 900), south=st.floats(-500, 900), size=st.floats(1, 400))
@settings(max_examples=25, deadline=None)
def test_no_sheet_that_reaches_the_ground_is_left_out(
    sheets: list[Sheet], east: float, south: float, size: float
) -> None:
    centre = offset(LatLon(*sheets[0].extent.middle), east, -south)
    near = SheetIndex(sheets).near(Ground(centre, size, size / 2.0))
    for sheet in sheets:
        with closing(RasterSource(sheet.path)) as source:
            reaches = source.reaches(Ground(centre, size, size / 2.0))
        assert sheet in near or not reaches
    assert len(near) <= (size / 50.0 + 2.5) ** 2


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> list[Sheet]:
    """Nine sheets of 50 m, on the dateline."""
    folder = tmp_path_factory.mktemp("sheets")
    west = Affine(0.5, 0.0, 500_000.0 - 75.0, 0.0, -0.5, NORTH_M)
    for row, column in np.ndindex(3, 3):
        transform = west @ Affine.translation(column * 100, row * 100)
        name = folder / f"{row}{column}.tif"
        write_raster(name, patchwork(100, 100), transform=transform, crs=ON_THE_DATELINE)
    return [Sheet.of(file, AS_STATED) for file in sorted(folder.iterdir())]


def write_vrt(file: Path, members: list[Path], band: int | None = None) -> None:
    """A mosaic of equal sheets, side by side; or one band of each as a band."""
    with rasterio.open(members[0]) as first:
        side, crs, t = first.width, first.crs, first.transform
    bands = range(1, 4)
    wide = side if band else side * len(members)
    lines = []
    for number in bands:
        parts = [members[number - 1]] if band else members
        lines.append(f'<VRTRasterBand dataType="Byte" band="{number}">')
        for place, part in enumerate(parts):
            lines.append(
                f'<SimpleSource><SourceFilename relativeToVRT="0">{part}</SourceFilename>'
                f"<SourceBand>{band or 4 - number}</SourceBand>"
                f'<SrcRect xOff="0" yOff="0" xSize="{side}" ySize="{side}"/>'
                f'<DstRect xOff="{place * side}" yOff="0" xSize="{side}" ySize="{side}"/>'
                "</SimpleSource>"
            )
        lines.append("</VRTRasterBand>")
    file.write_text(
        f'<VRTDataset rasterXSize="{wide}" rasterYSize="{side}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{', '.join(map(str, t.to_gdal()))}</GeoTransform>"
        f"{''.join(lines)}</VRTDataset>"
    )


def write_row(folder: Path, names: str, bands: int = 3) -> list[Path]:
    """Sheets of 100 m side by side."""
    return [
        write_raster(
            folder / f"{name}.tif", patchwork(200, 200)[..., :bands], transform=moved(100.0 * place)
        )
        for place, name in enumerate(names)
    ]


def test_a_vrt_stands_for_the_sheets_that_it_shows(tmp_path: Path) -> None:
    """Its bands are those of the sheets in reverse."""
    write_vrt(tmp_path / "z.vrt", write_row(tmp_path, "ab"))
    write_row(tmp_path, "..c")
    mosaic = open_source(tmp_path, "town")
    assert "2 sheets in EPSG:32633, 0.5 m a pixel, which show 2 others as well" in mosaic.notes[1]
    with_vrt = RasterSource(tmp_path / "z.vrt", "town")
    cut = next(with_vrt.cuts(32.0, 32.0))
    assert (mosaic.read(cut, 32).pixels == with_vrt.read(cut, 32).pixels).all()
    before = mosaic.signature()
    os.utime(tmp_path / "a.tif", (1, 1))
    assert open_source(tmp_path, "town").signature() != before


def test_a_vrt_of_a_part_leaves_the_sheets(tmp_path: Path) -> None:
    write_vrt(tmp_path / "z.vrt", write_row(tmp_path, "ab")[:1])
    assert "2 sheets" in open_source(tmp_path).notes[1]


def write_bands(folder: Path) -> None:
    for name in ("B02", "B03", "B04", "B08"):
        write_raster(folder / f"{name}.tif", patchwork(100, 100)[..., :1])


def write_elevation(folder: Path) -> None:
    write_row(folder, "ab")
    heights = np.ones((200, 200, 1), np.float32)
    write_raster(folder / "dsm.tif", heights, transform=moved(30.0))


def write_two_vrts(folder: Path) -> None:
    sheets = write_row(folder, "ab")
    write_vrt(folder / "rgb.vrt", sheets)
    write_vrt(folder / "cir.vrt", sheets)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_bands, r"B02.tif and B03.tif lie on the same ground, with one band.*-separate"),
        (write_elevation, r"dsm.tif has one band of float32 beside rasters in colour: elevation"),
        (write_two_vrts, r"cir.vrt and rgb.vrt show the same files: ingest one of them"),
    ],
)
def test_rasters_that_are_no_sheets_are_refused(
    tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    write(tmp_path)
    with pytest.raises(SourceError, match=reason):
        open_source(tmp_path)


def test_bands_in_files_are_sheets_by_a_vrt_of_them(tmp_path: Path) -> None:
    write_bands(tmp_path)
    (tmp_path / "B08.tif").unlink()
    write_vrt(tmp_path / "rgb.vrt", [tmp_path / f"B0{n}.tif" for n in (4, 3, 2)], band=1)
    assert "/: 1 sheet in" in open_source(tmp_path).notes[1]


def test_sheets_of_the_same_ground_are_said(tmp_path: Path) -> None:
    for year in ("2019", "2020"):
        (tmp_path / year).mkdir()
        write_row(tmp_path / year, "ab")
    note = open_source(tmp_path).notes[-1]
    assert "2 sheets lie on the very ground of others, such as 2019/a.tif and 2020/a.tif" in note


def test_a_bad_sheet_is_named_and_a_changed_sheet_noticed(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", patchwork(100, 100))
    before = open_source(tmp_path).signature()
    write_raster(tmp_path / "b.tif", patchwork(100, 100))
    assert open_source(tmp_path).signature() != before
    (tmp_path / "c.tif").write_text("nothing")
    with pytest.raises(SourceError, match=r"c\.tif"):
        open_source(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(SourceMissing, match="holds no raster any more"):
        open_again("mosaic", tmp_path, "town", "", AS_STATED)
