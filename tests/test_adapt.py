"""Adaptation: the split's ground, the region's pixels, headings, refusals and resumption.

The ground is a function of the position, so that every chip and heading has an oracle.
"""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from pair_samples import TINY, World
from PIL import Image
from rasterio.warp import transform
from test_kill import files_no_longer_than

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.geo import LatLon, offset
from model.preprocessing import Preprocessing
from service.locate.known_panoramas import read_poses
from training import recipes
from training.adapt.adaptation import Request, adapt, refuse_worse
from training.adapt.comparison import Comparison
from training.adapt.headings import check_headings, common_turn, fitted_headings
from training.adapt.held_out import hold_out
from training.adapt.photographs import AdaptError, counted, read_photographs
from training.adapt.region import check_rasters, make_region, shown_by
from training.data.pairs import Pair, read_chip

MIDDLE = LatLon(50.0, 14.2)  # off the middle of its UTM zone: grid north is 0.6 degrees off
SPAN_M = 320.0
WORLD = World(5)
SHORT = ("batch_size=4", "epochs=2", "precision=fp32", "warmup_steps=0")


def write_aerial(path, crs="EPSG:32633", pixel=0.75, turn_deg=0.0, width_m=1.3 * SPAN_M):
    """The world around MIDDLE, each pixel's colour by its own position."""
    (x,), (y,) = transform("EPSG:4326", crs, [MIDDLE.longitude], [MIDDLE.latitude])
    (x2,), (y2,) = transform(
        "EPSG:4326", crs, [offset(MIDDLE, 1, 0).longitude], [offset(MIDDLE, 0, 1).latitude]
    )
    east_unit, north_unit = x2 - x, y2 - y  # of the CRS, a metre
    side = int(width_m / pixel)
    place = (
        Affine.translation(x, y)
        @ Affine.rotation(turn_deg)
        @ Affine.scale(pixel * east_unit, -pixel * north_unit)
        @ Affine.translation(-side / 2, -side / 2)
    )
    columns, rows = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    eastings, northings = place @ (columns.ravel(), rows.ravel())
    longitudes, latitudes = transform(crs, "EPSG:4326", eastings, northings)
    scale = offset(MIDDLE, 1000.0, 1000.0)
    east = (np.array(longitudes) - MIDDLE.longitude) / (scale.longitude - MIDDLE.longitude) * 1e3
    north = (np.array(latitudes) - MIDDLE.latitude) / (scale.latitude - MIDDLE.latitude) * 1e3
    image = WORLD.colours(east.reshape(side, side), north.reshape(side, side))
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", crs=crs,
        transform=place,
    ) as raster:  # fmt: skip
        raster.write(image.round().astype(np.uint8).transpose(2, 0, 1))
    return path


def places(count, seed=0):
    return np.random.default_rng(seed).uniform(-SPAN_M / 2, SPAN_M / 2, (count, 2))


