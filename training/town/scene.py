"""A town on one day, whole or around a camera, ready to be drawn: rasters, cars, shadows, light."""

from typing import NamedTuple

import numpy as np

from training.town import solids as box
from training.town.day import Day
from training.town.light import Light, ground_tints, leaf_colours, light, shadow_tops
from training.town.noise import texture
from training.town.numba_options import F32, U8, U16, Triple, triple
from training.town.solids import stamp_solids
from training.town.town import Town
from training.town.traffic import car_solids, traffic
from training.town.vegetation import TX, TY

FAR_M = 110.0  # how far the world is drawn
_CLEAR_OF_CARS_M = 4.5  # a day's cars this near to the camera were not there at that moment
_OWNERS = 65535  # rows that the owner raster can name


class Scene(NamedTuple):
    """Rasters are windows of the town's; metres inside count from the window's corner."""

    left: float  # of the window, in the town's local metres
    top: float
    metres: float  # per pixel
    ground: U8
    material: U8
    tints: F32  # (MATERIALS, 3) the season's factors, linear
    height: U16
    owner: U16
    solids: F32
    crown_top: U16
    tree: U16
    trees: F32
    leaves: F32  # (M, 4) linear colour, fullness
    shade: F32  # metres up to which a cell lies in shadow
    light: Light
    noise: F32
    plain: Triple  # linear colour of the land beyond
    seed: int


def scene(town: Town, day: Day, around: tuple[float, float] | None = None) -> Scene:
    """The whole town that day, or what a camera at local metres `around` may see of it."""
    metres, n = town.spec.resolution_m, town.spec.pixels
    c0, r0, c1, r1 = 0, 0, n, n
    cars = traffic(town, day, around, FAR_M - 5)
    if around is not None:
        c0, r0 = (int(np.clip((v - FAR_M) / metres, 0, n)) for v in around)
        c1, r1 = (int(np.clip((v + FAR_M) / metres + 1, 0, n)) for v in around)
        cars = cars[np.hypot(*(cars[:, :2] - around).T) > _CLEAR_OF_CARS_M]
    left, top = c0 * metres, r0 * metres
    shift = np.array([left, top], np.float32)
    solids = np.concatenate([town.solids, car_solids(cars)])[:_OWNERS]
    trees = town.trees.copy()
    solids[:, [box.X, box.Y]] -= shift
    trees[:, [TX, TY]] -= shift
    cut = np.s_[r0:r1, c0:c1]
    height, owner, crown_top = (a[cut].copy() for a in (town.height, town.owner, town.crown_top))
    stamp_solids(solids, len(town.solids), metres, height, owner)
    lights = light(day)
    shade = np.zeros(height.shape, np.float32)
    shadow_tops(height, crown_top, metres, lights.sun, shade)
    return Scene(
        left=left,
        top=top,
        metres=metres,
        ground=np.ascontiguousarray(town.ground[cut]),
        material=np.ascontiguousarray(town.material[cut]),
        tints=ground_tints(day),
        height=height,
        owner=owner,
        solids=solids,
        crown_top=crown_top,
        tree=np.ascontiguousarray(town.tree[cut]),
        trees=trees,
        leaves=leaf_colours(town.trees, day),
        shade=shade,
        light=lights,
        noise=texture(),
        plain=triple(np.square(np.array(town.style.grass) / 255) * np.square(day.grass_tint), 0),
        seed=town.spec.seed % 997,
    )
