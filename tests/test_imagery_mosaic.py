"""Sheets make one image, however the ground is divided among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from imagery_samples import EAST_M, NORTH_M, patchwork, write_raster

from service.imagery.mosaic import MosaicSource
from service.imagery.raster import RasterSource
from service.imagery.source import SourceError
from service.imagery.source_kinds import open_source


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


def test_a_bad_sheet_is_named_and_a_changed_sheet_noticed(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", patchwork(100, 100))
    before = open_source(tmp_path).signature()
    write_raster(tmp_path / "b.tif", patchwork(100, 100))
    assert open_source(tmp_path).signature() != before
    (tmp_path / "c.tif").write_text("nothing")
    with pytest.raises(SourceError, match=r"c\.tif"):
        open_source(tmp_path)
