"""The flat index on a GPU. FAISS's GPU indexes bear one thread only, and ignore selectors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service.index.faiss_library import faiss
from service.index.flat import Flat, Rows, Vectors
from service.index.manifest import EngineUnavailable

MAX_K = 2048  # FAISS refuses more


class Gpu:
    """A clone of the flat index, used by a thread of its own."""

    exact = True

    def __init__(self, flat: Flat) -> None:
        """Raises EngineUnavailable when the GPU cannot hold the vectors."""
        self._flat = flat
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="faiss-gpu")
        self._index: Any = self._owned(self._clone)

    def _clone(self) -> Any:
        self._resources = faiss.StandardGpuResources()
        return faiss.index_cpu_to_gpu(self._resources, 0, self._flat.index)

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See Engine; on the CPU where k is more than the GPU can.

        Raises:
            EngineUnavailable: the GPU is full, or fails.
        """
        if k > MAX_K:
            return self._flat.nearest(queries, k)
        count = len(self._flat.vectors)
        products, rows = self._owned(self._index.search, queries, min(k, count))
        return products, rows

    def _owned(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `work` in the owner thread; CUDA's errors as EngineUnavailable."""
        try:
            return self._owner.submit(work, *arguments).result()
        except RuntimeError as error:
            raise EngineUnavailable(
                f"the GPU cannot search {len(self._flat.vectors)} vectors: {error}: free its "
                "memory, or set SKYFIX_DEVICE=cpu"
            ) from error
