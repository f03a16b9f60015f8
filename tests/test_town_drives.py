"""Drives in the town: ways along streets, frames and their times, what the files state."""

import csv
import dataclasses
import io
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.panorama_metadata import read_panorama
from training.cli.commands import main
from training.town import Camera, DrivePlan, Town, TownError, TownSpec, build_town, day
from training.town.camera import Shot
from training.town.drives import Drive, take_drive
from training.town.poses import Pose, blocked
from training.town.routes import Network, network
from training.town.surfaces import ROAD

SPEC = TownSpec(seed=42, size_m=400, resolution_m=0.5)
POSE = Pose("0", 0.0, 0.0, 123.45, 2.0, 0.0, 0.0)
TIME = datetime(2026, 5, 4, 9, 8, 7, 65_000)


@pytest.fixture(scope="module")
def town() -> Town:
    return build_town(SPEC)


@pytest.fixture(scope="module")
def streets(town: Town) -> Network:
    return network(town)


def drives(town: Town, streets: Network, **plan: float) -> list[Drive]:
    chosen = DrivePlan(count=8, **plan)  # type: ignore[arg-type]
    return [take_drive(town, streets, chosen, k, day(k)) for k in range(8)]


def places_of(town: Town, drive: Drive) -> np.ndarray:
    return np.array([town.to_local(s.pose.east_m, s.pose.north_m) for s in drive.shots])


def angle(degrees: np.ndarray) -> np.ndarray:
    """From -180 to 180."""
    return (degrees + 180) % 360 - 180


def travel(drive: Drive) -> np.ndarray:
    return np.array([shot.pose.heading_deg - drive.mount_deg for shot in drive.shots])


def test_whoever_arrives_at_a_junction_can_go_on(streets: Network) -> None:
    for piece, after in streets.onward.items():
        assert after
        end = streets.stations[piece][-1, :2]
        assert all(np.hypot(*(streets.stations[k][0, :2] - end)) < 25 for k in after)


def test_frames_lie_a_step_apart(town: Town, streets: Network) -> None:
    for drive in drives(town, streets):
        gaps = np.hypot(*np.diff(places_of(town, drive), axis=0).T)
        straight = abs(angle(np.diff(travel(drive)))) < 1
        assert gaps[straight] == pytest.approx(12.0, abs=0.02)
        assert np.all((gaps > 7.0) & (gaps < 12.01))  # round a corner the chord is shorter


def test_frames_keep_to_the_right_lane_where_nothing_stands(town: Town, streets: Network) -> None:
    lines = np.concatenate([street.at(np.arange(street.length_m)) for street in town.streets], 1)
    for drive in drives(town, streets, frames=240, step_m=2.0):
        places = places_of(town, drive)
        c, r = (places / SPEC.resolution_m).astype(int).T
        assert np.all(town.material[r, c] == ROAD)
        assert not blocked(town, places).any()
        assert np.all((places > 44) & (places < SPEC.size_m - 44))
        nearest = np.argmin(np.hypot(*(places[:, None] - lines[0]).transpose(2, 0, 1)), axis=1)
        east, south = (places - lines[0][nearest]).T
        ahead = np.radians(travel(drive))
        right = east * np.cos(ahead) + south * np.sin(ahead)
        assert 0.5 < np.median(right) < 4.0


def test_the_heading_is_the_direction_of_travel_and_the_mount(town: Town, streets: Network) -> None:
    for drive in drives(town, streets, frames=600, step_m=0.5, mount_deg=-30.0):
        east, south = (places_of(town, drive)[2:] - places_of(town, drive)[:-2]).T
        direction = np.degrees(np.arctan2(east, -south))
        headings = np.array([shot.pose.heading_deg for shot in drive.shots[1:-1]])
        assert np.max(abs(angle(headings - direction + 30))) < 3


def test_drives_differ_and_turn_at_junctions(town: Town, streets: Network) -> None:
    taken = drives(town, streets)
    turns = [abs(angle(np.diff(travel(drive)[::3]))) > 50 for drive in taken]
    assert np.mean([turn.any() for turn in turns]) > 0.8
    assert len({drive.shots[0].pose[:4] for drive in taken}) == len(taken)
    assert np.ptp([drive.mount_deg for drive in taken]) > 90


def test_vehicles_drive_as_vehicles_can(town: Town, streets: Network) -> None:
    for drive in drives(town, streets, frames=480, step_m=1.0):
        times = [shot.time for shot in drive.shots if shot.time]
        speed = 1 / np.array([(b - a).total_seconds() for a, b in pairwise(times)])
        bend = abs(np.radians(angle(np.diff(travel(drive)))))
        assert np.all((speed > 0) & (speed < 1.1 * 14.0))
        assert np.median(speed) > 4.0
        assert bend.max() < 0.55  # no hairpins
        assert np.max(speed**2 * bend) < 3.0  # metres a second squared


def test_frames_by_time_stay_where_the_vehicle_stops(town: Town, streets: Network) -> None:
    gaps = []
    for drive in drives(town, streets, step_s=1.0):
        times = [shot.time for shot in drive.shots if shot.time]
        assert {round((b - a).total_seconds(), 2) for a, b in pairwise(times)} == {1.0}
        gaps.append(np.hypot(*np.diff(places_of(town, drive), axis=0).T))
    assert np.mean(np.concatenate(gaps) < 0.3) > 0.05
    assert np.quantile(np.concatenate(gaps), 0.9) > 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth(tmp_path_factory.mktemp("drives") / "town", "--drives", "2")


