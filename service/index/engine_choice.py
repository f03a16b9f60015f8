"""Which engine searches an index version: chosen by its build, opened by whoever searches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.index import milvus
from service.index.engines import (
    FEWEST,
    IVF_FILE,
    LEAST_RECALL,
    RESCORED,
    Engine,
    Exact,
    Gpu,
    IvfPq,
    Vectors,
)
from service.index.manifest import EngineUnavailable, Manifest

log = logging.getLogger(__name__)

# Tiles. An exact query there takes 22 ms of two cores (D = 256), an approximate one 0.9; with fewer
# it takes about what encoding it does (`benchmarks.index crossover`, docs/scale.md).
APPROXIMATE_FROM = 300_000


@dataclass(frozen=True)
class EngineChoice:
    """Which search engine a build makes its version for, and what that engine needs."""

    approximate_from: int | None  # tiles; None: nobody asked, so APPROXIMATE_FROM
    milvus_address: str | None  # see service.index.milvus

    def prepare(
        self, folder: Path, name: str, vectors: Vectors, published: Sequence[str]
    ) -> dict[str, Any]:
        """Writes the engine's own file, or loads the server; returns the manifest's `engine`."""
        engine = self._prepare(folder, name, vectors, published)
        if self.approximate_from is None:
            return engine
        return {**engine, "approximate_from": self.approximate_from}

    def _prepare(
        self, folder: Path, name: str, vectors: Vectors, published: Sequence[str]
    ) -> dict[str, Any]:
        if self.milvus_address is not None:
            milvus.load(self.milvus_address, name, vectors, published)
            return {"kind": "milvus", "uri": self.milvus_address}
        if len(vectors) < max(self.approximate_from or APPROXIMATE_FROM, FEWEST):
            return {"kind": "exact"}
        recall = IvfPq.write(vectors, folder / IVF_FILE, RESCORED)
        if recall < LEAST_RECALL:
            (folder / IVF_FILE).unlink()
            log.warning(
                "IVF-PQ holds %.4f of the true ten with all its lists looked into, %g are needed: "
                "every search will compare all %d tiles",
                *(recall, LEAST_RECALL, len(vectors)),
            )
            return {"kind": "exact"}
        return {"kind": "ivfpq", "recall": round(recall, 4)}

    def undo(self, published: Sequence[str]) -> None:
        """Removes what was loaded for a version that is not published."""
        if self.milvus_address is not None:
            try:
                milvus.drop(self.milvus_address, published)
            except EngineUnavailable as error:
                log.warning("its collection is removed by the next build: %s", error)


def announce(manifest: Manifest) -> None:
    """Points the alias of Milvus at a live version, where Milvus searches it.

    An error is logged alone: Skyfix's own answers follow CURRENT.
    """
    if manifest.engine["kind"] == "milvus":
        try:
            milvus.point_alias(manifest.engine["uri"], manifest.version)
        except EngineUnavailable as error:
            log.error(
                "%s is live, but the alias of Milvus is not at it: %s", manifest.version, error
            )


def open_engine(manifest: Manifest, folder: Path, vectors: Vectors, device: str) -> Engine:
    """The engine that a version was built for; on a GPU, all vectors are compared there.

    Raises:
        EngineUnavailable: Milvus does not answer.
    """
    kind = manifest.engine["kind"]
    if kind == "milvus":
        return milvus.Milvus(manifest.engine["uri"], manifest.version, manifest.count)
    if device.startswith("cuda"):
        return Gpu(vectors)
    if kind == "ivfpq":
        return IvfPq(folder / IVF_FILE)
    return Exact(vectors)
