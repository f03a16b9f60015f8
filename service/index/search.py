"""TileIndex: one open index version. It finds the nearest tiles, among all or among some.

The search among some tiles is exact on every engine. The search among all tiles is exact too,
unless the version was built for IVF-PQ or Milvus, which may miss a tile.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from model.errors import SkyfixError, public_reason
from service.index.engine_choice import Engine, open_engine
from service.index.flat import Flat, Rows, Vectors
from service.index.frozen_tiles import Mask, TileTable
from service.index.ivf_pq import CANDIDATES
from service.index.manifest import TILES, VECTORS, VECTORS_OF_FORMAT_1, Manifest, VersionCorrupt
from service.index.stored_calibration import Calibration, CalibrationError

CANARIES = 16  # vectors that must find themselves
CANARY_DISTANCE = 1e-4  # squared; float32 leaves about 1e-6


class SearchError(SkyfixError):
    """A query that the index cannot answer."""


class TileIndex:
    """Attributes: version, manifest, tiles (where each row lies), vectors (N, D) memory-mapped,
    calibration (the numbers that turn matches into a position).

    Any number of threads may search at once.
    """

    def __init__(self, manifest: Manifest, tiles: TileTable, flat: Flat, engine: Engine) -> None:
        """Raises VersionCorrupt when the manifest's calibration cannot be read."""
        self.manifest = manifest
        self.version = manifest.version
        self.tiles = tiles
        self.vectors = flat.vectors
        stored = manifest.calibration
        try:
            self.calibration = (
                Calibration.from_tiles(tiles) if stored is None else Calibration.from_dict(stored)
            )
        except CalibrationError as error:
            raise VersionCorrupt(f"index version {self.version}: {error}; build again") from error
        self._flat, self._engine = flat, engine
        mapped = (flat.path, flat.path.with_name(TILES))
        self._mapped = [(path, path.stat()) for path in mapped]

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> TileIndex:
        """Open a version's folder after checking its manifest and the sizes of its files.

        Raises:
            VersionCorrupt: see service.index.manifest; `Versions.verify` compares checksums.
            EngineUnavailable: see open_engine.
        """
        manifest, tiles, flat = read_version(folder)
        return cls(manifest, tiles, flat, open_engine(manifest, folder, flat, device))

    def check_whole(self) -> None:
        """Check that no mapped file was cut short: reading the lost pages would end the process
        by SIGBUS. A file that was deleted or replaced stays whole while it is mapped.

        Raises:
            VersionCorrupt: naming the file.
        """
        for path, opened in self._mapped:
            try:
                now = path.stat()
            except OSError:
                continue
            if os.path.samestat(now, opened) and now.st_size < opened.st_size:
                raise VersionCorrupt(
                    f"index version {self.version}: {path.name} was cut to {now.st_size} bytes, of "
                    f"{opened.st_size}"
                )

    def search(self, vectors: Vectors, k: int, allowed: Mask | None = None) -> tuple[Vectors, Rows]:
        """The nearest tiles of each query, nearest first; of equal ones, the lowest row first.

        Args:
            vectors: (Q, D) descriptors.
            k: how many; fewer come back where fewer tiles are there or allowed.
            allowed: (N,) rows that may be returned; every other row never is.

        Returns:
            Squared L2 distances (Q, K) float32 and rows (Q, K) int64, K = min(k, allowed rows).

        Raises:
            SearchError: wrong shape or dimension, values that are not finite, k < 1.
            VersionCorrupt: see check_whole.
        """
        queries = self._checked(vectors, k, allowed)
        self.check_whole()
        if allowed is not None and not allowed.all():
            products, rows = self._flat.nearest_among(queries, k, np.flatnonzero(allowed))
        elif self._engine.exact:
            products, rows = self._engine.nearest(queries, k)
        else:
            products, rows = self._rescored(queries, k)
        order = np.lexsort((rows, -products))[:, :k]
        products = np.take_along_axis(products, order, 1)
        rows = np.take_along_axis(rows, order, 1)
        squares = np.einsum("qd,qd->q", queries, queries)[:, None] + 1.0 - 2.0 * products
        return np.maximum(squares, 0.0, dtype=np.float32), rows

    def find_itself(self) -> int:
        """Let some vectors search for themselves, in the engine; return how many.

        Cheap enough for every opening: only these vectors are read, unless the engine misses one.

        Raises:
            VersionCorrupt: a vector is not found, or is not finite.
            EngineUnavailable: the engine does not answer.
        """
        rows = np.unique(np.linspace(0, len(self.vectors) - 1, CANARIES).astype(int))
        try:
            queries = self._checked(self.vectors[rows], 1, None)
        except SearchError as error:
            raise VersionCorrupt(f"index version {self.version}: as {error}") from error
        pairs = zip(rows.tolist(), queries, strict=True)
        lost = [row for row, query in pairs if not self._finds(row, query[None])]
        if lost:
            raise VersionCorrupt(
                f"index version {self.version}: vectors {lost} do not find themselves: "
                "run `skyfix build`"
            )
        return len(rows)

    def _finds(self, row: int, query: Vectors) -> bool:
        """Whether a row's vector (1, D) finds the row, or a row of the same content."""
        found = self._engine is self._flat or (
            not self._engine.exact and row in self._engine.nearest(query, CANDIDATES)[1]
        )
        alone = None
        if found:  # scoring the other rows too would read their vectors
            alone = np.zeros(len(self.vectors), bool)
            alone[row] = True
        distances, _ = self.search(query, 1, alone)
        return bool(distances[0, 0] <= CANARY_DISTANCE)  # also false for NaN

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

    def _rescored(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """The engine's candidates, in any order, with exact products; it may miss some rows."""
        k = min(k, len(self.vectors))
        _, rows = self._engine.nearest(queries, max(CANDIDATES, 2 * k))
        if (rows >= 0).sum(axis=1).min() < k:  # the probed lists hold too few
            return self._flat.nearest(queries, k)
        return self._flat.products(queries, rows), rows


def read_version(folder: Path) -> tuple[Manifest, TileTable, Flat]:
    """A version's files, memory-mapped, after checking its manifest and the files' sizes.

    Raises:
        VersionCorrupt: see service.index.manifest.
    """
    manifest = Manifest.read(folder)
    manifest.check(folder, digests=False)
    try:
        tiles = TileTable(np.load(folder / TILES, mmap_mode="r"))
        if VECTORS in manifest.files:
            flat = Flat.open(folder / VECTORS)
        else:
            flat = Flat.open_npy(folder / VECTORS_OF_FORMAT_1)
    except (OSError, ValueError, IndexError) as error:
        raise VersionCorrupt(
            f"index version {manifest.version}: {error}",
            public=f"index version {manifest.version}: {public_reason(error)}",
        ) from error
    expected = (manifest.count, manifest.dimension)
    if flat.vectors.shape != expected or len(tiles) != expected[0]:
        raise VersionCorrupt(
            f"index version {manifest.version} holds {flat.vectors.shape} vectors and "
            f"{len(tiles)} tiles, its manifest says {expected}"
        )
    return manifest, tiles, flat
