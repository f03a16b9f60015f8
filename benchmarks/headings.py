"""Which tolerance a file's heading needs: `python -m benchmarks.headings TOWN --home HOME`.

TOWN comes from `skyfix-train synth`; HOME holds its index. Locates each panorama with its true
heading turned to either side, within each tolerance. An answer is right within 25 m.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.demo import position
from benchmarks.table import heading, row
from model.geo import distance_m
from service.cli.wiring import open_localizer
from service.locate.hints import UNKNOWN, Hints
from service.locate.localizer import Localizer
from service.settings import Settings

OFF_DEG = (0, 5, 10, 20)
TOLERANCES_DEG = (0, 10, 15, 20, 30)
RIGHT_M = 25.0


class Panorama(NamedTuple):
    """A file of the town and its line of poses.csv."""

    data: bytes
    pose: dict[str, str]


def measure(localizer: Localizer, asked: Iterable[tuple[Panorama, Hints]]) -> tuple[str, ...]:
    """Percent right, median error and median time of `answer`, as cells of the table."""
    errors_m, times_ms = [], []
    for panorama, hints in asked:
        query = localizer.prepare(panorama.data, hints)
        begun = time.perf_counter()
        (fix,) = localizer.answer([query])
        times_ms.append(1000.0 * (time.perf_counter() - begun))
        assert fix.position is not None
        errors_m.append(distance_m(fix.position, position(panorama.pose)))
    right = 100.0 * np.mean(np.array(errors_m) <= RIGHT_M)
    return f"{right:.1f}", f"{np.median(errors_m):.1f}", f"{np.median(times_ms):.0f}"


def turned(panorama: Panorama, number: int, off_deg: float, tolerance_deg: float) -> Hints:
    """The true heading, turned: every other panorama's to the other side."""
    stated = float(panorama.pose["heading_deg"]) + (-off_deg if number % 2 else off_deg)
    return Hints(heading_deg=stated % 360.0, heading_tolerance_deg=tolerance_deg)


def main() -> None:
    """Print a line for each tolerance and error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("town", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    arguments = parser.parse_args()
    localizer = open_localizer(Settings(home=arguments.home))
    with (arguments.town / "poses.csv").open(newline="") as file:
        poses = list(csv.DictReader(file))
    town = [Panorama((arguments.town / pose["file"]).read_bytes(), pose) for pose in poses]
    heading("tolerance", "heading off by", "within 25 m, %", "median, m", "ms")
    for tolerance, off in product(TOLERANCES_DEG, OFF_DEG):
        asked = [
            (panorama, turned(panorama, number, off, tolerance))
            for number, panorama in enumerate(town)
        ]
        row(f"{tolerance}°", f"{off}°", *measure(localizer, asked))
    row(
        "180°",
        "-",
        *measure(localizer, [(panorama, Hints(heading_deg=UNKNOWN)) for panorama in town]),
    )


if __name__ == "__main__":
    main()
