"""From the town to real photographs: `python -m benchmarks.transfer REAL --weights W [W …]`.

REAL holds any of cvusa/ (its official layout), cvact/ANU_data_small/ (its official layout),
cvact/small_copies/N/ and london/LATITUDE,LONGITUDE,HEADING/ (panorama.png, aerial.png). Each set
of pairs is a gallery of its own, and all pairs are another. These galleries are small, and the sets
look different. So `--distractors FOLDER` adds all images of a folder to a gallery of all pairs.

Each aerial is cut to the encoder's footprint. Recall@1 has a 95 % interval (Wilson); MRR is the
mean reciprocal rank. Few pairs give a noisy result: the same is measured on eight copies of the
pairs, by quarter turns and mirroring, among the same distractors. The copies are as real, though
not independent. So the sign test of two weights takes each pair once: its rank, and the mean of its
copies' reciprocal ranks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from benchmarks.table import heading, row
from model.encoder import Encoder
from model.images import Rgb
from model.panorama import PanoramaGeometry
from training.data import datasets
from training.data.datasets import cvact
from training.data.image_operations import mirror, quarter_turn, turn_norths
from training.data.pairs import AerialPoint, Pair, read_chip, read_strip
from training.evaluate.recall import ranks, recall_depths

CVACT_TILE_M = 1200 * cvact.METRES_PER_PIXEL_AT_EQUATOR * math.cos(math.radians(35.3))
LONDON_TILE_M = 256 * 0.5  # as in the code of its authors (Lu et al., CVPR 2020)
UC_MERCED_METRES_PER_PIXEL = 0.3048  # one foot, as published
IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
COPIES = ("copies: R@1", "R@10", "MRR")

Floats = NDArray[np.float32]
Ranks = NDArray[np.int64]  # (8, N), 1 is first; row 0 is the original


def load_sets(real: Path) -> dict[str, list[Pair]]:
    """The pairs by name of set."""
    sets = {}
    if (real / "cvusa").is_dir():
        sets["CVUSA"] = list(datasets.load("cvusa", real / "cvusa", "all"))
    full = real / "cvact" / "ANU_data_small"
    sets["CVACT"] = [
        pair(street, full / "satview_polish" / street.name.replace("grdView", "satView_polish"))
        for street in sorted((full / "streetview").glob("*_grdView.jpg"))
    ] + [
        pair(folder / "panorama.png", folder / "aerial.png")
        for folder in sorted((real / "cvact" / "small_copies").glob("*"))
    ]
    sets["London"] = [
        pair(
            folder / "panorama.png",
            folder / "aerial.png",
            LONDON_TILE_M,
            heading_deg=float(folder.name.split(",")[2]),
        )
        for folder in sorted((real / "london").glob("*,*,*"))
    ]
    return {name: pairs for name, pairs in sets.items() if pairs}


def pair(
    street: Path, aerial: Path, size_m: float = CVACT_TILE_M, heading_deg: float = 0.0
) -> Pair:
    """A full sphere at the middle of its tile; its middle column looks at `heading_deg`."""
    geometry = PanoramaGeometry(north=PanoramaGeometry.north_of(heading_deg))
    point = middle(aerial, size_m=size_m)
    return Pair(f"{street.parent.name}/{street.stem}", street, point, geometry)


def middle(aerial: Path, metres_per_pixel: float = 0.0, size_m: float = 0.0) -> AerialPoint:
    """The middle of an image of the stated scale, or else of the stated width."""
    with Image.open(aerial) as image:
        width, height = image.size
    return AerialPoint(aerial, metres_per_pixel or size_m / width, width / 2, height / 2)


def encode_copies(
    encoder: Encoder, pairs: Sequence[Pair], distractors: Sequence[AerialPoint]
) -> list[tuple[Floats, Floats]]:
    """Descriptors of eight copies: streets (N, D), and aerials (N + M, D), own tiles first."""
    settings, footprint_m = encoder.config.preprocessing, encoder.aerial_footprint_m

    def cut(points: Sequence[AerialPoint]) -> list[Rgb]:
        return [read_chip(at, footprint_m, settings.input_size, settings.fill) for at in points]

    streets = [read_strip(pair, settings) for pair in pairs]
    strips = torch.tensor(np.stack([strip for strip, _ in streets]))
    tiles = torch.tensor(np.stack(cut([pair.aerial for pair in pairs])))
    norths = np.array([north for _, north in streets])
    others = [encoder.encode_aerials(cut(distractors))] if distractors else []
    copies = []
    for mirrored in (False, True):
        for quarter in range(4):
            quarters, where = np.full(len(pairs), float(quarter)), np.full(len(pairs), mirrored)
            changed, turned = mirror(strips, quarter_turn(tiles, quarters), where)
            street = encoder.encode_strips(
                list(changed.numpy()), list(turn_norths(norths, quarters, where))
            )
            aerial = encoder.encode_aerials(list(turned.numpy()))
            copies.append((street, np.concatenate([aerial, *others])))
    return copies


def rank_copies(copies: Sequence[tuple[Floats, Floats]]) -> Ranks:
    """Each panorama's rank of its own tile, in each copy."""
    return np.stack([ranks(street, aerial) + 1 for street, aerial in copies])


