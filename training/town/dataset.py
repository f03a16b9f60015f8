"""A town as a folder: aerial.tif, panoramas/, poses.csv, town.json. The format is the contract."""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import rasterio
from PIL import Image
from rasterio.transform import Affine

from model.atomic_write import atomic_folder, write_durably
from training.progress import progress_bar
from training.town.aerial import render_aerial
from training.town.day import Day, day
from training.town.numba_options import U8
from training.town.poses import Pose, sample_poses
from training.town.street import render_street
from training.town.town import Town, TownError, TownSpec, build_town
from training.town.variety import varied_day

GENERATOR = "skyfix-town 1"  # change it when the same seed no longer gives the same town
ATTRIBUTION = "Skyfix procedural town, CC0"
COLUMNS = "id,file,latitude,longitude,heading_deg,camera_height_m,pitch_deg,roll_deg"

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"
 GPano:ProjectionType="equirectangular" GPano:UsePanoramaViewer="True"
 GPano:PoseHeadingDegrees="{heading:.2f}"
 GPano:FullPanoWidthPixels="{width}" GPano:FullPanoHeightPixels="{height}"
 GPano:CroppedAreaImageWidthPixels="{width}" GPano:CroppedAreaImageHeightPixels="{height}"
 GPano:CroppedAreaLeftPixels="0" GPano:CroppedAreaTopPixels="0"/>
</rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def write_town(
    out: Path,
    spec: TownSpec,
    panoramas: int,
    pano_size: tuple[int, int] = (512, 1024),
    progress: Callable[[], None] | None = None,
    workers: int = 2,
    min_spacing_m: float = 10.0,
) -> None:
    """Write the town of `spec` with that many panoramas of (height, width) into the new folder.

    Every panorama has its own day, the aerial another. The bytes depend on the arguments other
    than `workers` and `progress` only. `progress()`, called once for each panorama, replaces the
    bar on stderr. The folder appears whole or not at all. Raises TownError where `out` exists, its
    parent does not, the roads hold fewer poses, or a size is impossible.
    """
    height, width = pano_size
    if width != 2 * height or not 32 <= height <= 8192:
        raise TownError(f"panorama size {pano_size}: give (height, 2 x height), height 32 to 8192")
    if panoramas < 1 or workers < 1:
        raise TownError(f"{panoramas} panoramas by {workers} workers: give 1 or more of each")
    if not out.parent.is_dir():
        raise TownError(f"{out.parent} is no folder: make it first")
    bar = nullcontext(progress) if progress else progress_bar(f"town {spec.seed}", panoramas)
    with atomic_folder(out, TownError) as folder, bar as report:
        town = build_town(spec)
        poses = sample_poses(town, panoramas, spec.seed, min_spacing_m)
        _write_aerial(folder / "aerial.tif", town, visit(spec, 0))
        (folder / "panoramas").mkdir()

        def shoot(k: int) -> None:
            when = visit(spec, k + 1)
            image = render_street(town, poses[k], when, pano_size)
            jpeg = encode_panorama(image, poses[k].heading_deg, when)
            write_durably(folder / "panoramas" / f"{poses[k].id}.jpg", jpeg)

        # Threads: the kernels and the JPEG encoder release the interpreter, the town is shared.
        pool = ThreadPoolExecutor(workers)
        try:
            for _ in pool.map(shoot, range(panoramas)):
                report()
        finally:
            pool.shutdown(cancel_futures=True)
        write_durably(folder / "poses.csv", _poses_csv(town, poses).encode())
        write_durably(folder / "town.json", _description(town, panoramas, pano_size).encode())


def visit(spec: TownSpec, number: int) -> Day:
    """The day of a town's aerial (number 0) or of its n-th panorama."""
    when = day(spec.seed * 1_000_003 + number)
    return varied_day(when) if spec.varied else when


def encode_panorama(image: U8, heading_deg: float, day: Day) -> bytes:
    """JPEG bytes with the GPano fields of a full sphere, and no position."""
    height, width = image.shape[:2]
    xmp = _XMP.format(heading=heading_deg % 360, width=width, height=height)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=day.jpeg_quality, xmp=xmp.encode())
    return buffer.getvalue()


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


def _poses_csv(town: Town, poses: list[Pose]) -> str:
    rows = [COLUMNS]
    for pose in poses:
        place = town.latlon(pose.east_m, pose.north_m)
        where = f"{place.latitude:.8f},{place.longitude:.8f},{pose.heading_deg}"
        camera = f"{pose.camera_height_m},{pose.pitch_deg},{pose.roll_deg}"
        rows.append(f"{pose.id},panoramas/{pose.id}.jpg,{where},{camera}")
    return "\n".join(rows) + "\n"


def _description(town: Town, panoramas: int, pano_size: tuple[int, int]) -> str:
    facts = {
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
    return json.dumps(facts, indent=2) + "\n"
