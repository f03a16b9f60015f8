"""Which engine searches an index version: chosen by its build, opened by whoever searches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.index import milvus
from service.index.engines import (
    FEWEST,
    IVF_FILE,
    RESCORED,
    Engine,
    Exact,
    Gpu,
    IvfPq,
    Vectors,
)
from service.index.manifest import EngineUnavailable, Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineChoice:
    """Which search engine a build makes its version for, and what that engine needs."""

    approximate_from: int
    milvus_uri: str | None

    def prepare(
        self, folder: Path, name: str, vectors: Vectors, published: Sequence[str]
    ) -> dict[str, str]:
        """Writes the engine's own file, or loads the server; returns the manifest's `engine`."""
        if self.milvus_uri is not None:
            milvus.load(self.milvus_uri, name, vectors, published)
            return {"kind": "milvus", "uri": self.milvus_uri}
        if len(vectors) < max(self.approximate_from, FEWEST):
            return {"kind": "exact"}
        IvfPq.write(vectors, folder / IVF_FILE, RESCORED)
        return {"kind": "ivfpq"}

    def undo(self, published: Sequence[str]) -> None:
        """Removes what was loaded for a version that is not published."""
        if self.milvus_uri is not None:
            try:
                milvus.drop(self.milvus_uri, published)
            except EngineUnavailable as error:
                log.warning("its collection is removed by the next build: %s", error)


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