def write_row(name: str, rank: Ranks, tiles: int) -> None:
    """A line of the table from ranks among so many tiles."""
    count, hits, few = rank.shape[1], int((rank[0] == 1).sum()), recall_depths(tiles)["1%"]
    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    row(
        name, tiles, f"{hits} of {count}", f"{hits / count:.2f} ({low:.2f} to {high:.2f})",
        f"{(rank[0] <= 10).mean():.2f}", f"{(rank[0] <= few).mean():.2f} (K = {few})",
        f"{(1 / rank[0]).mean():.2f}",
        *(f"{value:.2f}" for value in ((rank == 1).mean(), (rank <= 10).mean(), (1 / rank).mean())),
    )  # fmt: skip


def sign_test(before: Ranks, after: Ranks) -> list[tuple[int, int, float]]:
    """How many pairs got better and worse, and the exact p: by the original, by all copies."""
    gains = [before[0] - after[0], ((1 / after).mean(0) - (1 / before).mean(0)).round(9)]
    counts = [(int((gain > 0).sum()), int((gain < 0).sum())) for gain in gains]
    return [
        (better, worse, float(binomtest(better, max(1, better + worse)).pvalue))
        for better, worse in counts
    ]


def find_images(folder: Path, metres_per_pixel: float) -> list[AerialPoint]:
    """The middles of all images of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    return [middle(path, metres_per_pixel) for path in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("--weights", type=Path, nargs="+", action="extend", required=True)
    parser.add_argument("--distractors", type=Path)
    parser.add_argument("--metres-per-pixel", type=float, default=UC_MERCED_METRES_PER_PIXEL)
    arguments = parser.parse_args()
    pairs, sets = list[Pair](), dict[str, slice]()
    for name, members in load_sets(arguments.real).items():
        sets[name] = slice(len(pairs), len(pairs) + len(members))
        pairs += members
    sets["all"] = slice(len(pairs))
    folder, distractors = arguments.distractors, []
    if folder and not (distractors := find_images(folder, arguments.metres_per_pixel)):
        parser.error(f"--distractors: {folder} holds no image")
    points = [pair.aerial for pair in pairs] + distractors
    width_m = min(2 * min(at.column, at.row) * at.metres_per_pixel for at in points)
    before = None
    for path in arguments.weights:
        encoder = Encoder.load(path)
        print(f"\n{path}, encoder {encoder.fingerprint[:12]}\n")
        if encoder.aerial_footprint_m > width_m:
            print(f"Aerials are narrower than {encoder.aerial_footprint_m:g} m: fill shows them.\n")
        heading("gallery", "tiles", "first", "R@1 (95 %)", "R@10", "R@1 %", "MRR", *COPIES)
        copies = encode_copies(encoder, pairs, distractors)
        for name, part in sets.items():
            own = [(street[part], aerial[: len(pairs)][part]) for street, aerial in copies]
            write_row(name, rank_copies(own), len(own[0][1]))
        rank = rank_copies(copies)
        for name, part in sets.items() if distractors else ():
            write_row(f"{name}, distractors", rank[:, part], len(points))
        if before is None:
            before = rank
            continue
        print(f"\nAmong all tiles, {arguments.weights[0]} to {path}:")
        for by, (better, worse, p) in zip(("rank", "copies"), sign_test(before, rank), strict=True):
            print(f"by {by}: {better} pairs better, {worse} worse, p = {p:.2g}")


if __name__ == "__main__":
    main()
