"""Engines: which rows are nearest to a query. The only file that knows faiss.

An engine that is not exact gives more rows than asked for, and TileIndex scores them again with
the stored vectors. So engines differ in speed and in what they may miss, never in distances.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from model.atomic_write import write_atomically
from service.index.blas import one_thread_if
from service.index.frozen_tiles import Mask
from service.index.manifest import EngineUnavailable, VersionCorrupt

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]  # (N, D)
Rows = NDArray[np.int64]  # (Q, K)

BLOCK = 65_536  # vectors handled together: 128 MiB at D = 512
FEW_QUERIES = 4
SMALL = 32 * BLOCK  # products of a query and a vector, for which one thread is enough
DENSE = 0.05  # share of a block's rows from which copying those takes longer than multiplying all
MAX_QUERIES = 256  # at a time: their products with a block are 64 MiB
RESCORED = 512  # candidates of an engine that is not exact
GPU_MAX_K = 2048  # faiss refuses more
IVF_FILE = "ivfpq.faiss"
DIMENSIONS_PER_CODE = 4  # one byte each: a code is 1/16 of a vector
TRAINING_PER_LIST = 64  # vectors; faiss wants 39 or more
FEWEST = 10_000  # vectors: with fewer there is nothing to gain, and too little to train on
TUNED_RECALL = 0.995  # aimed at
LEAST_RECALL = 0.99  # below it a version is searched exactly
TUNING_QUERIES = 256
TUNING_DISTANCE = 0.5  # squared, between a query and the tile it shows: like a street's
SEED = 1234


class Engine(Protocol):
    """What TileIndex needs. `exact`: the rows are the nearest, and the products right."""

    exact: bool

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Largest inner products (Q, K) and their rows, best first; row -1 where none is left."""


class Exact:
    """Every vector is compared, where it lies on the disk: opening costs nothing a vector."""

    exact = True

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See Engine."""
        return exact_nearest(queries, self._vectors, k)


def exact_nearest(
    queries: Vectors, vectors: Vectors, k: int, allowed: Mask | None = None
) -> tuple[Vectors, Rows]:
    """Largest inner products, (Q, min(k, N)): on unit vectors the nearest ones.

    Plain matrix products, block by block: half the time of faiss.knn for one query, and where
    other threads want the cores, faiss's small parallel steps wait for each other for seconds
    (measured: docs/decisions.md).

    allowed: (N,) the rows that may be found, N of which there are then only so many.
    """
    if len(queries) > MAX_QUERIES:
        parts = [queries[i : i + MAX_QUERIES] for i in range(0, len(queries), MAX_QUERIES)]
        found = [exact_nearest(part, vectors, k, allowed) for part in parts]
        return np.concatenate([p for p, _ in found]), np.concatenate([r for _, r in found])
    k = min(k, len(vectors) if allowed is None else int(allowed.sum()))
    best = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    if not best.size:
        return best, rows
    one_thread_if(len(vectors) < BLOCK and len(queries) * len(vectors) < SMALL)
    for start, block in blocks(vectors):
        here = None if allowed is None else allowed[start : start + len(block)]
        products, places = _products_among(queries, block, here)
        better = products > best[:, -1:]
        for query in np.flatnonzero(better.any(axis=1)):
            chosen = better[query]
            _merge(best[query], rows[query], products[query, chosen], start + places[chosen])
    return best, rows


def _products_among(
    queries: Vectors, block: Vectors, allowed: Mask | None
) -> tuple[Vectors, NDArray[np.intp]]:
    """Products with the block's allowed rows, and which these are."""
    if allowed is None or allowed.all():
        return _products(queries, block), np.arange(len(block))
    places = np.flatnonzero(allowed)
    if len(places) > DENSE * len(block):
        return _products(queries, block)[:, places], places
    return _products(queries, block[places]), places


def _products(queries: Vectors, block: Vectors) -> Vectors:
    """(Q, block): for fewer than FEW_QUERIES, a matrix by each vector is faster than by all."""
    if len(queries) < FEW_QUERIES:
        return np.stack([block @ query for query in queries])
    return np.asarray(queries @ block.T)


def _merge(best: Vectors, rows: Rows, products: Vectors, numbers: NDArray[np.intp]) -> None:
    """Puts the products of the rows `numbers` among one query's best (k,), largest first."""
    k = len(best)
    if len(products) > k:
        largest = products >= np.partition(products, -k)[-k]
        products, numbers = products[largest], numbers[largest]
    everything = np.concatenate([best, products])
    kept = np.argsort(-everything, kind="stable")[:k]
    best[:], rows[:] = everything[kept], np.concatenate([rows, numbers])[kept]


