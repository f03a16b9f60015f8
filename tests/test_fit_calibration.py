"""Fitted confidence is calibrated on unseen panoramas; the figures match brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from index_samples import write_version

from model.geo import LatLon, offset
from service.index.search import TileIndex
from service.index.stored_calibration import Calibration, CalibrationError
from service.locate.fit_calibration import (
    KnownPanorama,
    auroc,
    calibration_error,
    fit,
    locate_all,
    logistic_regression,
)

TILES = Calibration(reach_m=32.0, spacing_m=16.0, depth=100)
ORIGIN = LatLon(48.0, 11.0)
STEPS = np.arange(-8, 9) * 16.0
CENTRES = np.array([offset(ORIGIN, east, north) for north in STEPS for east in STEPS])
METRES = np.array([(east, north) for north in STEPS for east in STEPS])


def candidates(distances: np.ndarray, truth: LatLon | None) -> KnownPanorama:
    rows = np.argsort(distances)[:64]
    return KnownPanorama(CENTRES[rows], distances[rows], truth)


def panoramas(count: int, seed: int) -> list[KnownPanorama]:
    """Each panorama once inside and once elsewhere; the likeness to the right tiles varies."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        at = random.uniform(-60.0, 60.0, 2)
        noise = random.normal(1.5, 0.08, len(CENTRES))
        likeness = random.uniform(0.0, 1.0) * np.exp(-(((METRES - at) ** 2).sum(1)) / 25.0**2)
        made.append(candidates(noise - likeness, offset(ORIGIN, *map(float, at))))
        made.append(candidates(random.normal(1.5, 0.08, len(CENTRES)), None))
    return made


def test_confidence_holds_on_other_panoramas() -> None:
    calibration = fit(TILES, panoramas(200, seed=1), "made up")
    held_out = panoramas(200, seed=2)
    fused, errors = locate_all(calibration, held_out)
    confidence = np.array([position.confidence for position in fused])
    right = errors <= [position.radius_m for position in fused]
    assert calibration_error(confidence, right) <= 0.05
    nearness = -np.array([position.nearest for position in fused])
    assert auroc(nearness[::2], nearness[1::2]) > 0.8
    near = errors <= 64.0
    assert right[near].mean() == pytest.approx(0.9, abs=0.05)
    in_index = np.array([position.in_index for position in fused])
    assert in_index[::2].mean() > 0.6 > 0.3 > in_index[1::2].mean()


def test_panoramas_from_elsewhere_have_half_the_weight_for_any_number() -> None:
    known = panoramas(100, seed=1)
    once = fit(TILES, known, "made up")
    thrice = fit(TILES, [*known, *known[1::2], *known[1::2]], "made up")
    assert thrice.agreement_temperature == once.agreement_temperature
    for panorama in panoramas(30, seed=2):
        (a,), (b,) = (locate_all(calibration, [panorama])[0] for calibration in (once, thrice))
        assert a.confidence == pytest.approx(b.confidence, abs=1e-6)


def test_the_regression_has_no_better_neighbour() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 2)) * (1.0, 10.0)
    chance = 1.0 / (1.0 + np.exp(-(0.5 + features @ (1.0, -0.2))))
    right = random.random(400) < chance
    counts = random.integers(1, 4, 400).astype(float)
    scale = np.sqrt(np.cov(features.T, fweights=counts.astype(int), bias=True).diagonal())
    weights = np.array(logistic_regression(features, right, counts))

    def loss(w: np.ndarray) -> float:
        z = w[0] + features @ w[1:]
        penalty = 0.05 * ((w[1:] * scale) ** 2).sum()
        return float(counts @ np.logaddexp(0.0, np.where(right, -z, z)) + penalty)

    for step in np.vstack([np.eye(3), -np.eye(3)]) * 1e-3:
        assert loss(weights) <= loss(weights + step) + 1e-9


def test_separable_features_give_finite_weights() -> None:
    features = np.repeat([[0.0, 0.0], [1.0, 1.0]], 30, axis=0)
    weights = logistic_regression(features, features[:, 0] > 0.5, np.ones(len(features)))
    assert np.isfinite(weights).all()
    assert weights[0] < 0.0 < weights[0] + sum(weights[1:])


def test_auroc_counts_pairs() -> None:
    random = np.random.default_rng(0)
    inside, outside = random.integers(0, 9, 50) / 8.0, random.integers(0, 7, 40) / 8.0
    pairs = inside[:, None] - outside[None]
    assert auroc(inside, outside) == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)


def test_calibration_error_is_the_gap_weighted_by_bin() -> None:
    confidence = np.array([0.95, 0.95, 0.25, 1.0])
    assert calibration_error(confidence, np.array([True, False, False, True])) == pytest.approx(
        (abs(2.0 - 2.9) + 0.25) / 4
    )


def test_too_few_or_lost_panoramas_are_an_error() -> None:
    with pytest.raises(CalibrationError, match="10 panoramas inside"):
        fit(TILES, panoramas(10, seed=1), "few")
    lost = [p._replace(truth=p.truth and LatLon(0.0, 0.0)) for p in panoramas(30, seed=1)]
    with pytest.raises(CalibrationError, match="none of 30 panoramas"):
        fit(TILES, lost, "lost")


def test_the_spacing_of_tiles_is_measured(tmp_path: Path) -> None:
    index = TileIndex.open(write_version(tmp_path, 200, 8, spread=0.002))
    found = Calibration.from_tiles(index.tiles)
    assert found.reach_m == 32.0
    assert found.weights is None
    assert 1.0 < found.spacing_m < 64.0  # 200 tiles at random on 440 x 290 m
    alone = Calibration.from_tiles(TileIndex.open(write_version(tmp_path / "one", 1, 8)).tiles)
    assert (alone.spacing_m, alone.depth) == (64.0, 32)
