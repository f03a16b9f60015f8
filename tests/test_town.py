"""The procedural town: geometry between the two views, determinism, the written folder."""

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.warp import transform

from model.panorama import PanoramaGeometry
from model.panorama_metadata import read_panorama
from model.preprocessing import Preprocessing
from model.tilt import Tilt
from training.town import (
    Camera,
    Day,
    Pose,
    Town,
    TownError,
    TownSpec,
    build_town,
    day,
    render_aerial,
    render_street,
    sample_poses,
    visit,
    write_town,
)
from training.town import solids as box
from training.town.camera import RECTILINEAR, Shot
from training.town.solids import solid, stamp_solids
from training.town.style import PATTERNS, style
from training.town.surfaces import GRASS, ROAD
from training.town.traffic import traffic

SMALL = TownSpec(seed=5, size_m=160)
PANORAMA = (64, 128)
BLACK, WHITE = (15.0, 15.0, 15.0), (240.0, 240.0, 240.0)


@pytest.fixture(scope="module")
def town() -> Town:
    return build_town(SMALL)


@pytest.fixture(scope="module")
def noon() -> Day:
    """A clear, neutral day with the sun due south and no cars."""
    return dataclasses.replace(
        day(1), sun_azimuth_deg=180.0, sun_elevation_deg=45.0, sunshine=1.0, clouds=0.0,
        traffic=0.0, exposure=1.0, white_balance=(1.0, 1.0, 1.0), contrast=1.0, haze_m=1e6,
    )  # fmt: skip


def plain_with(town: Town, *rows: np.ndarray) -> Town:
    """An empty lawn of the same size, with only these solids on it."""
    table = np.array(rows, np.float32).reshape(-1, box.COLUMNS)
    none = np.zeros_like(town.height)
    height, owner = none.copy(), none.copy()
    stamp_solids(table, 0, town.spec.resolution_m, height, owner)
    lawn = np.full_like(town.ground, 120)
    return dataclasses.replace(
        town, ground=lawn, material=np.full_like(town.material, GRASS), height=height, owner=owner,
        solids=table, crown_top=none, crown_base=none, tree=none, trees=town.trees[:0],
        stands=town.stands[:0], streets=(),
    )  # fmt: skip


def centre_pose(town: Town, heading: float = 0.0, **tilt: float) -> Pose:
    east, north = town.to_crs(80.0, 80.0)
    return Pose("x", east, north, heading, 2.0, tilt.get("pitch", 0.0), tilt.get("roll", 0.0))


def tower(east: float, north: float, height: float = 12.0) -> np.ndarray:
    """A black windowless box, 2 m wide, at that offset from the centre of the small town."""
    return solid(80 + east, 80 - north, (1, 0), (1, 1), height, box.POLE, BLACK, BLACK)


def test_same_seed_same_town_and_pictures(town: Town) -> None:
    again = build_town(SMALL)
    assert town.solids.tobytes() == again.solids.tobytes()
    assert render_aerial(town, day(3)).tobytes() == render_aerial(again, day(3)).tobytes()
    pose = sample_poses(town, 1, 0)[0]
    first, second = (render_street(t, pose, day(4), PANORAMA) for t in (town, again))
    assert first.tobytes() == second.tobytes()


def test_other_seeds_give_other_towns_and_other_days(town: Town) -> None:
    other = build_town(TownSpec(seed=6, size_m=160))
    assert (town.crs, town.left_m) != (other.crs, other.left_m)
    assert np.mean(town.ground != other.ground) > 0.5
    assert np.mean(render_aerial(town, day(1)) != render_aerial(town, day(2))) > 0.5
    assert {style(seed).pattern for seed in range(40)} == set(PATTERNS)


@pytest.mark.parametrize("azimuth", [0.0, 90.0, 135.0, 250.0])
@pytest.mark.parametrize("heading", [0.0, 77.0])
def test_a_tower_stands_in_the_column_of_its_azimuth(
    town: Town, noon: Day, azimuth: float, heading: float
) -> None:
    a = np.radians(azimuth)
    view = plain_with(town, tower(20 * np.sin(a), 20 * np.cos(a)))
    picture = render_street(view, centre_pose(view, heading), noon, (128, 256))
    dark = np.flatnonzero(picture[60, :].max(axis=1) < 60)  # 5 degrees above the horizon
    seen = heading + ((dark + 0.5) / 256 - 0.5) * 360
    assert len(dark) >= 3
    assert abs((seen.mean() - azimuth + 180) % 360 - 180) < 1.5


def test_a_wall_is_as_high_as_perspective_says(town: Town, noon: Day) -> None:
    view = plain_with(town, tower(21, 0))  # its face is 20 m away, the camera 2 m up
    column = render_street(view, centre_pose(view, 90.0), noon, (512, 1024))[:, 512].max(axis=1)
    dark = np.flatnonzero(column < 60)
    elevation = 90 - (dark[[0, -1]] + 0.5) / 512 * 180
    assert elevation == pytest.approx(np.degrees(np.arctan([10 / 20, -2 / 20])), abs=0.5)


