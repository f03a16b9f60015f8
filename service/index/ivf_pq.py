"""FAISS IVF-PQ: codes in inverted lists, for many tiles. It finds candidates, not distances.

Flat scores the candidates again with the vectors, so a search may miss a tile but never states a
wrong distance.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from model.atomic_write import write_atomically
from service.index.faiss_library import faiss
from service.index.flat import Flat, Rows, Vectors, blocks, no_index, one_thread

log = logging.getLogger(__name__)

IVF_FILE = "ivfpq.faiss"
CANDIDATES = 512  # scored again for every query
DIMENSIONS_PER_CODE = 4  # one byte each: a code is 1/16 of a vector
TRAINING_PER_LIST = 64  # vectors; FAISS wants 39 or more
FEWEST = 10_000  # vectors: fewer are too few to train on
TUNED_RECALL = 0.995  # aimed at
TUNING_QUERIES = 256
TUNING_DISTANCE = 0.5  # squared, between a query and the tile it shows: like a street's
SEED = 1234


class IvfPq:
    """An inverted file of product codes, 1/16 of the vectors' size, read into memory."""

    exact = False

    def __init__(self, path: Path) -> None:
        """Raises VersionCorrupt when the file is no such index."""
        try:
            self._index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise no_index(path, str(error)) from error

    @one_thread()
    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See Engine; on one thread, as Flat."""
        products, rows = self._index.search(queries, min(k, self._index.ntotal))
        return products, rows

    @staticmethod
    def write(flat: Flat, path: Path) -> float:
        """Train on the vectors of `flat`, choose how many lists are probed, and write the file.

        Returns the recall that `_tune` reaches: TUNED_RECALL or more where tuning can.

        Raises:
            OSError: the disk is full or refuses.
        """
        count, dimension = flat.vectors.shape
        lists = max(1, min(int(4 * count**0.5), count // TRAINING_PER_LIST))
        index: Any = faiss.index_factory(
            dimension, f"IVF{lists},PQ{_codes(dimension)}", faiss.METRIC_INNER_PRODUCT
        )
        random = np.random.default_rng(SEED)
        wanted = max(FEWEST, lists * TRAINING_PER_LIST)
        sample = np.sort(random.choice(count, min(count, wanted), replace=False))
        index.train(flat.vectors[sample])
        for _, block in blocks(flat.vectors):
            index.add(block)
        recall = _tune(index, flat, random)
        # Not faiss.write_index: on a full disk it reports success.
        write_atomically(path, faiss.serialize_index(index).tobytes())
        return recall


def _codes(dimension: int) -> int:
    """Bytes of a code: the largest divisor of the dimension that is at most 1/4 of it."""
    most = max(1, dimension // DIMENSIONS_PER_CODE)
    return next(codes for codes in range(most, 0, -1) if dimension % codes == 0)


def _tune(index: Any, flat: Flat, random: np.random.Generator) -> float:
    """Set the fewest probed lists (a power of two, or all) that give TUNED_RECALL.

    Returns the share of the true ten nearest among CANDIDATES. Queries are tiles' vectors moved
    by TUNING_DISTANCE in a random direction.
    """
    count = len(flat.vectors)
    rows = np.sort(random.choice(count, min(TUNING_QUERIES, count), replace=False))
    queries = moved(flat.vectors[rows], TUNING_DISTANCE, random)
    _, true = flat.nearest(queries, 10)
    index.nprobe = 1
    while (recall := _recall(index, queries, true)) < TUNED_RECALL:
        if index.nprobe == index.nlist:
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)
    log.info("IVF-PQ: recall %.4f, %d of %d lists are probed", recall, index.nprobe, index.nlist)
    return recall


def _recall(index: Any, queries: Vectors, true: Rows) -> float:
    _, found = index.search(queries, min(CANDIDATES, index.ntotal))
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]))


def moved(units: Vectors, distance: float, random: np.random.Generator) -> Vectors:
    """Unit vectors at a given squared distance from `units`, in random directions."""
    across = random.standard_normal(units.shape).astype(np.float32)
    across -= (across * units).sum(1, keepdims=True) * units
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    cosine = 1.0 - distance / 2.0
    sine = np.sqrt(1.0 - cosine**2)
    return np.asarray(cosine * units + sine * across, np.float32)
