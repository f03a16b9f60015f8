"""What a tilt costs, stated and unstated: `python -m benchmarks.tilt TOWN --weights FILE`.

TOWN comes from `skyfix-train synth`. Renders each panorama again, leaning by so many degrees in a
random direction. Searches the tiles around all panoramas, and a grid of tiles every 16 m. Percent.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import heading, row
from model.encoder import Encoder
from model.images import Rgb
from model.panorama import PanoramaGeometry
from model.panorama_metadata import read_panorama
from model.tilt import LEVEL, Tilt
from training.data import datasets
from training.data.datasets import list_files
from training.data.pairs import Pair
from training.evaluate.gallery import Gallery, overlapping_tiles, own_tiles
from training.evaluate.recall import recall_at, recall_within
from training.town import Pose, Town, TownSpec, build_town, render_street, visit
from training.town.camera import PANORAMA, Shot

TILTS_DEG = (0, 5, 10, 20)
STRIDE_M = 16.0

Descriptors = NDArray[np.float32]


def poses(folder: Path, pairs: Sequence[Pair], town: Town) -> list[Pose]:
    """The poses of a town's panoramas."""
    records = [record for _, record in list_files.records(folder / "poses.csv", ("heading_deg",))]
    found = []
    for pair, record in zip(pairs, records, strict=False):
        metres = pair.aerial.metres_per_pixel
        east = town.left_m + pair.aerial.column * metres
        north = town.top_m - pair.aerial.row * metres
        angles = float(record["heading_deg"]), float(record["camera_height_m"])
        found.append(Pose(record["id"], east, north, *angles, 0.0, 0.0))
    return found


def strips(
    encoder: Encoder, town: Town, shot: Sequence[Pose], tilts: Sequence[Tilt], size: tuple[int, int]
) -> tuple[list[Rgb], list[Rgb]]:
    """The strips of leaning panoramas, of which the tilt is stated, and is not."""

    def read(number: int) -> tuple[Rgb, Rgb]:
        pose, tilt = shot[number], tilts[number]
        day = visit(town.spec, number + 1)
        image = render_street(town, pose._replace(**tilt._asdict()), day, size)
        data = Shot("", pose, day, PANORAMA).encode(image)
        stated, unstated = (
            encoder.read_street(read_panorama(data, **angles._asdict())) for angles in (tilt, LEVEL)
        )
        return stated, unstated

    with ThreadPoolExecutor(2) as pool:
        stated, unstated = zip(*pool.map(read, range(len(shot))), strict=True)
    return list(stated), list(unstated)


def recall(streets: Descriptors, gallery: Gallery) -> float:
    """R@1 among the tiles around all panoramas."""
    assert gallery.right is not None
    return recall_at(streets, gallery.descriptors, gallery.right[:, 0])["1"]


def within(streets: Descriptors, gallery: Gallery) -> float:
    """Share of panoramas whose best tile of the grid lies within 25 m."""
    assert gallery.tiles_at is not None
    assert gallery.streets_at is not None
    best = (streets @ gallery.descriptors.T).argmax(1)
    return recall_within(gallery.tiles_at[best], gallery.streets_at)["25 m"]


def main() -> None:
    """Print a line for each tilt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("town", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--panoramas", type=int, default=200, help="use only the first")
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.weights)
    pairs = datasets.load("town", arguments.town, "all")[: arguments.panoramas]
    facts = json.loads((arguments.town / "town.json").read_text())
    town = build_town(TownSpec(**facts["spec"]))
    shot = poses(arguments.town, pairs, town)
    own, grid = own_tiles(encoder, pairs), overlapping_tiles(encoder, pairs, STRIDE_M)
    norths = [PanoramaGeometry.north_of(pose.heading_deg) for pose in shot]
    directions = np.random.default_rng(0).uniform(0.0, 2.0 * math.pi, len(shot))
    heading("tilt", "R@1, stated", "R@1, unstated", "25 m, stated", "25 m, unstated")
    for tilt_deg in TILTS_DEG:
        tilts = [Tilt(tilt_deg * math.cos(way), tilt_deg * math.sin(way)) for way in directions]
        found = [
            encoder.encode_strips(leaning, norths)
            for leaning in strips(encoder, town, shot, tilts, tuple(facts["panorama_size"]))
        ]
        recalls = [recall(streets, own) for streets in found]
        recalls += [within(streets, grid) for streets in found]
        row(f"{tilt_deg}°", *(f"{100.0 * share:.1f}" for share in recalls))


if __name__ == "__main__":
    main()
