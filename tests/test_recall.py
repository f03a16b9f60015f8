import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.heading_estimate import north_between_rolls
from training.evaluate.recall import (
    EvaluationError,
    NonFiniteError,
    best_among,
    best_north,
    nearest,
    ranks,
    recall_at,
    recall_depths,
    recall_within,
)

EXACT = {"1": 1.0, "5": 1.0, "10": 1.0, "1%": 1.0}
NONE = {"1": 0.0, "5": 0.0, "10": 0.0, "1%": 0.0}


def brute_ranks(street, aerial, truth):
    """One float64 distance at a time, so that equal rows have equal distances."""
    result = []
    for query, right in zip(street.astype(float), truth, strict=True):
        distances = [((query - row) ** 2).sum() for row in aerial.astype(float)]
        others = distances[:right] + distances[right + 1 :]
        result.append(sum(d <= distances[right] for d in others))
    return result


def random_gallery(seed, tiles=60, queries=40, dimension=9):
    """Descriptors with exact duplicates among the aerials, streets near their right aerial."""
    random = np.random.default_rng(seed)
    aerial = random.normal(size=(tiles, dimension)).astype(np.float32)
    aerial[random.integers(tiles, size=15)] = aerial[random.integers(tiles, size=15)]
    truth = random.integers(tiles, size=queries)
    noise = random.normal(size=(queries, dimension)) * random.choice([0, 1, 2], (queries, 1))
    street = (aerial[truth] + noise).astype(np.float32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (street, aerial)]
    return *unit, truth


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 70))
def test_ranks_equal_brute_force_for_any_block_size(seed, block):
    street, aerial, truth = random_gallery(seed)
    assert ranks(street, aerial, truth, block=block).tolist() == brute_ranks(street, aerial, truth)


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_ranks_equal_brute_force_where_most_distances_tie(seed):
    random = np.random.default_rng(seed)
    street, aerial = random.integers(-1, 2, (2, 30, 3)).astype(np.float32)
    assert ranks(street, aerial, block=7).tolist() == brute_ranks(street, aerial, range(30))


def test_recall_counts_ranks():
    street, aerial, truth = random_gallery(3, tiles=250)
    brute = np.array(brute_ranks(street, aerial, truth))
    expected = {"1": brute < 1, "5": brute < 5, "10": brute < 10, "1%": brute < 2}
    recall = recall_at(torch.from_numpy(street), torch.from_numpy(aerial), truth)
    assert recall == {name: hits.mean() for name, hits in expected.items()}


def test_exact_descriptors_score_1_and_constant_descriptors_0():
    rows = np.eye(300, dtype=np.float32)
    constant = np.full((300, 257), 257**-0.5, np.float32)  # its square sums must be rounded
    assert recall_at(rows, rows) == EXACT
    assert recall_at(constant, constant) == recall_at(0 * rows, 0 * rows) == NONE


def test_duplicates_of_the_right_aerial_come_before_it_in_any_row():
    aerial = np.random.default_rng(0).normal(size=(97, 513)).astype(np.float32)
    aerial[[3, 40, 96]] = aerial[11]
    street = aerial[11:12] + np.float32(0.01)
    for block in (1, 10, 41, 97):
        assert ranks(street, aerial, np.array([11]), block=block).tolist() == [3]


def test_a_gallery_smaller_than_k_is_retrieved_whole():
    rows = torch.ones(4, 2)
    assert recall_at(rows, rows) == {"1": 0.0, "5": 1.0, "10": 1.0, "1%": 0.0}


@pytest.mark.parametrize(
    ("n", "k"), [(8884, 88), (99, 1), (1, 1), (199, 1), (200, 2), (92802, 928)]
)
def test_one_percent_is_n_over_100_and_never_0(n, k):
    assert recall_depths(n)["1%"] == k


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_non_finite_descriptors_are_refused_by_row(bad, side):
    pair = [np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32)]
    pair[side][3, 2] = bad
    with pytest.raises(NonFiniteError, match=r"1 of 5 rows .* row 3"):
        recall_at(*pair)


