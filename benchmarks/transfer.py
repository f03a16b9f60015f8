"""From the town to real photographs: `python -m benchmarks.transfer REAL --weights W [W …]`.

Each set of real pairs as a gallery of its own, and all of them as one: recall@1 with a 95 %
interval (Wilson), the median rank, and what chance gives. Telling the sets apart is easy, so a
set's own row says more. Few pairs make a noisy figure: the same is measured on eight copies of the
gallery, turned by quarters and mirrored, which are as real, though not independent.

REAL holds any of cvusa/ (its official layout), cvact/ANU_data_small/ (ditto),
cvact/small_copies/N/ and london/LATITUDE,LONGITUDE,HEADING/ (panorama.png, aerial.png).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
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
from training.data.image_operations import facing, mirrored, turned
from training.data.pairs import AerialView, Pair, read_chip, read_strip
from training.evaluate.recall import ranks

CVACT_TILE_M = cvact.METRES_PER_PIXEL_AT_EQUATOR * math.cos(math.radians(35.3)) * 1200
LONDON_TILE_M = 150.0  # nothing states it; read off the width of streets and buildings


def sets(real: Path) -> Iterator[tuple[str, list[Pair]]]:
    """The pairs by name of set."""
    if (real / "cvusa").is_dir():
        yield "CVUSA", list(datasets.load("cvusa", real / "cvusa", "all"))
    full = real / "cvact" / "ANU_data_small"
    originals = [
        pair(street, full / "satview_polish" / street.name.replace("grdView", "satView_polish"))
        for street in sorted((full / "streetview").glob("*_grdView.jpg"))
    ]
    copies = [
        pair(folder / "panorama.png", folder / "aerial.png")
        for folder in sorted((real / "cvact" / "small_copies").glob("*"))
    ]
    yield "CVACT", originals + copies
    yield (
        "London",
        [
            pair(
                folder / "panorama.png",
                folder / "aerial.png",
                LONDON_TILE_M,
                float(folder.name.split(",")[2]),
            )
            for folder in sorted((real / "london").glob("*,*,*"))
        ],
    )


def pair(
    street: Path, aerial: Path, size_m: float = CVACT_TILE_M, heading_deg: float = 0.0
) -> Pair:
    """A full sphere whose middle column looks at `heading_deg`, at the middle of its tile."""
    with Image.open(aerial) as image:
        side = image.width
    view = AerialView(aerial, size_m / side, side / 2, side / 2)
    geometry = PanoramaGeometry(north=PanoramaGeometry.north_of(heading_deg))
    return Pair(f"{street.parent.name}/{street.stem}", street, view, geometry)


def rank_of(encoder: Encoder, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Of each panorama's own tile among all tiles, 1 is first: (8, N), copy 0 as given."""
    settings, footprint_m = encoder.config.preprocessing, encoder.aerial_footprint_m
    streets = [read_strip(one, settings) for one in pairs]
    before = torch.tensor(np.stack([strip for strip, _ in streets]))
    norths = np.array([north for _, north in streets])
    chips = torch.tensor(
        np.stack(
            [
                read_chip(one.aerial, footprint_m, settings.input_size, settings.fill)
                for one in pairs
            ]
        )
    )
    found = []
    for mirror in (False, True):
        for quarter in range(4):
            quarters, flip = np.full(len(pairs), float(quarter)), np.full(len(pairs), mirror)
            strips, tiles = mirrored(before, turned(chips, quarters), flip)
            described = encoder.encode_strips(
                list(strips.numpy()), list(facing(norths, quarters, flip))
            )
            aerials = encoder.encode_aerials(list(tiles.numpy()))
            found.append(ranks(described, aerials) + 1)
    return np.stack(found)


def row(name: str, rank: NDArray[np.int64]) -> str:
    """One line of the table, of ranks (8, N)."""
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
    galleries = [(name, pairs) for name, pairs in sets(arguments.real) if pairs]
    everything = ("together", [one for _, pairs in galleries for one in pairs])
    for path in arguments.weights:
        encoder = Encoder.load(path)
        print(f"\n{path.name}, encoder {encoder.fingerprint[:12]}\n")
        print("| gallery | first | R@1 (95 %) | median rank | eight copies: both | chance: both |")
        print("|---|---|---|---|---|---|")
        for name, pairs in [*galleries, everything]:
            print(row(name, rank_of(encoder, pairs)), flush=True)


if __name__ == "__main__":
    main()