def synth(out: Path, *words: str) -> Path:
    common = ["synth", str(out), "--seed", "42", "--size-m", "400", "--width", "128"]
    assert main([*common, "--panoramas", "1", "--frames", "3", *words]) == 0
    return out


def test_a_drive_is_a_folder_with_its_poses_and_times(folder: Path) -> None:
    for name in ("001", "002"):
        with (folder / "drives" / name / "poses.csv").open() as table:
            rows = list(csv.DictReader(table))
        assert [row["file"] for row in rows] == ["000.jpg", "001.jpg", "002.jpg"]
        for row in rows:
            data = (folder / "drives" / name / row["file"]).read_bytes()
            assert read_panorama(data).heading_deg == pytest.approx(float(row["heading_deg"]))
            stated = exif(data)
            taken = f"{datetime.fromisoformat(row['time']):%Y:%m:%d %H:%M:%S.%f}"
            assert taken == f"{stated[0x9003]}.{stated[0x9291]}000"


def exif(data: bytes) -> Mapping[int, object]:
    return Image.open(io.BytesIO(data)).getexif().get_ifd(0x8769)


def test_a_drive_depends_on_nothing_else(folder: Path, tmp_path: Path) -> None:
    again = synth(tmp_path / "town", "--drives", "1", "--workers", "1")
    ours = {p.relative_to(again): p.read_bytes() for p in (again / "drives").rglob("*.*")}
    assert len(ours) == 4
    assert all((folder / name).read_bytes() == data for name, data in ours.items())
    assert (folder / "poses.csv").read_bytes() == (again / "poses.csv").read_bytes()


def test_a_crop_states_its_place_in_the_full_sphere() -> None:
    sphere = np.zeros((100, 200, 3), np.uint8)
    sphere[:, 75:125] = 255
    data = Shot("x", POSE, day(1), Camera(fov_deg=90.0), TIME).encode(sphere)
    panorama = read_panorama(data)
    assert panorama.geometry.horizontal_fov_deg == 90.0
    assert panorama.heading_deg == pytest.approx(123.45)
    assert np.asarray(Image.open(io.BytesIO(data))).min() > 250
    unstated = Shot("x", POSE, day(1), Camera(90.0, states_heading=False), TIME).encode(sphere)
    assert read_panorama(unstated).heading_deg is None
    assert read_panorama(unstated).geometry.horizontal_fov_deg == 90.0


def test_a_photograph_is_what_a_pinhole_sees() -> None:
    """The world is a smooth function of the direction, so every ray's colour is known."""
    axis = np.array([0.48, 0.6, 0.64])  # right, ahead, up

    def world(right: np.ndarray, ahead: np.ndarray, up: np.ndarray) -> np.ndarray:
        rays = np.stack([right, ahead, up], -1)
        return 127 + 100 * (rays @ axis) / np.linalg.norm(rays, axis=-1)

    up, azimuth = np.meshgrid(
        (0.5 - (np.arange(256) + 0.5) / 256) * np.pi,
        ((np.arange(512) + 0.5) / 512 - 0.5) * 2 * np.pi,
        indexing="ij",
    )
    sphere = world(np.cos(up) * np.sin(azimuth), np.cos(up) * np.cos(azimuth), np.sin(up))
    shot = Shot("x", POSE, dataclasses.replace(day(1), jpeg_quality=100), Camera(80, "rectilinear"))
    picture = Image.open(
        io.BytesIO(shot.encode(np.repeat(sphere[..., None], 3, 2).astype("uint8")))
    )
    width, height = picture.size
    focal = width / 2 / np.tan(np.radians(40))
    right, down = np.meshgrid(
        np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2
    )
    seen = world(right, np.full_like(right, focal), -down)
    assert np.max(abs(np.asarray(picture)[..., 0] - seen)) < 3
    assert width / height == pytest.approx(1.5, abs=0.03)


def test_a_photograph_states_lens_and_heading() -> None:
    sphere = np.zeros((64, 128, 3), np.uint8)
    data = Shot("x", POSE, day(1), Camera(90.0, "rectilinear"), TIME).encode(sphere)
    assert exif(data) == {0x9003: "2026:05:04 09:08:07", 0x9291: "065", 0xA405: 18}
    gps = Image.open(io.BytesIO(data)).getexif().get_ifd(0x8825)
    assert gps == {16: "T", 17: pytest.approx(123.45)}
    silent = Shot("x", POSE, day(1), Camera(90.0, "rectilinear", False), TIME).encode(sphere)
    assert not Image.open(io.BytesIO(silent)).getexif().get_ifd(0x8825)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--fov-deg", "400"], "fov_deg is 400: give 20 to 360"),
        (["--fov-deg", "180", "--projection", "rectilinear"], "fov_deg is 180: give 20 to 150"),
        (["--step-m", "0"], "step_m is 0"),
        (["--step-s", "nan"], "step_s is nan"),
        (["--mount-deg", "inf"], "mount_deg is inf"),
        (["--size-m", "150"], "no streets to drive round: ask for a larger town"),
    ],
)
def test_an_impossible_drive_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    out = str(tmp_path / "town")
    assert main(["synth", out, "--panoramas", "1", "--drives", "1", *words]) == 1
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_plan_without_frames_is_refused() -> None:
    with pytest.raises(TownError, match="frames is 0: give 1 to"):
        DrivePlan(count=1, frames=0)
