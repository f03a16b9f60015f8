"""The ground as a picture that is painted in turns, and its materials."""

from typing import NamedTuple

from training.town.numba_options import F32, U8

# The first three are plants, which the seasons tint.
GRASS, LAWN, CROP, SOIL, GRAVEL, PAVED, ROAD, WATER = range(8)
MATERIALS = 8


class Canvas(NamedTuple):
    colour: U8  # (H, W, 3) sRGB
    material: U8  # (H, W)
    metres: float  # per pixel
    grass: F32  # (3,) the town's own colours
    dirt: F32
    crops: F32  # (3, 3) bare, ripe and young fields
    noise: F32
    seed: int
