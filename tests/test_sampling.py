import numpy as np
import pytest
import torch
from pair_samples import tiny

from training.data.sampling import POOL, generator, group, order, visual_neighbours

HARD = tiny("sampling=hard", "sampling_group=4", "sampling_visual_epoch=1")


def clusters(random, count=10, size=4, spread=0.01):
    """Rows in clusters of `size`, mixed, and the cluster of each row."""
    label = random.permutation(np.repeat(np.arange(count), size))
    centres = random.normal(size=(count, 3))
    return centres[label] + spread * random.normal(size=(len(label), 3)), label


def together(taken, label):
    """Share of groups of four consecutive pairs that are one cluster."""
    groups = label[taken].reshape(-1, 4)
    return (groups == groups[:, :1]).all(1).mean()


@pytest.mark.parametrize("sampling", ["shuffle", "region", "hard"])
def test_every_pair_is_taken_once_and_by_seed_and_epoch(sampling):
    chosen = tiny(f"sampling={sampling}")
    positions = np.random.default_rng(0).normal(size=(37, 3))
    taken = [order(chosen, positions, *key).tolist() for key in [(0, 0), (0, 0), (1, 0), (0, 1)]]
    assert sorted(taken[0]) == list(range(37))
    assert taken[0] == taken[1]
    assert taken[0] not in taken[2:]


def test_neighbours_on_the_ground_come_together_at_first():
    positions, label = clusters(np.random.default_rng(1))
    assert together(order(HARD, positions, 0, 0), label) == 1.0
    assert together(order(tiny("sampling=shuffle"), positions, 0, 0), label) < 0.2


def test_look_alikes_come_together_later():
    """The look of a street's aerial rivals counts, not their position."""
    random = np.random.default_rng(2)
    positions, _ = clusters(random)
    described, label = clusters(random)
    descriptors = torch.from_numpy(np.stack([described, described]))
    assert together(order(HARD, positions, 1, 0, descriptors), label) == 1.0
    near = order(HARD, positions, 0, 0)
    assert order(HARD, positions, 0, 0, descriptors).tolist() == near.tolist()


def test_without_positions_pairs_are_shuffled_and_the_log_says_so(caplog):
    nowhere = np.full((9, 3), np.nan)
    taken = order(HARD, nowhere, 0, 3)
    assert taken.tolist() == order(tiny("sampling=shuffle"), nowhere, 0, 3).tolist()
    assert "without positions" in caplog.text


def test_visual_neighbours_are_the_nearest_aerials():
    descriptors = torch.from_numpy(np.random.default_rng(4).normal(size=(2, 100, 8)))
    street, aerial = descriptors / descriptors.norm(dim=2, keepdim=True)
    brute = (street @ aerial.T).argsort(descending=True)[:, :POOL]
    assert visual_neighbours(descriptors).tolist() == brute.tolist()


def test_a_group_is_a_pair_and_its_nearest_free_pairs():
    neighbours = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [2, 0, 1, 3], [3, 2, 1, 0]])
    assert group(np.array([1, 3, 0, 2]), neighbours, 2).tolist() == [1, 0, 3, 2]
    assert group(np.array([1, 3, 0, 2]), neighbours, 3).tolist() == [1, 0, 2, 3]


def test_large_streams_of_the_generator_differ():
    draws = [generator(0, (1 << 63) | epoch).random() for epoch in range(3)]
    assert len(set(draws)) == 3


def test_a_region_s_batches_hold_one_town_each():
    """Two towns of 32 pairs, 100 km apart, in batches of 8; cells are larger than a town."""
    random = np.random.default_rng(2)
    town = random.permutation(np.repeat([0, 1], 32))
    positions = random.uniform(0.0, 1.0, (64, 3)) + 1e5 * town[:, None]
    region, shuffle = (
        tiny(f"sampling={sampling}", "batch_size=8") for sampling in ("region", "shuffle")
    )
    assert (np.ptp(town[order(region, positions, 0, 0)].reshape(8, 8), axis=1) == 0).all()
    assert (np.ptp(town[order(shuffle, positions, 0, 0)].reshape(8, 8), axis=1) == 1).any()
