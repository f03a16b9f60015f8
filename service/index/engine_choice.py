"""Which engine searches an index version: the build chooses, and a search opens it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from service.index import milvus
from service.index.flat import Flat, Rows, Vectors
from service.index.gpu import Gpu
from service.index.ivf_pq import FEWEST, IVF_FILE, IvfPq
from service.index.manifest import VECTORS, Manifest

log = logging.getLogger(__name__)

# Values of all vectors together: one thread compares so many with a query in about 10 ms
# (`python -m benchmarks.index table`). At D = 256 these are 78,125 tiles.
FLAT_VALUES = 20_000_000
LEAST_RECALL = 0.99  # below it a version is searched exactly


class Engine(Protocol):
    """What TileIndex needs. `exact`: the rows are the nearest, and the products right."""

    exact: bool

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Largest inner products (Q, K) and their rows; row -1 where none is left."""


@dataclass(frozen=True)
class EngineChoice:
    """The engine that a build makes its version for."""

    approximate_from: int | None  # tiles; None: as many as FLAT_VALUES allows
    milvus_address: str | None  # see service.index.milvus

    def prepare(self, folder: Path, name: str, published: Sequence[str]) -> dict[str, Any]:
        """Write the engine's own file, or load the server; return the manifest's `engine`."""
        engine = self._prepare(Flat.open(folder / VECTORS), folder, name, published)
        if self.approximate_from is None:
            return engine
        return {**engine, "approximate_from": self.approximate_from}

    def _prepare(
        self, flat: Flat, folder: Path, name: str, published: Sequence[str]
    ) -> dict[str, Any]:
        if self.milvus_address is not None:
            milvus.load(self.milvus_address, name, flat.vectors, published)
            return {"kind": "milvus", "uri": self.milvus_address}
        count, dimension = flat.vectors.shape
        if count < max(self.approximate_from or FLAT_VALUES // dimension, FEWEST):
            return {"kind": "exact"}
        recall = IvfPq.write(flat, folder / IVF_FILE)
        if recall < LEAST_RECALL:
            (folder / IVF_FILE).unlink()
            log.warning(
                "IVF-PQ finds %.4f of the true ten with all its lists probed, %g are needed: "
                "every search will compare all %d tiles",
                *(recall, LEAST_RECALL, count),
            )
            return {"kind": "exact"}
        return {"kind": "ivfpq", "recall": round(recall, 4)}

    def undo(self, published: Sequence[str]) -> None:
        """Remove the collection of a version that is not published."""
        if self.milvus_address is not None:
            milvus.drop_if_there(self.milvus_address, published)


def open_engine(manifest: Manifest, folder: Path, flat: Flat, device: str) -> Engine:
    """The engine that a version was built for; on a GPU, a clone of its flat index.

    Raises:
        EngineUnavailable: Milvus does not answer, or the GPU cannot hold the vectors.
        VersionCorrupt: the file of IVF-PQ is no FAISS index.
    """
    kind = manifest.engine["kind"]
    if kind == "milvus":
        return milvus.Milvus(manifest.engine["uri"], manifest.version, manifest.count)
    if device.startswith("cuda"):
        return Gpu(flat)
    return IvfPq(folder / IVF_FILE) if kind == "ivfpq" else flat
