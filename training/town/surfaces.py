"""The ground as a picture that is painted in turns, and its materials."""

from typing import NamedTuple

from training.town.numba_options import F32, U8, Triple

# The first three are plants, which the seasons tint.
GRASS, LAWN, CROP, SOIL, GRAVEL, PAVED, ROAD, WATER = range(8)
MATERIALS = 8


class Canvas(NamedTuple):
    colour: U8  # (H, W, 3) sRGB
    material: U8  # (H, W)
    metres: float  # per pixel
    grass: Triple  # the town's own colours
    dirt: Triple
    crops: tuple[Triple, ...]  # bare, ripe and young fields
    noise: F32
    seed: int
