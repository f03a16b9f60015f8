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

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.errors import SkyfixError
from model.geo import LatLon, metres_per_degree, offset

Numbers = NDArray[np.float64]
Weights = tuple[float, float, float]

SQRT_1_5 = 1.2247  # radius over spread for 78 % of a round Gaussian: until something is measured


class CalibrationError(SkyfixError):
    """A stored calibration that cannot be read, or panoramas from which none can be made."""


@dataclass(frozen=True)
class Calibration:
    """Numbers of the formulas above. Stored in an index version's manifest.

    Of the index's own tiles: reach_m, half a tile; spacing_m, between neighbours' centres; depth,
    how many candidates are looked at, enough for rivals to be among them.
    Of panoramas with known places: the others; weights are (a, b), and `source` says which
    panoramas. Without any, weights is None and no confidence is made up.
    """

    reach_m: float
    spacing_m: float
    depth: int
    temperature: float = 0.1  # the loss compares exp(-alpha d) with alpha = 10
    radius_scale: float = SQRT_1_5
    agreement_temperature: float = 0.1
    weights: tuple[Weights, Weights] | None = None
    in_index_distance: float = 2.0  # two unrelated unit vectors'
    source: str = "not calibrated"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Inverse of `as_dict`.

        Raises:
            CalibrationError: fields are missing, unknown or of the wrong kind.
        """
        try:
            weights = values["weights"]
            if weights is not None:
                inside, placed = weights
                weights = (_three(inside), _three(placed))
            return cls(**{**values, "weights": weights})
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"the stored calibration cannot be read: {error!r}") from error

    def measured_on(self, tiles: Calibration) -> Calibration:
        """These panoramas' numbers with the tiles' numbers of another index."""
        own = {"reach_m": tiles.reach_m, "spacing_m": tiles.spacing_m, "depth": tiles.depth}
        return dataclasses.replace(self, **own)  # type: ignore[arg-type]


def _three(numbers: Sequence[float]) -> Weights:
    first, second, third = map(float, numbers)
    return first, second, third


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
