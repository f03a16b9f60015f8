"""The engines that benchmarks/index.py compares: each opens a version's vectors in its own way."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.index.manifest import VECTORS
from service.index.search import TileIndex

Vectors = NDArray[np.float32]
Search = Callable[[Vectors, int], Any]


def skyfix(folder: Path) -> Search:
    return TileIndex.open(folder).search


def _faiss_default(folder: Path) -> Search:
    import faiss

    vectors = np.load(folder / VECTORS)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    del vectors
    return lambda queries, k: index.search(queries, k)


def _faiss_fp16(folder: Path) -> Search:
    import faiss

    vectors = np.load(folder / VECTORS, mmap_mode="r")
    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    for start in range(0, len(vectors), 65_536):
        index.add(np.ascontiguousarray(vectors[start : start + 65_536]))
    return lambda queries, k: index.search(queries, k)


def _numpy(folder: Path) -> Search:
    vectors = np.load(folder / VECTORS)

    def search(queries: Vectors, k: int) -> NDArray[np.intp]:
        return np.argpartition(queries @ vectors.T, -k, axis=1)[:, -k:]

    return search


def _torch(folder: Path) -> Search:
    import torch

    vectors = torch.from_numpy(np.load(folder / VECTORS))
    return lambda queries, k: (torch.from_numpy(queries) @ vectors.T).topk(k)


def _torch_bf16(folder: Path) -> Search:
    import torch

    vectors = torch.from_numpy(np.load(folder / VECTORS)).bfloat16()
    return lambda queries, k: (torch.from_numpy(queries).bfloat16() @ vectors.T).topk(k)


def _usearch(folder: Path) -> Search:
    from usearch.index import search

    vectors = np.load(folder / VECTORS)
    return lambda queries, k: search(vectors, queries, k, "ip", exact=True)


ENGINES: dict[str, Callable[[Path], Search]] = {
    "skyfix exact": skyfix,
    "faiss flat, default": _faiss_default,
    "faiss fp16": _faiss_fp16,
    "numpy matmul": _numpy,
    "torch matmul": _torch,
    "torch matmul bf16": _torch_bf16,
    **({"usearch exact": _usearch} if find_spec("usearch") else {}),
}
