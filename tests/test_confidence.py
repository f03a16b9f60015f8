"""The fused position obeys the laws of averaging, and beats the best tile."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.geo import LatLon, distance_m, offset
from service.index.stored_calibration import Calibration, CalibrationError, Weights
from service.locate.confidence import IN_INDEX, Numbers, fuse
from service.locate.fit_calibration import TEMPERATURES

STRIDE_M, SIZE_M = 16.0, 64.0
WEIGHTS = ((1.0, -2.0, 3.0), (0.5, 1.0, -0.7))
GRID = Calibration(reach_m=SIZE_M / 2, spacing_m=STRIDE_M, depth=100, temperature=0.3)
ORIGINS = [LatLon(0.0, 0.0), LatLon(64.0, 179.9999), LatLon(-85.0, -30.0)]


def grid(origin: LatLon) -> Numbers:
    """(81, 2) centres of a 9 x 9 lattice around `origin`."""
    steps = np.arange(-4, 5) * STRIDE_M
    return np.array([offset(origin, east, north) for north in steps for east in steps])


def bowl(centres: Numbers, truth: LatLon) -> Numbers:
    """Distances that grow with the square of the metres from `truth`, and level off at 1.6."""
    metres = np.array([distance_m(LatLon(*centre), truth) for centre in centres])
    return 1.6 - 1.2 * np.exp(-((metres / 25.0) ** 2))


def _votes(distances: Numbers) -> float:
    return float(np.exp(-(distances - distances.min()) / GRID.agreement_temperature).sum())


@pytest.mark.parametrize("origin", ORIGINS)
def test_the_position_is_nearer_than_the_best_tile(origin: LatLon) -> None:
    centres = grid(origin)
    errors, best = [], []
    for east, north in np.random.default_rng(0).uniform(-8.0, 8.0, (40, 2)):
        truth = offset(origin, east, north)
        distances = bowl(centres, truth)
        errors.append(distance_m(fuse(centres, distances, GRID).position, truth))
        best.append(distance_m(LatLon(*centres[distances.argmin()]), truth))
    assert np.median(errors) < 0.5 * np.median(best)


def test_order_and_a_common_shift_of_distances_do_not_matter() -> None:
    centres = grid(ORIGINS[0])
    distances = bowl(centres, offset(ORIGINS[0], 5.0, -3.0))
    first = fuse(centres, distances, GRID)
    mixed = np.random.default_rng(1).permutation(len(centres))
    other = fuse(centres[mixed], distances[mixed] + 0.3, GRID)
    assert np.allclose(first.position, other.position, atol=1e-12)
    assert np.isclose(first.radius_m, other.radius_m)
    assert np.isclose(first.agreement, other.agreement)


def test_neighbours_outvote_a_lone_nearer_tile() -> None:
    centres = np.vstack([grid(ORIGINS[0]), offset(ORIGINS[0], 5_000.0, 0.0)])
    distances = np.append(bowl(centres[:-1], ORIGINS[0]), 0.39)
    fused = fuse(centres, distances, GRID)
    assert distance_m(fused.position, ORIGINS[0]) < 5.0
    assert fused.nearest == pytest.approx(0.4)
    assert fused.agreement == pytest.approx(1.0 - 1.0 / _votes(distances), abs=1e-3)


def test_one_candidate_is_the_position_with_the_cells_radius() -> None:
    fused = fuse(np.array([ORIGINS[1]]), np.array([0.7]), GRID)
    assert distance_m(fused.position, ORIGINS[1]) < 1e-6
    assert fused.radius_m == pytest.approx(GRID.radius_scale * STRIDE_M / np.sqrt(6.0))
    assert (fused.confidence, fused.in_index) == (None, None)


@pytest.mark.parametrize("constant", [1.0, -3.0])
def test_confidence_follows_its_formula_and_in_index_its_first_factor(constant: float) -> None:
    calibration = dataclasses.replace(GRID, weights=((constant, -2.0, 3.0), (0.5, 1.0, -0.7)))
    fused = fuse(grid(ORIGINS[0]), bowl(grid(ORIGINS[0]), ORIGINS[0]), calibration)
    spread = fused.radius_m / GRID.radius_scale
    inside = constant - 2.0 * fused.nearest + 3.0 * fused.agreement
    placed = 0.5 + 1.0 * fused.agreement - 0.7 * np.log(spread / GRID.reach_m)
    expected = 1.0 / (1.0 + np.exp(-inside)) / (1.0 + np.exp(-placed))
    assert fused.confidence == pytest.approx(expected)
    assert (fused.nearest, fused.in_index) == (pytest.approx(0.4), constant > 0.0)


WEIGHT = st.tuples(*[st.floats(-60.0, 60.0)] * 3)
METRES = st.floats(-300.0, 300.0)


@given(
    candidates=st.lists(st.tuples(METRES, METRES, st.floats(0.0, 4.0)), min_size=1, max_size=30),
    weights=st.tuples(WEIGHT, WEIGHT),
    temperature=st.sampled_from(TEMPERATURES),
)
def test_no_confidence_reaches_a_half_where_in_index_is_false(
    candidates: list[tuple[float, float, float]],
    weights: tuple[Weights, Weights],
    temperature: float,
) -> None:
    centres = np.array([offset(ORIGINS[1], east, north) for east, north, _ in candidates])
    distances = np.array([distance for *_, distance in candidates])
    calibration = dataclasses.replace(GRID, weights=weights, agreement_temperature=temperature)
    fused = fuse(centres, distances, calibration)
    assert fused.confidence is not None
    assert 0.0 <= fused.confidence <= 1.0
    assert fused.in_index or fused.confidence < IN_INDEX


def test_a_calibration_survives_storage_and_damage_is_named() -> None:
    stored = dataclasses.replace(GRID, weights=WEIGHTS, source="town").as_dict()
    assert Calibration.from_dict(json.loads(json.dumps(stored))).as_dict() == stored
    assert Calibration.from_dict({**stored, "in_index_distance": 0.9}).as_dict() == stored  # older
    for damage in ({"weights": [1.0, 2.0, 3.0]}, {"unheard_of": 1}, {"weights": "x"}):
        with pytest.raises(CalibrationError, match="cannot be read"):
            Calibration.from_dict({**stored, **damage})
