"""Fuses many candidates into one position, with a radius and a confidence. Pure numpy.

Tiles overlap, so a panorama resembles several neighbouring tiles. Candidate i has its centre at
p_i and the squared descriptor distance d_i:

    w_i       = exp(-(d_i - min d) / temperature)
    c         = the candidate with the most weight within reach_m of it
    m         = sum(w_i p_i) / sum(w_i)                  over candidates within reach_m of c
    position  = sum(w_i p_i) / sum(w_i)                  over the cluster: all within reach_m of m
    spread^2  = sum(w_i |p_i - position|^2) / sum(w_i) + spacing_m^2 / 6    over the cluster
    radius    = radius_scale * spread

spacing_m^2 / 6 is the mean squared distance from a square cell's centre. That much stays unknown
even when one tile has all the weight.

The confidence is the probability that the panorama was taken within the radius. The first factor
is the probability that it was taken in this index at all; the second, that the radius then holds:

    confidence  = logistic(a . (1, n, agreement)) logistic(b . (1, agreement, ln(spread / reach)))
    logistic(z) = 1 / (1 + exp(-z))
    n           = least d in the cluster
    agreement   = sum(v_i) over candidates within 2 reach_m of the position / sum(v_i)
    v_i         = exp(-(d_i - min d) / agreement_temperature)
    in_index    = the first factor >= 1/2, so that the confidence is below 1/2 where it is false

n says how well the imagery matches, agreement whether other positions match as well, and the
spread whether the tiles around the position agree. `locate.fit_calibration` fits a, b and the
other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from model.geo import LatLon, metres_per_degree, offset
from service.index.stored_calibration import Calibration

IN_INDEX = 0.5  # least probability at which in_index is true: no confidence without it is higher

Numbers = NDArray[np.float64]


class FusedPosition(NamedTuple):
    """Where candidates agree. confidence, in_index: None without calibration."""

    position: LatLon
    radius_m: float
    confidence: float | None
    in_index: bool | None
    nearest: float  # squared distance, n of the formulas above
    agreement: float
    log_spread: float  # ln(spread / reach)

    @property
    def inside_features(self) -> tuple[float, float]:
        """Features of the probability that the panorama was taken in this index."""
        return self.nearest, self.agreement

    @property
    def radius_features(self) -> tuple[float, float]:
        """Features of the probability that the radius holds, given that."""
        return self.agreement, self.log_spread


def fuse(centres: Numbers, distances: Numbers, calibration: Calibration) -> FusedPosition:
    """The position on which candidates agree, by the formulas above.

    Args:
        centres: (K, 2) latitude and longitude of the candidates' centres, K >= 1.
        distances: (K,) squared descriptor distances, in any order.
    """
    origin = LatLon(*(float(degrees) for degrees in centres[np.argmin(distances)]))
    metres = _east_north(centres, origin)
    weight = np.exp(-(distances - distances.min()) / calibration.temperature)
    centre = metres[np.argmax(_weight_around(metres, weight, calibration.reach_m))]
    first, _ = _mean(metres, weight, _within(metres, centre, calibration.reach_m))
    cluster = _within(metres, first, calibration.reach_m)
    middle, share = _mean(metres, weight, cluster)
    from_middle = np.hypot(*(metres - middle).T)
    spread = np.sqrt(share @ from_middle**2 + calibration.spacing_m**2 / 6.0)
    vote = np.exp(-(distances - distances.min()) / calibration.agreement_temperature)
    fused = FusedPosition(
        position=offset(origin, float(middle[0]), float(middle[1])),
        radius_m=float(calibration.radius_scale * spread),
        confidence=None,
        in_index=None,
        nearest=float(distances[cluster].min()),
        agreement=float(vote[from_middle <= 2.0 * calibration.reach_m].sum() / vote.sum()),
        log_spread=float(np.log(spread / calibration.reach_m)),
    )
    if calibration.weights is None:
        return fused
    a, b = calibration.weights
    inside = float(logistic(a, fused.inside_features))
    return fused._replace(
        confidence=inside * float(logistic(b, fused.radius_features)),
        in_index=inside >= IN_INDEX,
    )


def logistic(weights: Sequence[float] | Numbers, features: Sequence[float] | Numbers) -> Numbers:
    """Probabilities, (...), from weights (3,) and features (..., 2), without overflow."""
    z = weights[0] + np.asarray(features) @ np.asarray(weights[1:])
    return np.asarray(0.5 + 0.5 * np.tanh(z / 2.0))


def _weight_around(metres: Numbers, weight: Numbers, reach_m: float) -> Numbers:
    """(K,) the weight within reach of each candidate. A drive's frame has thousands."""
    tree = cKDTree(metres)
    near = tree.sparse_distance_matrix(tree, reach_m, output_type="ndarray")
    return np.asarray(np.bincount(near["i"], weight[near["j"]], len(weight)), np.float64)


def _within(metres: Numbers, centre: Numbers, reach_m: float) -> NDArray[np.bool_]:
    """(K,) which candidates lie within reach of a place."""
    return np.asarray(np.hypot(*(metres - centre).T) <= reach_m)


def _mean(metres: Numbers, weight: Numbers, among: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Weighted mean, (2,), of the candidates `among`, and each candidate's share in it, (K,)."""
    share = weight * among / weight[among].sum()
    return share @ metres, share


def _east_north(centres: Numbers, origin: LatLon) -> Numbers:
    """(K, 2) metres in the tangent plane at `origin`; nearby, the error is below 0.1 %."""
    scale = metres_per_degree(origin.latitude)
    east = (centres[:, 1] - origin.longitude + 180.0) % 360.0 - 180.0
    return np.stack([east * scale.east, (centres[:, 0] - origin.latitude) * scale.north], axis=1)
