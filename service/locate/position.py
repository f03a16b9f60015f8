"""One position out of many matches, and how far to trust it. Pure numpy.

Tiles overlap, so a panorama resembles several neighbours at once. With the squared descriptor
distance d_i of candidate i, whose centre lies at p_i:

    w_i       = exp(-(d_i - min d) / temperature)
    c         = the candidate with the most weight within reach_m of it
    m         = sum(w_i p_i) / sum(w_i)                  over candidates within reach_m of c
    position  = sum(w_i p_i) / sum(w_i)                  over the cluster: those within reach_m of m
    spread^2  = sum(w_i |p_i - position|^2) / sum(w_i) + spacing_m^2 / 6    over the cluster
    radius    = radius_scale * spread

spacing^2 / 6 is the mean square distance of a square cell's points from its centre: what remains
unknown when one tile has all the weight. The confidence is the probability that the panorama was
taken within the radius: that it was taken in this index at all, and if so, rightly placed,

    confidence  = logistic(a . (1, n, agreement)) logistic(b . (1, agreement, ln(spread / reach)))
    logistic(z) = 1 / (1 + exp(-z))
    n           = least d in the cluster
    agreement   = sum(v_i) over candidates that share ground with the position / sum(v_i)
    v_i         = exp(-(d_i - min d) / agreement_temperature)

n says how like the place looks, agreement whether another place looks as like, and the spread
whether the tiles around it tell one answer. in_index = (n <= in_index_distance) is the first
question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.geo import LatLon, metres_per_degree, offset
from service.index.stored_calibration import Calibration

Numbers = NDArray[np.float64]


class Place(NamedTuple):
    """A fused position. confidence, in_index: None without calibration."""

    position: LatLon
    radius_m: float
    confidence: float | None
    in_index: bool | None
    nearest: float  # squared distance, n of the formulas above
    agreement: float
    log_spread: float  # ln(spread / reach)

    @property
    def of_inside(self) -> tuple[float, float]:
        """What tells whether it was taken in this index."""
        return self.nearest, self.agreement

    @property
    def of_placed(self) -> tuple[float, float]:
        """What tells whether, if so, it is placed within its radius."""
        return self.agreement, self.log_spread


def fuse(places: Numbers, distances: Numbers, calibration: Calibration) -> Place:
    """The position that candidates agree on; see above.

    Args:
        places: (K, 2) latitude and longitude of the candidates' centres, K >= 1.
        distances: (K,) their squared descriptor distances, in any order.
    """
    origin = LatLon(*(float(degrees) for degrees in places[np.argmin(distances)]))
    metres = _east_north(places, origin)
    weight = np.exp(-(distances - distances.min()) / calibration.temperature)
    near = _near(metres, calibration.reach_m)
    first, _ = _mean(metres, weight, near[np.argmax(near @ weight)])
    cluster = np.hypot(*(metres - first).T) <= calibration.reach_m
    middle, share = _mean(metres, weight, cluster)
    from_middle = np.hypot(*(metres - middle).T)
    spread = np.sqrt(share @ from_middle**2 + calibration.spacing_m**2 / 6.0)
    nearest = float(distances[cluster].min())
    vote = np.exp(-(distances - distances.min()) / calibration.agreement_temperature)
    agreement = float(vote[from_middle <= 2.0 * calibration.reach_m].sum() / vote.sum())
    place = Place(
        offset(origin, float(middle[0]), float(middle[1])),
        float(calibration.radius_scale * spread),
        None,
        None,
        nearest,
        agreement,
        float(np.log(spread / calibration.reach_m)),
    )
    if calibration.weights is None:
        return place
    inside, placed = calibration.weights
    confidence = logistic(inside, place.of_inside) * logistic(placed, place.of_placed)
    return place._replace(
        confidence=float(confidence), in_index=nearest <= calibration.in_index_distance
    )


def logistic(weights: Sequence[float] | Numbers, features: Sequence[float] | Numbers) -> Numbers:
    """Probabilities, (...), from weights (3,) and features (..., 2), without overflow."""
    z = weights[0] + np.asarray(features) @ np.asarray(weights[1:])
    return np.asarray(0.5 + 0.5 * np.tanh(z / 2.0))


def _near(metres: Numbers, reach_m: float) -> NDArray[np.bool_]:
    """(K, K): which candidates lie within reach of each other."""
    east, north = metres.T
    squared: Numbers = (east[:, None] - east) ** 2 + (north[:, None] - north) ** 2
    return squared <= reach_m**2


def _mean(metres: Numbers, weight: Numbers, among: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Weighted mean, (2,), of some of the candidates, and each one's share in it, (K,)."""
    share = weight * among / weight[among].sum()
    return share @ metres, share


def _east_north(places: Numbers, origin: LatLon) -> Numbers:
    """(K, 2) metres in the tangent plane at `origin`: true to 0.1 % where it matters, nearby."""
    scale = metres_per_degree(origin.latitude)
    east = (places[:, 1] - origin.longitude + 180.0) % 360.0 - 180.0
    return np.stack([east * scale.east, (places[:, 0] - origin.latitude) * scale.north], axis=1)