def test_a_shadow_falls_away_from_the_sun_as_long_as_the_tower_is_high(
    town: Town, noon: Day
) -> None:
    view = render_aerial(plain_with(town, tower(0, 0, 10.0)), noon).mean(
        axis=2
    )  # sun south, 45 deg
    north, south = view[320 - 4 * 14 : 320 - 4 * 2, 320], view[320 + 4 * 2 : 320 + 4 * 14, 320]
    assert south.min() > 100
    assert (north < 95).sum() / 4 == pytest.approx(9.0, abs=0.6)  # from 2 m to 11 m off the centre


def test_turning_the_camera_rolls_the_panorama(town: Town) -> None:
    pose = sample_poses(town, 1, 0)[0]._replace(pitch_deg=0.0, roll_deg=0.0, heading_deg=31.0)
    ahead = render_street(town, pose, day(4), PANORAMA).astype(int)
    turned = render_street(town, pose._replace(heading_deg=121.0), day(4), PANORAMA).astype(int)
    assert np.quantile(np.abs(turned - np.roll(ahead, -32, axis=1)), 0.99) <= 4  # sensor noise


def test_pitch_lifts_the_centre_column(town: Town, noon: Day) -> None:
    """Looking up by 10 degrees moves the horizon down ahead and up behind."""
    view = plain_with(town)
    picture = render_street(view, centre_pose(view, pitch=10.0), noon, (180, 360)).astype(int)
    blue = picture[:, :, 2] - picture[:, :, 0]
    ahead, behind = (np.flatnonzero(blue[:, c] > 12).max() for c in (180, 0))
    assert ahead - behind == pytest.approx(20, abs=4)


def test_roll_turns_the_horizon_counter_clockwise(town: Town, noon: Day) -> None:
    """Leaning to its right by 10 degrees, the camera sees the right horizon higher up."""
    view = plain_with(town)
    picture = render_street(view, centre_pose(view, roll=10.0), noon, (180, 360)).astype(int)
    blue = picture[:, :, 2] - picture[:, :, 0]
    left, right = (np.flatnonzero(blue[:, c] > 12).max() for c in (90, 270))
    assert left - right == pytest.approx(20, abs=4)


@pytest.mark.parametrize("tilt", [Tilt(10.0, 0.0), Tilt(0.0, -10.0), Tilt(-24.49, 8.96)])
def test_the_strip_of_a_tilted_panorama_is_that_of_a_level_one(town: Town, tilt: Tilt) -> None:
    pose = sample_poses(town, 1, 0)[0]._replace(pitch_deg=0.0, roll_deg=0.0)
    level = render_street(town, pose, day(4), (512, 1024))
    leaning = pose._replace(pitch_deg=tilt.pitch_deg, roll_deg=tilt.roll_deg)
    tilted = render_street(town, leaning, day(4), (512, 1024))
    strip = Preprocessing().strip
    expected = strip(level, PanoramaGeometry()).astype(int)
    assert np.abs(strip(tilted, PanoramaGeometry(tilt=tilt)) - expected).mean() < 2
    assert np.abs(strip(tilted, PanoramaGeometry()) - expected).mean() > 15


@pytest.mark.parametrize("film_focal_mm", [18, 24])
def test_the_strip_of_a_photograph_is_that_of_its_panorama(town: Town, film_focal_mm: int) -> None:
    """Through JPEG and EXIF: within 2 grey levels where both see something."""
    pose = sample_poses(town, 1, 0)[0]._replace(pitch_deg=0.0, roll_deg=0.0)
    sphere = render_street(town, pose, day(4), (1024, 2048))
    fov_deg = 2 * math.degrees(math.atan(18 / film_focal_mm))
    shot = Shot("", pose, day(4), Camera(fov_deg, RECTILINEAR))
    preprocessing = Preprocessing()
    strip = preprocessing.read_strip(read_panorama(shot.encode(sphere))).astype(int)
    seen = (strip != preprocessing.fill).any(-1)
    low = math.degrees(math.atan(12 / film_focal_mm))
    assert seen[:, 256].sum() == pytest.approx(96 * (15 + low) / 60, abs=2)
    assert seen.any(0).sum() == pytest.approx(512 * fov_deg / 360, abs=2)
    whole = preprocessing.strip(sphere, PanoramaGeometry())
    assert np.abs(strip - whole)[seen].mean() < 2


