import math
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from training.mining import HardNegativeQueue, QueueError, hardest_rows, same_place

LENGTH, DIMENSION, HARDEST, NEAR_M = 7, 3, 3, 2.0
EMPTY = [0.0] * DIMENSION
batches = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(-5, 5)), min_size=1, max_size=6),
    min_size=1,
    max_size=8,
)


def batch_of(places, seed):
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, len(places), DIMENSION, generator=random)
    ids, east = (torch.tensor(column) for column in zip(*places, strict=True))
    return *normalize(rows, dim=2), ids, torch.stack([east, 0 * east, 0 * east], 1).double()


def hardest_by_loop(street, aerial, ids, positions):
    """Rows to enqueue, in batch order, with their queue entries: one triplet at a time."""
    hardness = dict.fromkeys(range(len(ids)), -math.inf)
    for j in range(len(ids)):
        for i in range(len(ids)):
            if ids[i] != ids[j] and (positions[i] - positions[j]).norm() >= NEAR_M:
                own = (street[i] - aerial[i]).square().sum().item()
                violation = own - (street[i] - aerial[j]).square().sum().item()
                hardness[j] = max(hardness[j], violation)
    rows = sorted(sorted(hardness, key=lambda j: (-hardness[j], j))[:HARDEST])
    return [(j, aerial[j].tolist() if hardness[j] > -math.inf else EMPTY) for j in rows]


@settings(deadline=None)
@given(batches)
def test_queue_is_a_bounded_deque_of_the_hardest(history):
    queue = HardNegativeQueue(LENGTH, DIMENSION)
    model: deque[tuple[int, float, list[float]]] = deque(maxlen=LENGTH)
    for seed, places in enumerate(history):
        street, aerial, ids, positions = batch_of(places, seed)
        masked = queue.mask(ids, positions, NEAR_M)
        assert masked.tolist() == [
            [i == j or abs(x - y) < NEAR_M or row == EMPTY for j, y, row in model]
            for i, x in places
        ]
        queue.push(aerial, ids, positions, street=street, hardest=HARDEST, min_distance_m=NEAR_M)
        for j, row in hardest_by_loop(street, aerial, ids, positions):
            model.append((*places[j], row))
        assert queue.negatives().tolist() == [row for *_, row in model]
        assert len(queue) == len(model)


def test_the_worst_triplet_counts_not_the_nearest_pair():
    street = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    aerial = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.3, 0.8]])
    queue = HardNegativeQueue(4, 2)
    queue.push(aerial, torch.arange(3), street=street, hardest=1)
    # Row 1 is 0.02 from street 0, whose own row is at 0; row 2 0.13 from street 1, own at 1.62.
    assert torch.equal(queue.negatives(), aerial[2:])


def test_ties_go_to_the_lower_row():
    queue = HardNegativeQueue(2, 2)
    queue.push(torch.ones(4, 2), torch.arange(4), street=torch.ones(4, 2), hardest=2)
    assert queue.state_dict()["tile_ids"].tolist() == [0, 1]


def test_a_row_without_a_street_to_mine_it_is_masked_for_every_later_street():
    queue = HardNegativeQueue(4, 2)
    queue.push(torch.eye(2), torch.tensor([5, 5]), street=torch.eye(2), hardest=2)
    queue.push(torch.eye(2)[:1], torch.tensor([6]), street=torch.eye(2)[:1], hardest=2)
    assert queue.mask(torch.tensor([7, 8])).tolist() == 2 * [3 * [True]]
    assert not queue.negatives().any()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 1e30])
def test_a_row_that_is_not_finite_becomes_an_empty_queue_entry(broken):
    """On a GPU; a CPU refuses the batch."""
    street, aerial, ids, _ = batch_of([(i, 0) for i in range(5)], 0)
    aerial[2, 0] = broken
    distance = torch.cdist(street, aerial).square()
    rows, empty = hardest_rows(distance, torch.eye(5, dtype=torch.bool), 5)
    assert rows.tolist() == ids.tolist()
    assert empty[2]


def test_the_queue_waits_for_no_value_of_the_device():
    """The meta device holds no values and refuses every operation that depends on a value."""
    queue = HardNegativeQueue(5, DIMENSION, "meta")
    street, aerial = torch.empty(2, 4, DIMENSION, device="meta")
    ids = torch.empty(4, dtype=torch.int64, device="meta")
    positions = torch.empty(4, 3, device="meta")
    for held in (0, 3, 5):
        assert (len(queue), queue.mask(ids, positions, NEAR_M).shape) == (held, (4, held))
        queue.push(aerial, ids, positions, street=street, hardest=3, min_distance_m=NEAR_M)


def test_unknown_positions_mask_by_id_only():
    ids, here = torch.arange(3), torch.zeros(3, 3)
    unknown = here.clone()
    unknown[1] = torch.nan
    assert same_place(ids, unknown, ids, here, 10).tolist() == [
        [True, True, True],
        [False, True, False],
        [True, True, True],
    ]
    assert torch.equal(same_place(ids, None, ids, here, 10), torch.eye(3, dtype=torch.bool))


def filled(length=8):
    queue = HardNegativeQueue(length, 4)
    street, aerial = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    queue.push(aerial, torch.arange(6), torch.rand(6, 3), street=street, hardest=6)
    return queue


def test_state_round_trip_is_exact_and_independent():
    queue, again = filled(), HardNegativeQueue(8, 4)
    again.load_state_dict(queue.state_dict())
    for name, tensor in queue.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    queue.negatives().zero_()
    assert bool(again.negatives().any())


def test_queued_descriptors_are_detached_and_survive_later_pushes():
    queue = HardNegativeQueue(2, 2)
    aerial = torch.eye(2, requires_grad=True)
    queue.push(aerial, torch.arange(2), street=torch.eye(2), hardest=2)
    held = queue.negatives()
    queue.push(2 * aerial, torch.arange(2), street=torch.eye(2), hardest=2)
    assert not held.requires_grad
    assert torch.equal(held, torch.eye(2))
    assert torch.equal(queue.negatives(), 2 * torch.eye(2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"aerial": torch.full((2, 4), torch.nan)},
        {"aerial": torch.ones(2, 3)},
        {"street": torch.ones(3, 4)},
        {"tile_ids": torch.ones(2)},
        {"positions": torch.ones(2, 2)},
        {"hardest": 0},
    ],
)
def test_a_bad_push_changes_nothing(wrong):
    queue = filled()
    before = queue.negatives().clone()
    good = {"aerial": torch.ones(2, 4), "tile_ids": torch.arange(2), "street": torch.ones(2, 4)}
    with pytest.raises(QueueError):
        queue.push(**{**good, "hardest": 1, **wrong})
    assert torch.equal(queue.negatives(), before)


@pytest.mark.parametrize("other", [(4, 4), (8, 5)])
def test_the_state_of_another_queue_is_refused(other):
    queue = HardNegativeQueue(*other)
    with pytest.raises(QueueError):
        queue.load_state_dict(filled().state_dict())
    with pytest.raises(QueueError, match="not one of this"):
        queue.load_state_dict({})
    assert len(queue) == 0


@pytest.mark.parametrize("size", [(0, 4), (4, 0)])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(QueueError, match="at least 1"):
        HardNegativeQueue(*size)
