"""Which pairs share a batch, as a function of seed, epoch and the last epoch's descriptors.

"hard" puts look-alikes side by side: neighbours on the ground while descriptors mean nothing yet,
later pairs whose aerial looks like the street (Sample4Geo, GPS and DSS). "region" fills each batch
from one stretch of ground.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from training.recipes import Recipe

log = logging.getLogger(__name__)

POOL = 64  # nearest pairs that a group is filled from: many of them are taken already
_BLOCK = 1024  # streets compared with all aerials at a time


def generator(seed: int, stream: int) -> np.random.Generator:
    """A generator that depends on two numbers alone, whatever was drawn before."""
    # As uint64: a list with a number past 2^63 would pass through float64 and lose its low bits.
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


def order(
    recipe: Recipe,
    positions: NDArray[np.float64],
    epoch: int,
    seed: int,
    descriptors: Tensor | None = None,
) -> NDArray[np.int64]:
    """The N pairs in the order in which an epoch takes them.

    positions: (N, 3) earth-centred metres. descriptors: (2, N, D), the most recent of streets and
    of aerials, zero for pairs not seen yet; None if training keeps none.
    """
    shuffled = generator(seed, (1 << 63) | epoch).permutation(len(positions))
    if recipe.sampling == "shuffle":
        return shuffled
    if recipe.sampling == "region":
        return by_region(shuffled, positions, recipe, generator(seed, (3 << 62) | epoch))
    if descriptors is not None and epoch >= recipe.sampling_visual_epoch:
        return group(shuffled, visual_neighbours(descriptors), recipe.sampling_group)
    if np.isfinite(positions).all():
        near = cKDTree(positions).query(positions, k=min(POOL, len(positions)))[1]
        return group(shuffled, near.reshape(len(positions), -1), recipe.sampling_group)
    log.warning("epoch %d is shuffled: without positions, no pairs are known to be near", epoch)
    return shuffled


def by_region(
    shuffled: NDArray[np.int64],
    positions: NDArray[np.float64],
    recipe: Recipe,
    draw: np.random.Generator,
) -> NDArray[np.int64]:
    """Batches from cells of `recipe.region_m`, placed anew for every epoch, in random order.

    A gallery is one region. Pairs from everywhere differ by the look of their town, so such a
    batch teaches little about the places within a town.
    """
    cells = np.floor((positions + draw.uniform(0.0, recipe.region_m, 3)) / recipe.region_m)
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    rank = draw.permutation(len(positions))[cell]
    ordered = shuffled[np.argsort(rank[shuffled], kind="stable")]
    whole = len(ordered) // recipe.batch_size * recipe.batch_size
    batches = draw.permutation(ordered[:whole].reshape(-1, recipe.batch_size))
    return np.concatenate([batches.reshape(-1), ordered[whole:]])


def visual_neighbours(descriptors: Tensor) -> NDArray[np.int64]:
    """For each street the `POOL` pairs with the most similar aerials: (N, at most POOL)."""
    street, aerial = (functional.normalize(side, dim=1) for side in descriptors)
    count = min(POOL, len(street))
    nearest = [
        (street[i : i + _BLOCK] @ aerial.T).topk(count, dim=1).indices
        for i in range(0, len(street), _BLOCK)
    ]
    result: NDArray[np.int64] = torch.cat(nearest).cpu().numpy()
    return result


def group(
    shuffled: NDArray[np.int64], neighbours: NDArray[np.int64], size: int
) -> NDArray[np.int64]:
    """Each pair, in the shuffled order, followed by its nearest pairs that are not taken yet."""
    taken = np.zeros(len(shuffled), bool)
    result: list[int] = []
    for first in shuffled:
        if taken[first]:
            continue
        taken[first] = True
        row = neighbours[first]
        others = row[~taken[row]][: size - 1]
        taken[others] = True
        result += [first, *others]
    return np.array(result, np.int64)
