"""From panoramas with known places to the numbers that `service.locate.position` needs.

What a panorama from elsewhere looks like to an index is told by panoramas from elsewhere or,
without any, by the index's own, among the tiles that share no ground with those around their true
places: as if they came from next door. Either kind weighs half, however many there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.geo import LatLon, distance_m
from service.index.stored_calibration import Calibration, CalibrationError, Weights
from service.locate.position import Numbers, Place, fuse, logistic

MIN_PANORAMAS = 20
TEMPERATURES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48)
WITHIN = 0.9  # of rightly placed panoramas within their radius; of an index's own, said to be so
RIDGE = 0.1  # penalty on standardised weights, in panoramas: keeps separable data finite
STEPS = 50
LEAST = 1e-9  # probability, so that one surprise does not decide alone

Flags = NDArray[np.bool_]


class Seen(NamedTuple):
    """One panorama among some tiles: candidates' places (K, 2) in degrees and distances (K,).

    truth: where it was taken; None when that is nowhere near these tiles.
    """

    places: Numbers
    distances: Numbers
    truth: LatLon | None

    def error_m(self, place: Place) -> float:
        """Metres off; infinite for a panorama from elsewhere."""
        return np.inf if self.truth is None else distance_m(place.position, self.truth)


def fit(tiles: Calibration, seen: Sequence[Seen], source: str) -> Calibration:
    """Temperatures, radius, confidence and in_index_distance that suit what was seen.

    Args:
        tiles: the index's own numbers.
        source: which panoramas these are, for the manifest.

    Raises:
        CalibrationError: too few panoramas, or none of one kind, to measure anything.
    """
    inside = [one for one in seen if one.truth is not None]
    if len(inside) < MIN_PANORAMAS or len(seen) - len(inside) < MIN_PANORAMAS:
        raise CalibrationError(
            f"{len(inside)} panoramas inside and {len(seen) - len(inside)} outside the index: at "
            f"least {MIN_PANORAMAS} of each are needed to calibrate"
        )
    plain = Calibration(tiles.reach_m, tiles.spacing_m, tiles.depth, source=source)
    trials = [dataclasses.replace(plain, temperature=one) for one in TEMPERATURES]
    chosen = min(trials, key=lambda trial: _mean_error(trial, inside))
    chosen = dataclasses.replace(chosen, radius_scale=_radius_scale(chosen, inside))
    places = [fuse(one.places, one.distances, chosen) for one in seen]
    right = [one.error_m(place) <= place.radius_m for one, place in zip(seen, places, strict=True)]
    known = [p.nearest for one, p in zip(seen, places, strict=True) if one.truth is not None]
    chosen = dataclasses.replace(chosen, in_index_distance=float(np.quantile(known, WITHIN)))
    fitted = [_sure(chosen, one, seen, np.array(right)) for one in TEMPERATURES]
    return max(fitted, key=lambda one: one[0])[1]


def _sure(
    chosen: Calibration, agreement_temperature: float, seen: Sequence[Seen], right: Flags
) -> tuple[float, Calibration]:
    """The best weights with this temperature, and the mean log-likelihood of `right` under them."""
    trial = dataclasses.replace(chosen, agreement_temperature=agreement_temperature)
    places = [fuse(one.places, one.distances, trial) for one in seen]
    of_inside = np.array([place.of_inside for place in places])
    of_placed = np.array([place.of_placed for place in places])
    inside = np.array([one.truth is not None for one in seen])
    half_each = np.where(inside, 1.0, inside.sum() / (~inside).sum())
    weights = (
        regression(of_inside, inside, half_each),
        regression(of_placed[inside], right[inside], np.ones(int(inside.sum()))),
    )
    sure = logistic(weights[0], of_inside) * logistic(weights[1], of_placed)
    likelihood = np.log(np.clip(np.where(right, sure, 1.0 - sure), LEAST, None))
    return float(np.average(likelihood, weights=half_each)), dataclasses.replace(
        trial, weights=weights
    )


def _mean_error(trial: Calibration, inside: Sequence[Seen]) -> float:
    """A place that is far off counts as one tile's width, however far."""
    errors = [one.error_m(fuse(one.places, one.distances, trial)) for one in inside]
    return float(np.minimum(errors, 2.0 * trial.reach_m).mean())


def _radius_scale(chosen: Calibration, inside: Sequence[Seen]) -> float:
    """So that WITHIN of the panoramas placed to within one tile lie inside their radius."""
    places = [fuse(one.places, one.distances, chosen) for one in inside]
    errors = np.array([one.error_m(place) for one, place in zip(inside, places, strict=True)])
    near = errors <= 2.0 * chosen.reach_m
    if not near.any():
        raise CalibrationError(
            f"none of {len(inside)} panoramas was placed within {2.0 * chosen.reach_m:g} m of its "
            "true place: the weights do not suit this imagery, or the places are wrong"
        )
    spreads = np.array([place.radius_m for place in places]) / chosen.radius_scale
    return float(np.quantile(errors[near] / spreads[near], WITHIN))


def regression(features: Numbers, true: Flags, counts: Numbers) -> Weights:
    """Weights of `position.logistic` that best tell `true` (N,) by `features` (N, 2), each of the
    rows counted so many times, `counts` (N,).

    Newton's method on the penalised likelihood; features are standardised on the way.
    """
    mean = np.average(features, axis=0, weights=counts)
    scale = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=counts)) + 1e-9
    standard = (features - mean) / scale
    table = np.column_stack([np.ones(len(features)), standard])
    penalty = np.diag([1e-6, RIDGE, RIDGE])
    weights = np.zeros(3)
    for _ in range(STEPS):
        guess = logistic(weights, standard)
        slope = table.T @ (counts * (true - guess)) - penalty @ weights
        curvature = (table.T * (counts * guess * (1.0 - guess))) @ table + penalty
        step = np.linalg.solve(curvature, slope)
        weights += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    first, second = weights[1:] / scale
    return float(weights[0] - (first, second) @ mean), float(first), float(second)


def auroc(inside: Numbers, outside: Numbers) -> float:
    """Probability that one from inside scores above one from outside, ties counted half."""
    below = np.searchsorted(np.sort(outside), inside, side="left")
    not_above = np.searchsorted(np.sort(outside), inside, side="right")
    return float((below + not_above).mean() / 2.0 / len(outside))


def calibration_error(confidence: Numbers, right: Flags, bins: int = 10) -> float:
    """Expected calibration error: |share right - mean confidence| over bins of equal width."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float((right[which == b] - confidence[which == b]).sum())) for b in range(bins)]
    return sum(gaps) / len(confidence)
