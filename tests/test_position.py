"""The fused position keeps laws that any averaging must, and beats the best tile."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from model.geo import LatLon, distance_m, offset
from service.index.stored_calibration import Calibration, CalibrationError
from service.locate.position import Numbers, fuse

STRIDE_M, SIZE_M = 16.0, 64.0
WEIGHTS = ((1.0, -2.0, 3.0), (0.5, 1.0, -0.7))
GRID = Calibration(reach_m=SIZE_M / 2, spacing_m=STRIDE_M, depth=100, temperature=0.3)
ORIGINS = [LatLon(0.0, 0.0), LatLon(64.0, 179.9999), LatLon(-85.0, -30.0)]


def grid(origin: LatLon) -> Numbers:
    """(81, 2) centres of a 9 x 9 lattice around `origin`."""
    steps = np.arange(-4, 5) * STRIDE_M
    return np.array([offset(origin, east, north) for north in steps for east in steps])


def bowl(places: Numbers, truth: LatLon) -> Numbers:
    """Distances that grow with the square of the metres from `truth`, and level off at 1.6."""
    metres = np.array([distance_m(LatLon(*place), truth) for place in places])
    return 1.6 - 1.2 * np.exp(-((metres / 25.0) ** 2))


def _votes(distances: Numbers) -> float:
    return float(np.exp(-(distances - distances.min()) / GRID.agreement_temperature).sum())


@pytest.mark.parametrize("origin", ORIGINS)
def test_it_lies_nearer_than_the_best_tile(origin: LatLon) -> None:
    places = grid(origin)
    errors, best = [], []
    for east, north in np.random.default_rng(0).uniform(-8.0, 8.0, (40, 2)):
        truth = offset(origin, east, north)
        distances = bowl(places, truth)
        errors.append(distance_m(fuse(places, distances, GRID).position, truth))
        best.append(distance_m(LatLon(*places[distances.argmin()]), truth))
    assert np.median(errors) < 0.5 * np.median(best)


def test_order_and_a_common_shift_of_distances_do_not_matter() -> None:
    places = grid(ORIGINS[0])
    distances = bowl(places, offset(ORIGINS[0], 5.0, -3.0))
    one = fuse(places, distances, GRID)
    mixed = np.random.default_rng(1).permutation(len(places))
    other = fuse(places[mixed], distances[mixed] + 0.3, GRID)
    assert np.allclose(one.position, other.position, atol=1e-12)
    assert np.isclose(one.radius_m, other.radius_m)
    assert np.isclose(one.agreement, other.agreement)


def test_neighbours_outvote_a_lone_nearer_tile() -> None:
    places = np.vstack([grid(ORIGINS[0]), offset(ORIGINS[0], 5_000.0, 0.0)])
    distances = np.append(bowl(places[:-1], ORIGINS[0]), 0.39)
    place = fuse(places, distances, GRID)
    assert distance_m(place.position, ORIGINS[0]) < 5.0
    assert place.nearest == pytest.approx(0.4)
    assert place.agreement == pytest.approx(1.0 - 1.0 / _votes(distances), abs=1e-3)


def test_one_candidate_is_the_position_with_the_cells_radius() -> None:
    place = fuse(np.array([ORIGINS[1]]), np.array([0.7]), GRID)
    assert distance_m(place.position, ORIGINS[1]) < 1e-6
    assert place.radius_m == pytest.approx(GRID.radius_scale * STRIDE_M / np.sqrt(6.0))
    assert (place.confidence, place.in_index) == (None, None)


@pytest.mark.parametrize(("limit", "said"), [(0.41, True), (0.39, False)])
def test_confidence_follows_its_formula_and_in_index_its_distance(limit: float, said: bool) -> None:
    sure = dataclasses.replace(GRID, weights=WEIGHTS, in_index_distance=limit)
    place = fuse(grid(ORIGINS[0]), bowl(grid(ORIGINS[0]), ORIGINS[0]), sure)
    spread = place.radius_m / GRID.radius_scale
    inside = 1.0 - 2.0 * place.nearest + 3.0 * place.agreement
    placed = 0.5 + 1.0 * place.agreement - 0.7 * np.log(spread / GRID.reach_m)
    expected = 1.0 / (1.0 + np.exp(-inside)) / (1.0 + np.exp(-placed))
    assert place.confidence == pytest.approx(expected)
    assert (place.nearest, place.in_index) == (pytest.approx(0.4), said)


def test_a_calibration_survives_storage_and_damage_is_named() -> None:
    stored = dataclasses.replace(GRID, weights=WEIGHTS, source="town").as_dict()
    assert Calibration.from_dict(json.loads(json.dumps(stored))).as_dict() == stored
    for damage in ({"weights": [1.0, 2.0, 3.0]}, {"unheard_of": 1}, {"weights": "x"}):
        with pytest.raises(CalibrationError, match="cannot be read"):
            Calibration.from_dict({**stored, **damage})