class Gpu:
    """The vectors on a GPU, owned by one thread: faiss's GPU indexes bear no second one."""

    exact = True

    def __init__(self, vectors: Vectors) -> None:
        """Raises EngineUnavailable when the GPU does not hold the vectors."""
        self._on_disk = Exact(vectors)
        self._count = len(vectors)
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="faiss-gpu")
        self._index: Any = self._owned(self._copy, vectors)

    def _copy(self, vectors: Vectors) -> Any:
        self._resources = faiss.StandardGpuResources()
        index = faiss.GpuIndexFlatIP(self._resources, vectors.shape[1])
        for _, block in blocks(vectors):
            index.add(block)
        return index

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See Engine; on the CPU where k is more than the GPU can.

        Raises:
            EngineUnavailable: the GPU is full, or fails.
        """
        if k > GPU_MAX_K:
            return self._on_disk.nearest(queries, k)
        products, rows = self._owned(self._index.search, queries, min(k, self._count))
        return products, rows

    def _owned(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What `work` returns, done by the owner; CUDA's errors as EngineUnavailable."""
        try:
            return self._owner.submit(work, *arguments).result()
        except RuntimeError as error:
            raise EngineUnavailable(
                f"the GPU cannot search {self._count} vectors: {error}: free its memory, or set "
                "SKYFIX_DEVICE=cpu"
            ) from error


class IvfPq:
    """An inverted file of product codes, 1/16 of the vectors' size, read into memory."""

    exact = False

    def __init__(self, path: Path) -> None:
        """Raises VersionCorrupt when the file is no such index."""
        try:
            self._index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise VersionCorrupt(
                f"{path} is no faiss index: {error}", public=f"{path.name} is no faiss index"
            ) from error

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See Engine."""
        products, rows = self._index.search(queries, min(k, self._index.ntotal))
        return products, rows

    @staticmethod
    def write(vectors: Vectors, path: Path, rescored: int) -> float:
        """Trains on the vectors, tunes how many lists are looked into, and writes the file.

        Returns the recall that it reaches, TUNED_RECALL or more where tuning can: see _tune.

        Raises:
            OSError: the disk is full or refuses.
        """
        count, dimension = vectors.shape
        lists = max(1, min(int(4 * count**0.5), count // TRAINING_PER_LIST))
        codes = _codes(dimension)
        index: Any = faiss.index_factory(
            dimension, f"IVF{lists},PQ{codes}", faiss.METRIC_INNER_PRODUCT
        )
        random = np.random.default_rng(SEED)
        wanted = max(FEWEST, lists * TRAINING_PER_LIST)
        sample = np.sort(random.choice(count, min(count, wanted), replace=False))
        index.train(np.ascontiguousarray(vectors[sample]))
        for _, block in blocks(vectors):
            index.add(block)
        recall = _tune(index, vectors, rescored, random)
        # Not faiss.write_index: on a full disk it reports success.
        write_atomically(path, faiss.serialize_index(index).tobytes())
        return recall


def _codes(dimension: int) -> int:
    """Bytes of a code: the largest divisor of the dimension that is at most 1/4 of it."""
    most = max(1, dimension // DIMENSIONS_PER_CODE)
    return next(codes for codes in range(most, 0, -1) if dimension % codes == 0)


def _tune(index: Any, vectors: Vectors, rescored: int, random: np.random.Generator) -> float:
    """Has the fewest lists (a power of two, or all) looked into that give TUNED_RECALL.

    Returns the share of the true ten nearest among the `rescored` candidates. Queries are tiles'
    vectors moved by TUNING_DISTANCE in a random direction.
    """
    rows = np.sort(random.choice(len(vectors), min(TUNING_QUERIES, len(vectors)), replace=False))
    queries = moved(vectors[rows], TUNING_DISTANCE, random)
    _, true = exact_nearest(queries, vectors, 10)
    index.nprobe = 1
    while (recall := _recall(index, queries, true, rescored)) < TUNED_RECALL:
        if index.nprobe == index.nlist:
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)
    log.info("IVF-PQ: recall %.4f, %d of %d lists looked into", recall, index.nprobe, index.nlist)
    return recall


def _recall(index: Any, queries: Vectors, true: Rows, candidates: int) -> float:
    _, found = index.search(queries, min(candidates, index.ntotal))
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]))


def moved(units: Vectors, distance: float, random: np.random.Generator) -> Vectors:
    """Unit vectors at a given squared distance from `units`, in random directions."""
    across = random.standard_normal(units.shape).astype(np.float32)
    across -= (across * units).sum(1, keepdims=True) * units
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    cosine = 1.0 - distance / 2.0
    sine = np.sqrt(1.0 - cosine**2)
    return np.asarray(cosine * units + sine * across, np.float32)


def blocks(vectors: Vectors) -> Iterator[tuple[int, Vectors]]:
    """(first row, up to BLOCK vectors in memory), in order."""
    for start in range(0, len(vectors), BLOCK):
        yield start, np.ascontiguousarray(vectors[start : start + BLOCK])