def test_poses_stand_free_on_roads_apart_and_inside() -> None:
    town = build_town(TownSpec(seed=8, size_m=300))
    poses = sample_poses(town, 25, seed=1, min_spacing_m=8.0, margin_m=50.0)
    places = np.array([town.to_local(p.east_m, p.north_m) for p in poses])
    c, r = (places / town.spec.resolution_m).astype(int).T
    assert not town.owner[r, c].any()
    assert np.all((places > 49.9) & (places < 250.1))
    gaps = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 1e9 * np.eye(25)
    assert gaps.min() >= 8.0
    assert all(1.6 <= p.camera_height_m <= 3.0 and 0 <= p.heading_deg <= 360 for p in poses)
    with pytest.raises(TownError, match="ask for fewer"):
        sample_poses(town, 500, seed=1)


def test_a_camera_sees_the_cars_of_the_whole_town(town: Town) -> None:
    everywhere = {tuple(car) for car in traffic(town, day(2))}
    near = {tuple(car) for car in traffic(town, day(2), (80.0, 80.0), 60.0)}
    assert near
    assert near == {c for c in everywhere if np.hypot(c[0] - 80, c[1] - 80) < 60}


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 1, "size_m": 50.0}, "size 50"),
        ({"seed": 1, "resolution_m": 0.3}, "resolution 0.3"),
    ],
)
def test_an_impossible_town_is_refused_by_name(spec: dict[str, float], named: str) -> None:
    with pytest.raises(TownError, match=named):
        TownSpec(**spec)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("towns") / "town"
    write_town(out, SMALL, 3, PANORAMA, progress=lambda: None, workers=2)
    return out


def test_the_raster_is_georeferenced_and_holds_every_pose(folder: Path, town: Town) -> None:
    rows = [line.split(",") for line in (folder / "poses.csv").read_text().splitlines()[1:]]
    with rasterio.open(folder / "aerial.tif") as raster:
        assert raster.crs.to_string() == town.crs
        assert raster.res == (0.25, 0.25)
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert "CC0" in raster.tags()["ATTRIBUTION"]
        bounds = raster.bounds
    lat, lon = ([float(row[k]) for row in rows] for k in (2, 3))
    east, north = transform("EPSG:4326", town.crs, lon, lat)
    poses = sample_poses(town, 3, SMALL.seed)
    assert east == pytest.approx([p.east_m for p in poses], abs=0.01)
    assert all(bounds.left < e < bounds.right for e in east)
    assert all(bounds.bottom < n < bounds.top for n in north)


def test_a_panorama_states_its_heading_and_never_its_position(folder: Path, town: Town) -> None:
    pose = sample_poses(town, 3, SMALL.seed)[1]
    data = (folder / "panoramas" / f"{pose.id}.jpg").read_bytes()
    north = read_panorama(data).geometry.north
    assert north == pytest.approx((0.5 - pose.heading_deg / 360) % 1, abs=1e-4)
    image = Image.open(io.BytesIO(data))
    assert image.size == (128, 64)
    assert not image.getexif()
    assert b"GPS" not in data


def test_the_folder_does_not_depend_on_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    write_town(tmp_path / "b", SMALL, 3, PANORAMA, progress=lambda: None, workers=1)
    ours = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    again = tmp_path / "b"
    assert ours == {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert json.loads(ours[Path("town.json")])["spec"]["seed"] == SMALL.seed


def test_a_broken_run_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_town(tmp_path / "town", SMALL, 2, PANORAMA, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(TownError, match="exists already"):
        write_town(tmp_path / "mine", SMALL, 1)
    with pytest.raises(TownError, match="make it first"):
        write_town(tmp_path / "no" / "town", SMALL, 1)
    assert (tmp_path / "mine").read_text() == "kept"


def test_visits_differ() -> None:
    seven, eight = TownSpec(seed=7), TownSpec(seed=8)
    assert len({visit(seven, k) for k in range(20)}) == 20
    assert visit(seven, 3) == visit(seven, 3) != visit(eight, 3)


def test_a_varied_town_has_the_same_streets_and_houses(town: Town) -> None:
    varied = build_town(dataclasses.replace(SMALL, varied=True))
    assert np.array_equal(varied.material == ROAD, town.material == ROAD)
    kinds = [built.solids[:, box.KIND] != box.TRUNK for built in (varied, town)]
    geometry = slice(box.X, box.EAVES + 1)
    assert np.array_equal(varied.solids[kinds[0], geometry], town.solids[kinds[1], geometry])
    assert not np.array_equal(varied.ground, town.ground)


def test_varied_towns_look_farther_apart_than_plain_ones() -> None:
    def spread(varied: bool) -> float:
        means = []
        for seed in range(12):
            spec = TownSpec(seed=seed, size_m=100, resolution_m=0.5, varied=varied)
            image = render_aerial(build_town(spec), visit(spec, 0)).astype(float)
            means.append(image.mean((0, 1)))
        return float(np.std(means, axis=0).mean())

    assert spread(True) > 1.5 * spread(False)