def write_photographs(folder, at, *, off_deg=0.0, stated=True):
    """Panoramas at (N, 2) metres, each with a heading of its own."""
    folder.mkdir(parents=True)
    headings = np.random.default_rng(1).uniform(0, 360, len(at)).round()
    with (folder / "poses.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "latitude", "longitude", "heading_deg"])
        for number, ((east, north), heading) in enumerate(zip(at, headings, strict=True)):
            image = WORLD.panorama(64, 128, east, north, heading)
            Image.fromarray(image).save(folder / f"{number}.png")
            shown = (heading + off_deg) % 360 if stated else ""
            table.writerow([f"{number}.png", *offset(MIDDLE, east, north), shown])
    return headings


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Both branches have the same random weights, so that a view and its tile look alike."""
    torch.manual_seed(0)
    recipe = recipes.find("msae-demo", TINY)
    network = recipe.encoder.build()
    network.aerial.load_state_dict(network.street.state_dict())
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    Checkpoint(recipe.encoder, network.state_dict(), {"recipe": recipe.as_dict()}).save(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_photographs(folder / "photographs", places(40))
    write_aerial(folder / "aerial.tif")
    return folder


def request(data, weights, out, *more):
    aerials, photographs = [data / "aerial.tif"], data / "photographs"
    return Request(aerials, photographs, out, weights, 60.0, (*SHORT, *more), accelerated=False)


@pytest.mark.parametrize("seed", range(5))
def test_the_tiles_of_training_and_held_out_share_no_ground(seed):
    at = places(100, seed)
    split = hold_out(at, 32.0, seed)
    apart = np.abs(at[split.training][:, None] - at[split.held_out][None]).max(2)
    assert apart.min() >= 32.0
    assert sorted(np.concatenate(split[:3])) == list(range(100))
    assert 20 <= len(split.held_out) <= 30
    blocks = at[split.held_out]
    others = at[np.setdiff1d(np.arange(100), split.held_out)]
    inside = ((others > blocks.min(0)) & (others < blocks.max(0))).all(1)
    assert inside.sum() < len(others)  # whole blocks, not single photographs
    again = hold_out(at, 32.0, seed)
    assert all((a == b).all() for a, b in zip(split[:3], again[:3], strict=True))


def test_too_few_or_too_near_photographs_cannot_be_divided():
    with pytest.raises(AdaptError, match="19 photographs can be used, but at least 20"):
        hold_out(places(19), 32.0, 0)
    with pytest.raises(AdaptError, match=r"lie within 20 m.*Add photographs of other streets"):
        hold_out(places(100) / 16.0, 32.0, 0)


@pytest.mark.parametrize(
    ("crs", "pixel", "turn_deg"),
    [
        ("EPSG:32633", 0.25, 0.0),
        ("EPSG:4326", 0.5, 0.0),
        ("EPSG:3857", 0.5, 0.0),
        ("EPSG:32633", 0.5, 30.0),
    ],
)
def test_chips_show_the_true_ground_whatever_the_crs(tmp_path, crs, pixel, turn_deg):
    aerial = write_aerial(tmp_path / "a.tif", crs, pixel, turn_deg, width_m=240.0)
    positions = [offset(MIDDLE, 40.0, -25.0), offset(MIDDLE, -60.0, 30.0)]
    region = make_region(
        [aerial], positions, pixel_m=0.5, margin_m=40.0, out=tmp_path / "r.tif", fill=(9, 9, 9)
    )
    point = region.point(positions[0])
    assert region.covered(point, 24.0) == 1.0
    chip = read_chip(point, 24.0, 32, (9, 9, 9))
    expected = WORLD.tile(32, 24.0, 40.0, -25.0)
    assert np.abs(chip.astype(int) - expected).mean() < 2.0


def test_a_region_joins_its_rasters_and_knows_where_none_is(tmp_path):
    whole = write_aerial(tmp_path / "whole.tif")
    halves = []
    for name, columns in (("west", slice(0, 250)), ("east", slice(300, None))):
        with rasterio.open(whole) as raster:
            image = raster.read()[:, :, columns]
            place = raster.transform @ Affine.translation(columns.start, 0)
            profile = raster.profile | {"width": image.shape[2], "transform": place}
        halves.append(tmp_path / f"{name}.tif")
        with rasterio.open(halves[-1], "w", **profile) as raster:
            raster.write(image)
    at = [offset(MIDDLE, east, 0.0) for east in (-100.0, 0.0, 100.0)]
    joined, one = (
        make_region(
            paths,
            at,
            pixel_m=0.75,
            margin_m=30.0,
            out=tmp_path / f"{len(paths)}.tif",
            fill=(9, 9, 9),
        )
        for paths in (halves, [whole])
    )
    shown = [joined.covered(joined.point(position), 24.0) for position in at]
    assert shown[0] == shown[2] == 1.0
    assert shown[1] < 0.2
    for position in (at[0], at[2]):
        chips = [read_chip(r.point(position), 24.0, 32, (9, 9, 9)) for r in (joined, one)]
        assert np.abs(chips[0].astype(int) - chips[1]).mean() < 1.0  # GDAL: within 1/8 of a pixel
    assert shown_by(halves, [at[0], LatLon(10.0, 10.0)]).tolist() == [True, False]


def test_imagery_without_a_place_is_refused(tmp_path):
    Image.fromarray(WORLD.tile(64, 48.0)).save(tmp_path / "plain.png")
    with pytest.raises(AdaptError, match=r"plain\.png has no georeference.*a_srs"):
        check_rasters([tmp_path / "plain.png"])
    with pytest.raises(AdaptError, match=r"none\.tif cannot be read as a raster"):
        check_rasters([tmp_path / "none.tif"])


def test_photographs_that_cannot_be_used_are_counted_by_reason(tmp_path):
    image = Image.fromarray(WORLD.panorama(64, 128))
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (50.0, 30.0, 0.0), 3: "W", 4: (14.0, 0.0, 36.0)}
    image.save(tmp_path / "a.jpg", exif=exif)
    image.save(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"no image")
    used, left_out = read_photographs(tmp_path, Preprocessing())
    assert [photograph.name for photograph in used] == ["a.jpg"]
    assert used[0].position == pytest.approx((50.5, -14.01))
    assert used[0].geometry.north is None
    reasons = counted(left_out)
    assert any(
        "1 left out: neither poses.csv nor EXIF" in line and "b.jpg" in line for line in reasons
    )
    assert any("1 left out: the image cannot be read (first: c.jpg" in line for line in reasons)


def test_headings_are_recovered_at_the_own_tile(data, weights, tmp_path):
    headings = write_photographs(tmp_path / "unstated", places(24), stated=False)
    encoder = Encoder.load(weights)
    photographs, _ = read_photographs(tmp_path / "unstated", encoder.config.preprocessing)
    region = make_region(
        [data / "aerial.tif"], [photograph.position for photograph in photographs],
        pixel_m=0.375, margin_m=40.0, out=tmp_path / "r.tif", fill=(9, 9, 9),
    )  # fmt: skip
    pairs = [Pair(p.name, p.file, region.point(p.position), p.geometry) for p in photographs]
    away = np.abs((fitted_headings(encoder, pairs) - headings + 180.0) % 360.0 - 180.0)
    assert np.median(away) < 10.0


def test_a_common_turn_is_found_and_right_or_random_headings_are_not():
    random = np.random.default_rng(0)
    stated = random.uniform(0, 360, 60)
    fitted = stated + 180.0 + random.normal(0, 8, 60)
    fitted[:20] = random.uniform(0, 360, 20)
    with pytest.raises(AdaptError, match=r"turned by 1[78]\d degrees.*heading_deg"):
        check_headings(stated, fitted, "poses.csv")
    assert common_turn(stated, stated + random.normal(0, 8, 60)) is None
    assert common_turn(stated, random.uniform(0, 360, 60)) is None


def test_headings_that_are_all_turned_stop_the_command(data, weights, tmp_path):
    write_photographs(tmp_path / "photographs", places(40), off_deg=180.0)
    (tmp_path / "aerial.tif").symlink_to(data / "aerial.tif")
    with pytest.raises(AdaptError, match=r"by 1[78]\d degrees: their stated headings are off"):
        adapt(request(tmp_path, weights, tmp_path / "run"))
    assert not (tmp_path / "run" / "adapted.safetensors").exists()


def test_the_gain_is_paired_and_its_interval_holds_it():
    before = np.array([10.0] * 50 + [100.0] * 50)
    after = np.array([10.0] * 60 + [100.0] * 40)
    gain, (low, high) = Comparison(before, after).gain(0)
    assert gain == pytest.approx(0.1)
    assert 0.0 < low < 0.1 < high < 0.2
    assert not Comparison(before, after).is_worse
    assert Comparison(after, before).is_worse
    assert Comparison(before, before + 1.0).is_worse


@pytest.fixture(scope="module")
def adapted(data, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    adapt(request(data, weights, out, "learning_rate=1e-5"))
    return out


def test_a_run_writes_weights_report_and_held_out_photographs(adapted, weights):
    before, after = Checkpoint.load(weights), Checkpoint.load(adapted / "adapted.safetensors")
    report = json.loads((adapted / "report.json").read_text())
    poses = read_poses(adapted / "held-out")
    assert after.config == before.config
    assert after.provenance["adapted_from"] == report["weights_before"] == before.fingerprint
    assert report["weights_after"] == after.fingerprint != before.fingerprint
    assert len(poses) == report["photographs"] == report["split"]["held_out"]


def test_worse_weights_are_refused(data, weights, tmp_path):
    near, far = np.array([10.0] * 20), np.array([10.0] * 19 + [90.0])
    with pytest.raises(AdaptError, match=r"(?s)are worse.*-5\.0 points.*go on with .*start"):
        refuse_worse(Comparison(near, far), request(data, weights, tmp_path))
    refuse_worse(Comparison(far, near), request(data, weights, tmp_path))


def test_a_killed_run_resumes_to_the_same_weights(adapted, data, weights, tmp_path):
    run = request(data, weights, tmp_path, "learning_rate=1e-5")
    log = tmp_path / "training" / "log.jsonl"
    root = Path(__file__).parents[1]
    code = f"from pathlib import *; from training.adapt.adaptation import *; adapt({run})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=root) as worker:
        while worker.poll() is None and not log.exists():
            time.sleep(0.01)
        worker.kill()
    adapt(run)
    first, second = (Checkpoint.load(out / "adapted.safetensors") for out in (adapted, tmp_path))
    assert first.fingerprint == second.fingerprint


def test_a_full_disk_leaves_nothing_half_written(data, weights, tmp_path):
    with files_no_longer_than(100_000), pytest.raises(OSError, match="File too large"):
        adapt(request(data, weights, tmp_path))
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in left if path.name.endswith((".tmp", ".safetensors"))] == []
