"""TileIndex: one open index version. Exact nearest tiles, optionally among some of them only.

The only file that knows faiss. The vectors are memory-mapped and searched where they lie, so
opening costs nothing a vector; on a GPU they are copied to it once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from model.errors import SkyfixError
from model.geo import Bounds, LatLon
from service.index.manifest import TILES, VECTORS, Manifest, VersionCorrupt
from service.index.tiles import Mask, TileTable

Vectors = NDArray[np.float32]  # (N, D)
Rows = NDArray[np.int64]  # (Q, K)

GATHER_ROWS = 65_536  # allowed rows copied together at a time: 128 MiB at D = 512
GPU_MAX_K = 2048  # faiss refuses more


class SearchError(SkyfixError):
    """A query that the index cannot answer."""


class TileIndex:
    """Attributes: version, manifest, tiles (row -> place), vectors (N, D) memory-mapped.

    Any number of threads may search at once.
    """

    def __init__(self, manifest: Manifest, tiles: TileTable, vectors: Vectors, device: str) -> None:
        self.manifest = manifest
        self.version = manifest.version
        self.tiles = tiles
        self.vectors = vectors
        self._gpu = _GpuVectors(vectors) if device.startswith("cuda") else None
        # Queries x D from which faiss uses BLAS. By default batches below 40 at D = 512 do not and
        # take 6 times longer; single queries are 2.7 times faster without (N = 100,000, one core).
        faiss.cvar.distance_compute_blas_threshold = 2 * manifest.dimension

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> TileIndex:
        """Opens a version's folder after checking its manifest and its files' sizes.

        Raises:
            VersionCorrupt: see service.index.manifest; full checksums are Versions.verify's.
        """
        manifest = Manifest.read(folder)
        manifest.check(folder, digests=False)
        try:
            vectors = np.load(folder / VECTORS, mmap_mode="r")
            records = np.load(folder / TILES, mmap_mode="r")
            tiles = TileTable(records)
        except (OSError, ValueError, IndexError) as error:
            raise VersionCorrupt(f"index version {manifest.version}: {error}") from error
        expected = (manifest.count, manifest.dimension)
        if vectors.shape != expected or vectors.dtype != np.float32 or len(tiles) != expected[0]:
            raise VersionCorrupt(
                f"index version {manifest.version} holds {vectors.shape} {vectors.dtype} vectors "
                f"and {len(tiles)} tiles, its manifest says {expected}"
            )
        return cls(manifest, tiles, vectors, device)

    def search(self, vectors: Vectors, k: int, allowed: Mask | None = None) -> tuple[Vectors, Rows]:
        """The nearest tiles of each query, nearest first.

        Args:
            vectors: (Q, D) descriptors.
            k: how many; fewer come back where fewer tiles are there or allowed.
            allowed: (N,) rows that may be returned; every other row never is.

        Returns:
            Squared L2 distances (Q, K) float32 and rows (Q, K) int64, K = min(k, allowed rows).

        Raises:
            SearchError: wrong shape or dimension, values that are not finite, k < 1.
        """
        queries = self._checked(vectors, k, allowed)
        if allowed is not None:
            products, rows = self._among(queries, np.flatnonzero(allowed), k)
        elif self._gpu is not None and k <= GPU_MAX_K:
            products, rows = self._gpu.nearest(queries, min(k, len(self.vectors)))
        else:
            products, rows = _nearest(queries, self.vectors, k)
        squares = np.einsum("qd,qd->q", queries, queries)[:, None] + 1.0 - 2.0 * products
        return np.maximum(squares, 0.0, dtype=np.float32), rows

    def within(self, near: LatLon, radius_m: float) -> Mask:
        """See TileTable.within."""
        return self.tiles.within(near, radius_m)

    def in_bbox(self, box: Bounds) -> Mask:
        """See TileTable.in_bbox."""
        return self.tiles.in_bbox(box)

    def _checked(self, vectors: Vectors, k: int, allowed: Mask | None) -> Vectors:
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        count, dimension = self.vectors.shape
        if queries.ndim != 2 or queries.shape[1] != dimension:
            raise SearchError(
                f"queries have shape {queries.shape}; index version {self.version} needs "
                f"(Q, {dimension})"
            )
        if not np.isfinite(queries).all():
            bad = np.flatnonzero(~np.isfinite(queries).all(axis=1)).tolist()
            raise SearchError(f"queries {bad} hold values that are not finite")
        if k < 1:
            raise SearchError(f"k is {k}: at least 1 is needed")
        if allowed is not None and (allowed.shape != (count,) or allowed.dtype != np.bool_):
            raise SearchError(
                f"allowed is {allowed.dtype} {allowed.shape}; bool ({count},) is needed"
            )
        return queries

    def _among(self, queries: Vectors, allowed: NDArray[np.intp], k: int) -> tuple[Vectors, Rows]:
        """Exact search of a subset, gathered block by block: the same on every engine.

        faiss's own selectors are ignored by its GPU indexes outside the cuVS build.
        """
        found = [_nearest(queries, self.vectors[:0], k)]
        for start in range(0, len(allowed), GATHER_ROWS):
            rows = allowed[start : start + GATHER_ROWS]
            products, places = _nearest(queries, self.vectors[rows], k)
            found.append((products, rows[places].astype(np.int64)))
        products = np.concatenate([p for p, _ in found], axis=1)
        every = np.concatenate([r for _, r in found], axis=1)
        best = np.argsort(-products, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(products, best, 1), np.take_along_axis(every, best, 1)


def _nearest(queries: Vectors, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
    """Largest inner products, (Q, min(k, N)): on unit vectors the nearest ones."""
    k = min(k, len(vectors))
    if k == 0:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    products, rows = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return products, rows


class _GpuVectors:
    """The vectors on a GPU, owned by one thread: faiss's GPU indexes bear no second one."""

    def __init__(self, vectors: Vectors) -> None:
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="faiss-gpu")
        self._index: Any = self._owner.submit(self._clone, vectors).result()

    def _clone(self, vectors: Vectors) -> Any:
        self._resources = faiss.StandardGpuResources()
        index = faiss.GpuIndexFlatIP(self._resources, vectors.shape[1])
        for start in range(0, len(vectors), GATHER_ROWS):
            index.add(np.ascontiguousarray(vectors[start : start + GATHER_ROWS]))
        return index

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        products, rows = self._owner.submit(self._index.search, queries, k).result()
        return products, rows
