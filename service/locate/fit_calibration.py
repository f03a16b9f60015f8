"""Fits the numbers of `service.locate.confidence` to panoramas with known positions.

Fitting needs panoramas from elsewhere too. Without any, the index's own panoramas serve again:
each is searched among the tiles that share no ground with its position, as a panorama from just
outside the index would be. Inside and outside weigh half each, whatever their numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.geo import LatLon, distance_m
from service.index.stored_calibration import Calibration, CalibrationError, Weights
from service.locate.confidence import FusedPosition, Numbers, fuse, logistic

MIN_PANORAMAS = 20
TEMPERATURES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48)
SHARE = 0.9  # of good positions that lie within the radius
RIDGE = 0.1  # penalty on standardised weights, in panoramas: keeps separable data finite
STEPS = 50
MIN_LIKELIHOOD = 1e-9  # so that a single surprise does not decide alone

Flags = NDArray[np.bool_]


class KnownPanorama(NamedTuple):
    """The candidates of one panorama: centres (K, 2) in degrees and squared distances (K,).

    truth: where the panorama was taken; None when it was taken elsewhere.
    """

    centres: Numbers
    distances: Numbers
    truth: LatLon | None


def fit(tiles: Calibration, panoramas: Sequence[KnownPanorama], source: str) -> Calibration:
    """The calibration that suits these panoramas. Its fields are fitted one after the other.

    Args:
        tiles: gives reach_m, spacing_m and depth, which depend on the tiles alone.
        source: names the panoramas, for the manifest.

    Raises:
        CalibrationError: fewer than MIN_PANORAMAS inside or outside, or no good position.
    """
    inside = [panorama for panorama in panoramas if panorama.truth is not None]
    outside = len(panoramas) - len(inside)
    if min(len(inside), outside) < MIN_PANORAMAS:
        raise CalibrationError(
            f"{len(inside)} panoramas inside and {outside} outside the index: at least "
            f"{MIN_PANORAMAS} of each are needed to calibrate"
        )
    plain = Calibration(tiles.reach_m, tiles.spacing_m, tiles.depth, source=source)
    trials = [dataclasses.replace(plain, temperature=trial) for trial in TEMPERATURES]
    best = min(trials, key=lambda trial: _mean_error(trial, inside))
    best = dataclasses.replace(best, radius_scale=_radius_scale(best, inside))
    trials = [dataclasses.replace(best, agreement_temperature=trial) for trial in TEMPERATURES]
    fitted = [_fit_confidence(trial, panoramas) for trial in trials]
    return max(fitted, key=lambda scored: scored[0])[1]


def _fit_confidence(
    trial: Calibration, panoramas: Sequence[KnownPanorama]
) -> tuple[float, Calibration]:
    """The mean log-likelihood of the best weights, and the calibration with these weights."""
    fused, errors = locate_all(trial, panoramas)
    truth_within = errors <= np.array([position.radius_m for position in fused])
    inside_features = np.array([position.inside_features for position in fused])
    radius_features = np.array([position.radius_features for position in fused])
    inside = np.array([panorama.truth is not None for panorama in panoramas])
    half_each = np.where(inside, 1.0, inside.sum() / (~inside).sum())
    a = logistic_regression(inside_features, inside, half_each)
    b = logistic_regression(
        radius_features[inside], truth_within[inside], np.ones(int(inside.sum()))
    )
    confidence = logistic(a, inside_features) * logistic(b, radius_features)
    likelihood = np.where(truth_within, confidence, 1.0 - confidence)
    log_likelihood = np.log(np.clip(likelihood, MIN_LIKELIHOOD, None))
    mean = float(np.average(log_likelihood, weights=half_each))
    return mean, dataclasses.replace(trial, weights=(a, b))


def locate_all(
    trial: Calibration, panoramas: Sequence[KnownPanorama]
) -> tuple[list[FusedPosition], Numbers]:
    """The positions by this calibration, and their errors in metres: infinite without a truth."""
    fused = [fuse(panorama.centres, panorama.distances, trial) for panorama in panoramas]
    errors = [
        np.inf if panorama.truth is None else distance_m(position.position, panorama.truth)
        for panorama, position in zip(panoramas, fused, strict=True)
    ]
    return fused, np.array(errors)


def _mean_error(trial: Calibration, inside: Sequence[KnownPanorama]) -> float:
    """Metres. An error beyond one tile's width counts as one tile's width."""
    _, errors = locate_all(trial, inside)
    return float(np.minimum(errors, 2.0 * trial.reach_m).mean())


def _radius_scale(trial: Calibration, inside: Sequence[KnownPanorama]) -> float:
    """The scale at which SHARE of the positions with an error below one tile are within radius."""
    fused, errors = locate_all(trial, inside)
    good = errors <= 2.0 * trial.reach_m
    if not good.any():
        raise CalibrationError(
            f"none of {len(inside)} panoramas was located within {2.0 * trial.reach_m:g} m of its "
            "true position: the weights do not suit this imagery, or the positions are wrong"
        )
    spreads = np.array([position.radius_m for position in fused]) / trial.radius_scale
    return float(np.quantile(errors[good] / spreads[good], SHARE))


def logistic_regression(features: Numbers, true: Flags, counts: Numbers) -> Weights:
    """Weights of `position.logistic` that best predict `true` (N,) from `features` (N, 2).

    Row i counts counts[i] times. Newton's method on the penalised likelihood of the standardised
    features.
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
    """Probability that an inside score exceeds an outside score; ties count half."""
    below = np.searchsorted(np.sort(outside), inside, side="left")
    not_above = np.searchsorted(np.sort(outside), inside, side="right")
    return float((below + not_above).mean() / 2.0 / len(outside))


def calibration_error(confidence: Numbers, right: Flags, bins: int = 10) -> float:
    """Expected calibration error: |share right - mean confidence|, over bins of equal width."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float((right[which == b] - confidence[which == b]).sum())) for b in range(bins)]
    return sum(gaps) / len(confidence)
