"""Days: everything that differs between two visits to the same town."""

from dataclasses import dataclass

import numpy as np

from training.town.numba_options import Triple, triple

SEASONS = ("spring", "summer", "autumn", "late winter")


@dataclass(frozen=True)
class Day:
    """One visit. Angles in degrees, clockwise from north; shares 0..1; distances in metres."""

    seed: int
    season: str
    sun_azimuth_deg: float
    sun_elevation_deg: float
    sunshine: float  # 0 overcast, 1 clear: strength of direct light and shadows
    clouds: float  # share of the sky covered
    leaves: float  # how full deciduous crowns are
    grass_tint: Triple  # factors on ground plants
    leaf_tint: Triple  # factors on deciduous leaves
    exposure: float
    white_balance: Triple
    contrast: float
    saturation: float
    haze_m: float  # distance at which 1/e of contrast is left
    traffic: float  # share of parking stands taken, and density of moving cars
    jpeg_quality: int


def day(seed: int) -> Day:
    """The day of a seed, always the same one."""
    rng = np.random.default_rng([seed, 77])
    season = str(rng.choice(SEASONS, p=(0.25, 0.4, 0.2, 0.15)))
    grass, leaf, leaves = {
        "spring": ((0.96, 1.06, 0.88), (1.08, 1.14, 0.86), (0.75, 1.0)),
        "summer": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.9, 1.0)),
        "autumn": ((1.1, 0.98, 0.88), (1.55, 1.02, 0.62), (0.5, 0.95)),
        "late winter": ((1.16, 0.98, 0.96), (1.3, 1.02, 1.2), (0.12, 0.3)),
    }[season]
    overcast = rng.uniform() < 0.25
    warmth = rng.normal(0, 0.045)
    return Day(
        seed=seed,
        season=season,
        sun_azimuth_deg=rng.uniform(0, 360),
        sun_elevation_deg=rng.uniform(27, 68),
        sunshine=rng.uniform(0.0, 0.3) if overcast else rng.uniform(0.7, 1.0),
        clouds=rng.uniform(0.7, 1.0) if overcast else rng.uniform(0.0, 0.6),
        leaves=rng.uniform(*leaves),
        grass_tint=triple(np.array(grass) * (1 + rng.normal(0, 0.03, 3)), 0),
        leaf_tint=triple(np.array(leaf) * (1 + rng.normal(0, 0.03, 3)), 0),
        exposure=float(np.exp(rng.normal(0, 0.16))),
        white_balance=(1 + warmth, 1.0, 1 - warmth),
        contrast=rng.uniform(0.85, 1.2),
        saturation=rng.uniform(0.55, 0.95),
        haze_m=rng.uniform(250, 1500),
        traffic=rng.uniform(0.1, 0.75),
        jpeg_quality=int(rng.integers(82, 95)),
    )
