"""Materials of the ground: the first three are plants, which the seasons tint."""

GRASS, LAWN, CROP, SOIL, GRAVEL, PAVED, ROAD, WATER = range(8)
MATERIALS = 8
