"""From the town to real photographs: `python -m benchmarks.transfer REAL --weights W [W …]`.

Each set of real pairs is a gallery of its own, and all sets together are another: recall@1 with a
95 % interval (Wilson), the median rank, and chance. The sets look different, so a set's own row
says more than "together". Few pairs give a noisy result: the same is measured on eight copies of
the gallery, by quarter turns and mirroring. The copies are as real, though not independent.

REAL holds any of cvusa/ (its official layout), cvact/ANU_data_small/ (its official layout),
cvact/small_copies/N/ and london/LATITUDE,LONGITUDE,HEADING/ (panorama.png, aerial.png).
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

from model.encoder import Encoder
from model.panorama import PanoramaGeometry
from training.data import datasets
from training.data.datasets import cvact
from training.data.image_operations import mirror, quarter_turn, turn_norths
from training.data.pairs import AerialPoint, Pair, read_chip, read_strip
from training.evaluate.recall import ranks

CVACT_TILE_M = cvact.METRES_PER_PIXEL_AT_EQUATOR * math.cos(math.radians(35.3)) * 1200
LONDON_TILE_M = 150.0  # not published; estimated from the width of streets and buildings


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
    with Image.open(aerial) as image:
        side = image.width
    point = AerialPoint(aerial, size_m / side, side / 2, side / 2)
    geometry = PanoramaGeometry(north=PanoramaGeometry.north_of(heading_deg))
    return Pair(f"{street.parent.name}/{street.stem}", street, point, geometry)


def rank_copies(encoder: Encoder, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Ranks of each panorama's own tile, 1 is first: (8, N); copy 0 is the original."""
    settings, footprint_m = encoder.config.preprocessing, encoder.aerial_footprint_m
    streets = [read_strip(pair, settings) for pair in pairs]
    chips = [
        read_chip(pair.aerial, footprint_m, settings.input_size, settings.fill) for pair in pairs
    ]
    strips = torch.tensor(np.stack([strip for strip, _ in streets]))
    tiles = torch.tensor(np.stack(chips))
    norths = np.array([north for _, north in streets])
    found = []
    for mirrored in (False, True):
        for quarter in range(4):
            quarters, where = np.full(len(pairs), float(quarter)), np.full(len(pairs), mirrored)
            changed, turned = mirror(strips, quarter_turn(tiles, quarters), where)
            street = encoder.encode_strips(
                list(changed.numpy()), list(turn_norths(norths, quarters, where))
            )
            aerial = encoder.encode_aerials(list(turned.numpy()))
            found.append(ranks(street, aerial) + 1)
    return np.stack(found)


def table_row(name: str, rank: NDArray[np.int64]) -> str:
    """A line of the table from ranks (8, N)."""
    count, hits = rank.shape[1], int((rank[0] == 1).sum())
    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return (
        f"| {name} | {hits} of {count} | {hits / count:.2f} ({low:.2f} to {high:.2f}) | "
        f"{np.median(rank[0]):g} | {(rank == 1).mean():.2f}, {np.median(rank):g} | "
        f"{1 / count:.2f}, {(count + 1) / 2:g} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    galleries = load_sets(arguments.real)
    galleries["together"] = [pair for pairs in galleries.values() for pair in pairs]
    for path in arguments.weights:
        encoder = Encoder.load(path)
        print(f"\n{path.name}, encoder {encoder.fingerprint[:12]}\n")
        print("| gallery | first | R@1 (95 %) | median rank | eight copies: both | chance: both |")
        print("|---|---|---|---|---|---|")
        for name, pairs in galleries.items():
            print(table_row(name, rank_copies(encoder, pairs)), flush=True)


if __name__ == "__main__":
    main()