@pytest.mark.parametrize(
    ("street", "aerial", "truth"),
    [
        (np.eye(3), np.eye(4), None),
        (np.eye(3), np.eye(3)[:2], None),
        (np.eye(3), np.eye(3), np.array([0, 1, 3])),
        (np.eye(3), np.eye(3), np.array([0, 1, -1])),
        (np.eye(3), np.eye(3), np.array([0.0, 1.0, 2.0])),
        (np.empty((0, 3)), np.eye(3), None),
    ],
)
def test_shapes_and_truths_that_do_not_fit_are_refused(street, aerial, truth):
    with pytest.raises(EvaluationError, match=r"\d"):
        recall_at(street, aerial, truth)


def test_more_tiles_than_streets_and_read_only_arrays_are_fine():
    aerial = np.eye(6, dtype=np.float32)
    aerial.flags.writeable = False
    assert recall_at(aerial[:2], aerial)["1"] == 1.0


def test_nearest_equals_argmin():
    street, aerial, _ = random_gallery(5)
    far = ((street[:, None].astype(float) - aerial[None]) ** 2).sum(2)
    found = nearest(street, aerial, block=13)
    best = far[np.arange(len(street)), found]
    np.testing.assert_allclose(best, far.min(1), rtol=0, atol=1e-14)


def several(seed):
    """Three descriptors of each of 40 streets, one of them near the right aerial."""
    street, aerial, truth = random_gallery(seed)
    rolls = np.random.default_rng(seed).normal(size=(len(street), 3, street.shape[1]))
    rolls[np.arange(len(street)), truth % 3] = street
    return rolls.astype(np.float32), aerial, truth


@pytest.mark.parametrize("block", [1, 7, 2048])
def test_of_several_descriptors_the_nearest_counts(block):
    street, aerial, truth = several(1)
    far = ((street[:, :, None].astype(float) - aerial[None, None]) ** 2).sum(3)
    own = far[np.arange(len(street)), :, truth].min(1)
    brute = (far.min(1) <= own[:, None]).sum(1) - 1
    assert ranks(street, aerial, truth, block=block).tolist() == brute.tolist()
    found = nearest(street, aerial, block=block)
    best = far.min(1)[np.arange(len(street)), found]
    np.testing.assert_allclose(best, far.min((1, 2)), rtol=0, atol=1e-14)
    own = far[np.arange(len(street)), :, found]
    north = north_between_rolls(own, own.argmin(1))
    np.testing.assert_allclose(best_north(street, aerial[found]), north, rtol=0, atol=1e-12)


def test_ignored_aerials_do_not_count():
    street, aerial, truth = random_gallery(2)
    ignored = np.random.default_rng(2).integers(-1, len(aerial), (len(street), 20))
    ignored[ignored == truth[:, None]] = -1
    kept = [np.delete(aerial, np.unique(row[row >= 0]), axis=0) for row in ignored]
    at = [
        t - len(np.unique(row[(row >= 0) & (row < t)]))
        for row, t in zip(ignored, truth, strict=True)
    ]
    brute = [brute_ranks(street[i : i + 1], kept[i], at[i : i + 1])[0] for i in range(len(street))]
    assert ranks(street, aerial, truth, ignored=ignored, block=13).tolist() == brute
    with pytest.raises(EvaluationError, match=r"ignored is .*\(39, 20\)"):
        ranks(street, aerial, truth, ignored=ignored[:39])


def test_the_best_candidate_is_the_nearest_candidate():
    street, aerial, truth = several(4)
    candidates = np.stack([truth, (truth + 1) % 60, np.full_like(truth, -1)], axis=1)
    far = ((street[:, :, None].astype(float) - aerial[candidates[:, :2]][:, None]) ** 2).sum(3)
    best = candidates[np.arange(len(truth)), far.min(1).argmin(1)]
    assert best_among(street, aerial, candidates).tolist() == best.tolist()


def test_a_progress_bar_stays_off_standard_output(capsys):
    street, aerial, truth = random_gallery(6)
    expected = ranks(street, aerial, truth)
    assert ranks(street, aerial, truth, block=8).tolist() == expected.tolist()
    assert capsys.readouterr().out == ""


def test_metres_count_the_rim_and_report_the_median():
    found = np.array([[0.0, 0.0], [6.0, 8.0], [30.0, 40.0], [100.0, 0.0]])
    assert recall_within(found, np.zeros((4, 2))) == {
        "10 m": 0.5,
        "25 m": 0.5,
        "50 m": 0.75,
        "median_m": 30.0,
    }
    with pytest.raises(EvaluationError, match="Nq, 2"):
        recall_within(found, np.zeros((3, 2)))
