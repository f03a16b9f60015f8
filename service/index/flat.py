"""The vectors of an index version: a FAISS flat index in a memory-mapped file, searched exactly.

FAISS searches on one thread for each thread that calls. More threads gain little on a quiet
machine, and wait for each other for long where other work wants the cores.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.index.faiss_library import faiss
from service.index.manifest import VersionCorrupt

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]  # (N, D), unit rows
Rows = NDArray[np.int64]  # (Q, K)

BLOCK = 16_384  # vectors copied into memory together: 32 MiB at D = 512
BATCH = 3  # queries from which matrix products are faster than one query after the other


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS use one thread; then restore the number, because torch may share FAISS's OpenMP."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class Flat:
    """Compares a query with every vector. Opening the file reads none of them.

    Attributes: path; vectors, (N, D), read-only and mapped; index, FAISS's own.
    """

    exact = True

    def __init__(self, path: Path, vectors: Vectors, index: Any) -> None:
        self.path, self.vectors, self.index = path, vectors, index
        # FAISS takes matrix products from so many values in all queries on. The number is one for
        # the whole process; a wrong one makes a search slower, never wrong.
        faiss.cvar.distance_compute_blas_threshold = BATCH * index.d

    @classmethod
    def open(cls, path: Path) -> Flat:
        """Map the file.

        Raises:
            VersionCorrupt: the file holds no flat index of inner products.
        """
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise no_index(path, str(error)) from error
        if not isinstance(index, faiss.IndexFlatIP):
            raise no_index(path, f"its kind is {type(index).__name__}")
        return cls(path, _mapped(path, (index.ntotal, index.d), "r"), index)

    @classmethod
    def open_npy(cls, path: Path) -> Flat:
        """Copy the vectors of a version of format 1 into memory. Raises OSError, ValueError."""
        log.warning("%s is of an old format and held in memory: run `skyfix build`", path)
        vectors = np.load(path, mmap_mode="r")
        index = faiss.IndexFlatIP(vectors.shape[1])
        for _, block in blocks(vectors):
            index.add(block)
        return cls(path, vectors, index)

    @staticmethod
    def create(path: Path, count: int, dimension: int) -> np.memmap[Any, np.dtype[np.float32]]:
        """Write a flat index of `count` zero vectors; return them, (N, D), mapped for writing.

        FAISS itself could only write an index that is whole in memory, and would report success
        on a full disk.

        Raises:
            OSError: the disk cannot hold the file.
        """
        # FAISS writes the header of an empty index; its two counts are then filled in.
        header = faiss.serialize_index(faiss.IndexFlatIP(dimension))
        header[8:16] = np.frombuffer(np.int64(count).tobytes(), np.uint8)
        header[-8:] = np.frombuffer(np.int64(count * dimension).tobytes(), np.uint8)
        with path.open("wb") as file:
            file.write(header.tobytes())
            file.flush()
            # A hole in a mapped file would end the process once the disk is full.
            os.posix_fallocate(file.fileno(), 0, len(header) + 4 * count * dimension)
        return _mapped(path, (count, dimension), "r+")

    @one_thread()
    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Largest inner products (Q, min(k, N)) and their rows, best first."""
        products, rows = self.index.search(queries, min(k, self.index.ntotal))
        return products, rows

    @one_thread()
    def nearest_among(
        self, queries: Vectors, k: int, allowed: NDArray[np.int64]
    ) -> tuple[Vectors, Rows]:
        """As `nearest`, among the rows `allowed`, (M,), only.

        FAISS's selectors compare the queries one after the other. A batch is therefore compared
        with copies of the allowed vectors, block by block: up to three times faster.
        """
        k = min(k, len(allowed))
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if len(queries) < BATCH:
            chosen = faiss.IDSelectorArray(allowed)
            selected = faiss.SearchParameters(sel=chosen)  # type: ignore[call-arg]
            products, rows = self.index.search(queries, k, params=selected)
            return products, rows
        best = faiss.ResultHeap(len(queries), k, keep_max=True)
        for start in range(0, len(allowed), BLOCK):
            some = allowed[start : start + BLOCK]
            vectors = self.index.reconstruct_batch(some)
            products, numbers = faiss.knn(
                queries, vectors, min(k, len(some)), faiss.METRIC_INNER_PRODUCT
            )
            best.add_result(products, some[numbers])
        best.finalize()
        return best.D, best.I

    @one_thread()
    def products(self, queries: Vectors, rows: Rows) -> Vectors:
        """Inner products, (Q, K), of each query with its own rows, (Q, K); -inf for row -1."""
        products = np.empty(rows.shape, np.float32)
        self.index.compute_distance_subset(
            len(queries),
            faiss.swig_ptr(queries),
            rows.shape[1],
            faiss.swig_ptr(products),
            faiss.swig_ptr(rows),
        )
        return products


def blocks(vectors: Vectors, size: int = BLOCK) -> Iterator[tuple[int, Vectors]]:
    """(first row, up to `size` vectors copied into memory), in order."""
    for start in range(0, len(vectors), size):
        yield start, np.array(vectors[start : start + size])


def _mapped(path: Path, shape: tuple[int, int], mode: Any) -> np.memmap[Any, np.dtype[np.float32]]:
    """The vectors stand at the end of the file, in row order."""
    header = path.stat().st_size - 4 * shape[0] * shape[1]
    return np.memmap(path, np.float32, mode, header, shape)


def no_index(path: Path, reason: str) -> VersionCorrupt:
    return VersionCorrupt(
        f"{path} is no FAISS index: {reason}", public=f"{path.name} is no FAISS index"
    )
