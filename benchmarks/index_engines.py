"""The engines that benchmarks/index.py compares: each opens a version's vectors in its own way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.index.faiss_library import faiss
from service.index.flat import Flat
from service.index.manifest import VECTORS
from service.index.search import TileIndex

Search = Callable[[NDArray[np.float32], int], Any]


def skyfix(folder: Path) -> Search:
    """The version's own engine, on one thread."""
    return TileIndex.open(folder).search


def numpy_products(folder: Path) -> Search:
    """Matrix products on all cores; for few queries, vector by vector."""
    vectors = np.array(Flat.open(folder / VECTORS).vectors)

    def search(queries: NDArray[np.float32], k: int) -> NDArray[np.intp]:
        few = len(queries) < 4
        products = np.stack([vectors @ q for q in queries]) if few else queries @ vectors.T
        best = np.argpartition(products, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(products, best, 1), axis=1)
        return np.take_along_axis(best, order, 1)

    return search


def faiss_default(folder: Path) -> Search:
    """FAISS as installed: all cores, and no matrix products below 128,000 values."""
    return faiss.read_index(str(folder / VECTORS)).search


ENGINES = {"skyfix": skyfix, "numpy products": numpy_products, "faiss, default": faiss_default}
