"""A heading between the rolls, against a curve whose minimum is known."""

import numpy as np
import pytest

from model.heading_estimate import Rolls, north_between_rolls, roll_between


@pytest.mark.parametrize("rolls", [3, 4, 36])
def test_the_minimum_of_a_parabola_is_found(rolls):
    north = np.linspace(0.0, 1.0, 57, endpoint=False)
    away = (north[:, None] - np.arange(rolls) / rolls + 0.5) % 1.0 - 0.5
    squared = 1.5 * away**2 + 0.2
    found = north_between_rolls(squared, squared.argmin(1))
    if rolls > 3:  # two of three may lie on the far side, where the curve has its edge
        error = (found - north + 0.5) % 1.0 - 0.5
        np.testing.assert_allclose(error, 0.0, atol=1e-12)
    assert ((found >= 0.0) & (found < 1.0)).all()


def test_the_best_roll_is_kept_where_no_parabola_fits():
    """Equal distances, a best roll that is not the least, and too few rolls for a parabola."""
    assert north_between_rolls([[1.0, 1.0, 1.0, 1.0]], [2]).tolist() == [0.5]
    assert north_between_rolls([[1.0, 0.9, 0.2, 0.1]], [1]).tolist() == [0.25]
    assert north_between_rolls([[0.3, 0.1]], [1]).tolist() == [0.5]
    assert north_between_rolls([[0.3]], [0]).tolist() == [0.0]


def test_the_estimate_stays_within_half_a_step_of_its_roll():
    random = np.random.default_rng(0)
    distances, best = random.random((500, 12)), random.integers(0, 12, 500)
    away = (north_between_rolls(distances, best) - best / 12 + 0.5) % 1.0 - 0.5
    assert np.abs(away).max() <= 0.5 / 12 + 1e-12


@pytest.mark.parametrize("least", [0.0, 0.3, 2.5, 4.0, -3.0, 9.0])
def test_a_minimum_outside_the_window_is_its_edge(least):
    squared = (np.arange(5.0) - least) ** 2
    found = roll_between([squared], [squared.argmin()], closed=False)
    assert found.tolist() == pytest.approx([min(max(least, 0.0), 4.0)])


@pytest.mark.parametrize(("tolerance", "count"), [(0.0, 1), (3.0, 3), (10.0, 3), (15.0, 5)])
def test_a_window_holds_its_edges_and_its_middle(tolerance, count):
    rolls = Rolls.within(tolerance, 350.0, 10.0)
    headings = rolls.headings_deg
    assert (len(headings), rolls.count) == (count, count)
    assert (headings[0], headings[-1]) == (350.0 - tolerance, 350.0 + tolerance)
    assert headings[count // 2] == 350.0
    assert (np.diff(headings) <= 10.0).all()


def test_the_whole_turn_s_norths_count_from_zero():
    assert Rolls.around(4).headings_deg == [180.0, 90.0, 0.0, -90.0]
    assert Rolls.around(4).heading_between([[3.0, 2.0, 1.0, 2.0]], [2]).tolist() == [0.0]


@pytest.mark.parametrize("tolerance", [45.0, 55.0, 104.9, 179.9])
def test_a_wide_window_has_no_more_views_than_the_whole_turn(tolerance):
    """A view is a roll turned by quarters."""
    headings = np.array(Rolls.within(tolerance, 7.0, 10.0).headings_deg)
    assert tolerance - 10.0 < 7.0 - headings[0] <= tolerance
    assert len(set(np.round((headings[:, None] + [0, 90, 180, 270]) % 360.0).ravel())) == 36
