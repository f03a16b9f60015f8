"""The character of one town: everything that its seed decides once, before anything is placed."""

from dataclasses import dataclass

import numpy as np

from training.town.numba_options import Triple, triple

GRID, BRICKWORK, SUBURB, ORGANIC, RURAL = "grid", "brickwork", "suburb", "organic", "rural"
PATTERNS = (GRID, BRICKWORK, SUBURB, ORGANIC, RURAL)

_ROOFS: tuple[Triple, ...] = (
    (128, 92, 76), (150, 84, 62), (172, 98, 70), (104, 100, 98), (84, 82, 84), (138, 132, 126),
    (118, 104, 92), (176, 172, 166), (96, 108, 116), (150, 134, 112), (196, 190, 180), (74, 68, 66),
    (112, 74, 62), (98, 110, 98), (160, 120, 90),
)  # fmt: skip
_WALLS: tuple[Triple, ...] = (
    (206, 198, 182), (222, 218, 208), (168, 112, 88), (150, 94, 74), (186, 160, 128),
    (198, 184, 152), (158, 166, 170), (176, 186, 176), (228, 226, 222), (140, 120, 104),
    (190, 142, 112),
    (208, 196, 160), (120, 128, 136), (216, 206, 196), (174, 150, 138), (134, 146, 156),
)  # fmt: skip
_LEAVES: tuple[Triple, ...] = (
    (74, 92, 50), (64, 84, 46), (88, 102, 56), (78, 88, 60), (56, 76, 48), (96, 104, 70),
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """One town's character. Lengths in metres, colours sRGB 0..255, shares 0..1."""

    pattern: str
    angle: float  # radians, of the street lattice
    spacing: tuple[float, float]  # between parallel streets, along and across
    jitter: float  # of the lattice's nodes, share of the spacing
    bend: tuple[float, float]  # amplitude and wavelength of the smooth displacement
    gaps: float  # share of street pieces left out
    spurs: float  # cul-de-sacs per block
    road_half: tuple[float, float, float]  # main, local, lane: half widths of the carriageway
    asphalt: Triple
    dirt: Triple
    sidewalk: str  # "none" | "attached" | "detached"
    kerbed: bool
    yellow: bool  # centre lines yellow with white edges, or all white
    grass: Triple
    dryness: float  # 0 green, 1 straw
    crops: tuple[Triple, ...]  # bare, ripe and young fields
    houses: float  # share of built lots
    centre: float  # share of commercial blocks at the town's middle
    open_land: float  # share of fields and forest among blocks
    lot: tuple[float, float]  # frontage range
    setback: tuple[float, float]
    storeys: float  # mean of houses
    roofs: tuple[Triple, ...]
    hips: float
    walls: tuple[Triple, ...]
    leaves: tuple[Triple, ...]
    trees: float  # density factor
    scrub: float  # more trees and bushes per place of a meadow; a fifth of it in fields
    conifers: float  # share of trees
    street_trees: float  # share of streets lined with trees
    tree_size: float
    evergreen: float
    hedges: float
    fences: float


# By pattern: the ranges of both spacings, jitter, the range of the bend's amplitude, gaps, spurs.
_STREETS = {
    GRID: ((70, 110), (110, 190), 0.03, (0, 4), 0.08, 0.05),
    BRICKWORK: ((65, 95), (120, 200), 0.05, (0, 14), 0.08, 0.15),
    SUBURB: ((75, 105), (130, 200), 0.12, (14, 30), 0.20, 0.5),
    ORGANIC: ((80, 120), (90, 150), 0.24, (10, 26), 0.20, 0.3),
    RURAL: ((120, 165), (150, 230), 0.14, (6, 34), 0.14, 0.15),
}


def style(seed: int) -> Style:
    """The style of a seed; the pattern is drawn first, and most ranges depend on it.

    One table of random draws. Their order is fixed: another order gives other towns for a seed.
    """
    rng = np.random.default_rng([seed, 1])
    pattern = str(rng.choice(PATTERNS, p=(0.17, 0.17, 0.28, 0.18, 0.20)))
    rural = pattern == RURAL
    along, across, jitter, bend, gaps, spurs = _STREETS[pattern]
    dryness = rng.uniform(0, 1) ** 1.6
    green, straw = np.array([92, 112, 58.0]), np.array([158, 142, 98.0])
    grass = green * (1 - dryness) + straw * dryness + rng.normal(0, 5, 3)
    gray = rng.uniform(88, 150)
    asphalt = gray + np.array([1, 0, -1]) * rng.uniform(-2, 6)
    dirt = np.array([150, 128, 100]) + rng.normal(0, 10) + np.array([1, 0, -1]) * rng.uniform(0, 16)
    pick = rng.permutation(len(_ROOFS))[: rng.integers(2, 7)]
    wall = rng.permutation(len(_WALLS))[: rng.integers(4, 9)]
    walks = (0.85, 0.05, 0.1) if rural else (0.3, 0.3, 0.4)
    return Style(
        pattern=pattern,
        angle=rng.uniform(0, np.pi),
        spacing=(rng.uniform(*along), rng.uniform(*across)),
        jitter=jitter,
        bend=(rng.uniform(*bend), rng.uniform(260, 520)),
        gaps=gaps,
        spurs=spurs,
        road_half=(rng.uniform(4.6, 7.5), rng.uniform(2.9, 4.6), rng.uniform(1.7, 2.5)),
        asphalt=rgb(asphalt),
        dirt=rgb(dirt),
        sidewalk=str(rng.choice(("none", "attached", "detached"), p=walks)),
        kerbed=rng.uniform() < (0.15 if rural else 0.8),
        yellow=rng.uniform() < 0.55,
        grass=rgb(grass),
        dryness=dryness,
        crops=((122, 100, 78), (176, 156, 100), (96, 122, 58)),
        houses=rng.uniform(0.1, 0.3) if rural else rng.uniform(0.7, 0.97),
        centre=rng.uniform(0, 0.15) if rural else rng.uniform(0.1, 0.9),
        open_land=rng.uniform(0.75, 0.95) if rural else rng.uniform(0.03, 0.22),
        lot=(rng.uniform(13, 19), rng.uniform(20, 32)),
        setback=(rng.uniform(1.5, 5), rng.uniform(5.5, 11)),
        storeys=rng.uniform(1.0, 2.3),
        roofs=tuple(_ROOFS[i] for i in pick),
        hips=rng.uniform(0, 1),
        walls=tuple(_WALLS[i] for i in wall),
        leaves=_LEAVES,
        trees=rng.uniform(0.35, 1.5),
        scrub=0.0,
        street_trees=rng.uniform(0, 0.8),
        tree_size=rng.uniform(0.75, 1.3),
        evergreen=(evergreen := rng.uniform(0.05, 0.8)),
        conifers=0.2 * evergreen,
        hedges=rng.uniform(0, 0.5),
        fences=rng.uniform(0, 0.6),
    )


def rgb(values: np.ndarray) -> Triple:
    """A colour that no light makes black or white."""
    return triple(np.clip(values, 20, 235), 0)
