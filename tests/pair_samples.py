"""Flat worlds coloured by a known function of the position, seen from the street and from above."""

import csv
import math
from pathlib import Path

import numpy as np
from PIL import Image

from training.recipes import Recipe, find

CAMERA_M = 2.0
TINY = (
    "encoder.network.dimension=16",
    "encoder.network.neck=8",
    "encoder.network.group_channels=4",
    "encoder.preprocessing.input_size=32",
    "encoder.preprocessing.strip_size=24,128",
    "encoder.preprocessing.projection=ground",
    "encoder.preprocessing.ground_span_m=24",
    "encoder.aerial_footprint_m=24",
    "stored=fp32",
    "precision=fp32",
    "warmup_steps=0",
    "negative_distance_m=0",
)
NOT_AUGMENTED = (
    "rotation=none",
    "mirror=false",
    "heading_noise_deg=0",
    "offset_m=0",
    "missing_band=0",
    "colour_jitter=0",
)


def tiny(*overrides: str) -> Recipe:
    """msae-demo on 32 pixels and 24 metres, in full precision."""
    return find("msae-demo", (*TINY, *overrides))


class World:
    """Colours in 0..255 at (east, north) metres: a few waves of 12 to 40 m length."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        heading = random.uniform(0, 2 * math.pi, (3, 4))
        rate = 2 * math.pi / random.uniform(12, 40, (3, 4))
        self._waves = rate * np.sin(heading), rate * np.cos(heading), random.uniform(0, 6, (3, 4))

    def colours(self, east, north):
        a, b, phase = self._waves
        waves = np.sin(a * east[..., None, None] + b * north[..., None, None] + phase)
        return 127.5 + 30.0 * waves.sum(-1)

    def tile(self, pixels: int, size_m: float, east: float = 0.0, north: float = 0.0):
        """uint8 (pixels, pixels, 3), north up, around a point."""
        metres = ((np.arange(pixels) + 0.5) / pixels - 0.5) * size_m
        colours = self.colours(*np.meshgrid(east + metres, north - metres))
        return colours.round().astype(np.uint8)

    def panorama(
        self,
        height: int,
        width: int,
        east: float = 0.0,
        north: float = 0.0,
        heading_deg: float = 0.0,
    ):
        """uint8 (height, width, 3), full sphere, 2 m above a point of the ground."""
        heading = np.radians(((np.arange(width) + 0.5) / width - 0.5) * 360 + heading_deg)
        elevation = np.radians(90 - (np.arange(height) + 0.5) / height * 180)
        away = CAMERA_M / np.tan(np.maximum(-elevation, 0.02))[:, None]
        seen = self.colours(east + away * np.sin(heading), north + away * np.cos(heading))
        seen[elevation > 0] = (150, 180, 220)
        return seen.round().astype(np.uint8)


def write_pairs(folder: Path, count: int, first_seed: int = 0) -> Path:
    """A folder data set of `count` worlds, 0.01 degrees apart, as lossless files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("street", "aerial", "metres_per_pixel", "latitude", "longitude", "heading_deg")
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(names)
        for i in range(count):
            world = World(first_seed + i)
            street, aerial = f"street-{i}.png", f"aerial-{i}.png"
            Image.fromarray(world.panorama(128, 256)).save(folder / street)
            Image.fromarray(world.tile(64, 48.0)).save(folder / aerial)
            table.writerow([street, aerial, 0.75, 50 + 0.01 * i, 8.0, 0])
    return folder
