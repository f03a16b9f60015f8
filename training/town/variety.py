"""What a varied town looks like: land, plants, materials and film far apart, on the same streets.

The plain town is a green suburb in every seed. Photographs come from deserts, conifer forests and
red earth, through cameras of their own; a network that saw only the suburb learns its look.
Only the appearance varies: streets, plots and houses of a seed stay where they are.
"""

from dataclasses import dataclass, replace

import numpy as np

from training.town.day import Day
from training.town.numba_options import Triple
from training.town.style import Style, rgb

Palette = tuple[Triple, ...]


@dataclass(frozen=True)
class _Climate:
    """Anchors that a town is mixed from. Colours sRGB 0..255, shares 0..1."""

    grass: Palette
    soil: Palette
    leaves: Palette
    trees: tuple[float, float]  # factor on the plain town's density
    scrub: tuple[float, float]  # more trees and bushes per place of a meadow
    conifers: tuple[float, float]  # share of trees


_GREEN, _OLIVE, _STRAW = (88, 118, 54), (118, 120, 76), (172, 152, 104)
_BROWN, _RED, _SAND, _DARK = (132, 104, 78), (166, 102, 72), (204, 180, 140), (92, 78, 64)
_BROADLEAF = ((74, 92, 50), (92, 108, 58), (62, 80, 48))
_NEEDLES = ((44, 62, 46), (56, 70, 52), (50, 66, 60))
_GRAYLEAF = ((108, 114, 84), (96, 104, 72), (122, 118, 88))

_CLIMATES = (
    _Climate((_GREEN, _OLIVE), (_BROWN, _DARK), _BROADLEAF, (0.5, 1.6), (0, 0.04), (0, 0.15)),
    _Climate((_OLIVE, _STRAW), (_RED, _SAND), _GRAYLEAF, (0.3, 1.2), (0.02, 0.12), (0, 0.2)),
    _Climate((_SAND, _STRAW), (_SAND, _RED), _GRAYLEAF, (0.05, 0.3), (0.1, 0.45), (0, 0.1)),
    _Climate((_GREEN, _STRAW), (_BROWN, _RED), _NEEDLES, (1.0, 2.6), (0, 0.1), (0.5, 0.9)),
    _Climate((_STRAW, _GREEN), (_DARK, _BROWN), _BROADLEAF, (0.05, 0.4), (0, 0.03), (0, 0.3)),
)


def varied_style(style: Style, seed: int) -> Style:
    """`style` in the climate and the materials of a seed."""
    rng = np.random.default_rng([seed, 21])
    climate = _CLIMATES[rng.integers(len(_CLIMATES))]
    soil = _mixed(climate.soil, rng)
    grass = _mixed(climate.grass, rng)
    return replace(
        style,
        asphalt=_gray(rng, 58, 172, cast=5),
        dirt=soil,
        grass=grass,
        crops=tuple(_mixed(c, rng) for c in ((soil, _BROWN), (_STRAW, _SAND), (_GREEN, grass))),
        roofs=_materials(style.roofs, rng),
        walls=_materials(style.walls, rng),
        leaves=tuple(_mixed(climate.leaves, rng) for _ in range(6)),
        trees=style.trees * rng.uniform(*climate.trees),
        tree_size=style.tree_size * rng.uniform(0.7, 1.3),
        scrub=rng.uniform(*climate.scrub),
        conifers=rng.uniform(*climate.conifers),
    )


def varied_day(day: Day) -> Day:
    """`day` through a camera of its own: exposure, contrast, colours and the sun's height."""
    rng = np.random.default_rng([day.seed, 78])
    warmth, green = rng.normal(0, 0.07), rng.normal(0, 0.04)
    return replace(
        day,
        sun_elevation_deg=rng.uniform(18, 72),
        exposure=float(np.exp(rng.normal(-0.05, 0.32))),
        white_balance=(1 + warmth, 1 + green, 1 - warmth),
        contrast=rng.uniform(0.75, 1.45),
        saturation=rng.uniform(0.35, 1.3),
        haze_m=float(np.exp(rng.uniform(np.log(150), np.log(2500)))),
    )


def _mixed(anchors: Palette, rng: np.random.Generator) -> Triple:
    """A colour between two of the anchors, a little off either."""
    first, second = (np.array(anchors[i]) for i in rng.integers(len(anchors), size=2))
    share = rng.uniform()
    return rgb((first * share + second * (1 - share)) * rng.normal(1, 0.08) + rng.normal(0, 6, 3))


def _gray(rng: np.random.Generator, low: float, high: float, cast: float) -> Triple:
    return rgb(rng.uniform(low, high) + rng.normal(0, cast, 3))


def _materials(plain: Palette, rng: np.random.Generator) -> Palette:
    """The plain town's materials, each moved far, and as many grays with a cast."""
    moved = (rgb(np.array(one) * rng.normal(1, 0.18) + rng.normal(0, 16, 3)) for one in plain)
    return (*moved, *(_gray(rng, 60, 225, cast=10) for _ in plain))
