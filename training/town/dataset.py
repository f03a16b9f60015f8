"""A town as a folder: aerial.tif, panoramas/, poses.csv, town.json. The format is the contract.

Drives are folders of their own: drives/001/000.jpg and so on beside drives/001/poses.csv.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rasterio
from rasterio.transform import Affine

from model.atomic_write import atomic_folder, write_durably
from training.progress import progress_bar
from training.town.aerial import render_aerial
from training.town.camera import PANORAMA, Shot
from training.town.day import Day, day
from training.town.drives import Drive, DrivePlan, take_drive
from training.town.poses import Pose, sample_poses
from training.town.routes import network
from training.town.street import render_street
from training.town.town import Town, TownError, TownSpec, build_town
from training.town.variety import varied_day

GENERATOR = "skyfix-town 1"  # change it when the same seed no longer gives the same town
ATTRIBUTION = "Skyfix procedural town, CC0"
COLUMNS = "id,file,latitude,longitude,heading_deg,camera_height_m,pitch_deg,roll_deg"

_DRIVES = 500_000  # visits from here on are drives, before it panoramas


def write_town(
    out: Path,
    spec: TownSpec,
    panoramas: int,
    pano_size: tuple[int, int] = (512, 1024),
    progress: Callable[[], None] | None = None,
    workers: int = 2,
    min_spacing_m: float = 10.0,
    drives: DrivePlan | None = None,
) -> None:
    """Write the town of `spec` with that many panoramas of (height, width) into the new folder.

    Every panorama and every drive has its own day, the aerial another. The bytes depend on the
    arguments other than `workers` and `progress` only. `progress()`, called once for each picture,
    replaces the bar on stderr. The folder appears whole or not at all. Raises TownError where `out`
    exists, its parent does not, the roads hold fewer poses or lead nowhere, or a size is
    impossible.
    """
    height, width = pano_size
    if width != 2 * height or not 32 <= height <= 8192:
        raise TownError(f"panorama size {pano_size}: give (height, 2 x height), height 32 to 8192")
    if panoramas < 1 or workers < 1:
        raise TownError(f"{panoramas} panoramas by {workers} workers: give 1 or more of each")
    if not out.parent.is_dir():
        raise TownError(f"{out.parent} is no folder: make it first")
    pictures = panoramas + (drives.count * drives.frames if drives else 0)
    bar = nullcontext(progress) if progress else progress_bar(f"town {spec.seed}", pictures)
    with atomic_folder(out, TownError) as folder, bar as report:
        town = build_town(spec)
        poses = sample_poses(town, panoramas, spec.seed, min_spacing_m)
        tables = {folder: _panoramas(spec, poses)}
        facts = _description(town, panoramas, pano_size)
        if drives:
            taken = _take_drives(town, drives)
            tables |= {folder / "drives" / name: drive.shots for name, drive in taken.items()}
            mounts = {name: drive.mount_deg for name, drive in taken.items()}
            facts["drives"] = {"plan": asdict(drives), "mounts_deg": mounts}
            facts["days"]["drives"] = f"training.town.visit(spec, {_DRIVES} + number of the drive)"
        _write_aerial(folder / "aerial.tif", town, visit(spec, 0))
        for table, shots in tables.items():
            (table / shots[0].file).parent.mkdir(parents=True)
            write_durably(table / "poses.csv", _poses_csv(town, shots).encode())
        jobs = [(table / shot.file, shot) for table, shots in tables.items() for shot in shots]
        _draw(town, jobs, pano_size, workers, report)
        write_durably(folder / "town.json", (json.dumps(facts, indent=2) + "\n").encode())


def _panoramas(spec: TownSpec, poses: list[Pose]) -> list[Shot]:
    return [
        Shot(f"panoramas/{pose.id}.jpg", pose, visit(spec, number), PANORAMA)
        for number, pose in enumerate(poses, start=1)
    ]


def _take_drives(town: Town, plan: DrivePlan) -> dict[str, Drive]:
    streets = network(town)
    return {
        f"{k:03d}": take_drive(town, streets, plan, k, visit(town.spec, _DRIVES + k))
        for k in range(1, plan.count + 1)
    }


def _draw(
    town: Town,
    jobs: list[tuple[Path, Shot]],
    pano_size: tuple[int, int],
    workers: int,
    report: Callable[[], None],
) -> None:
    def draw(job: tuple[Path, Shot]) -> None:
        path, shot = job
        sphere = render_street(town, shot.pose, shot.day, pano_size)
        write_durably(path, shot.encode(sphere))

    # Threads: the kernels and the JPEG encoder release the interpreter, the town is shared.
    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(draw, jobs):
            report()
    finally:
        pool.shutdown(cancel_futures=True)


def visit(spec: TownSpec, number: int) -> Day:
    """The day of a town's aerial (number 0) or of its n-th panorama."""
    when = day(spec.seed * 1_000_003 + number)
    return varied_day(when) if spec.varied else when


def _write_aerial(path: Path, town: Town, when: Day) -> None:
    """A Cloud-Optimised GeoTIFF, JPEG in YCbCr, with its licence in the tags."""
    image, metres = render_aerial(town, when), town.spec.resolution_m
    height, width, count = image.shape
    place = Affine(metres, 0, town.left_m, 0, -metres, town.top_m)
    with rasterio.open(
        path, "w", driver="COG", dtype="uint8", count=count, height=height, width=width,
        crs=town.crs, transform=place, compress="JPEG", quality=90, blocksize=512,
    ) as raster:  # fmt: skip
        raster.write(image.transpose(2, 0, 1))
        raster.update_tags(
            TIFFTAG_COPYRIGHT=ATTRIBUTION, ATTRIBUTION=ATTRIBUTION, LICENCE="CC0-1.0"
        )


def _poses_csv(town: Town, shots: list[Shot]) -> str:
    rows = [COLUMNS + ",time" * (shots[0].time is not None)]
    for file, pose, *_, time in shots:
        place = town.latlon(pose.east_m, pose.north_m)
        where = f"{place.latitude:.8f},{place.longitude:.8f},{pose.heading_deg}"
        camera = f"{pose.camera_height_m},{pose.pitch_deg},{pose.roll_deg}"
        when = f",{time.isoformat(timespec='milliseconds')}" if time else ""
        rows.append(f"{pose.id},{file},{where},{camera}{when}")
    return "\n".join(rows) + "\n"


def _description(town: Town, panoramas: int, pano_size: tuple[int, int]) -> dict[str, Any]:
    return {
        "generator": GENERATOR,
        "attribution": ATTRIBUTION,
        "spec": asdict(town.spec),
        "crs": town.crs,
        "left_m": town.left_m,
        "top_m": town.top_m,
        "pattern": town.style.pattern,
        "panoramas": panoramas,
        "panorama_size": list(pano_size),
        "days": {
            "aerial": asdict(visit(town.spec, 0)),
            "panoramas": "one each: training.town.visit(spec, row of poses.csv counted from 1)",
        },
    }
