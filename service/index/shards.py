"""Descriptors already computed by a build that did not finish, or by the live version.

A shard is a file of (content hash, descriptor) rows of one encoder. The digest of its bytes is its
name, so that a half-written or damaged shard is recognised and removed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.atomic_write import write_atomically
from service.index.flat import Vectors

log = logging.getLogger(__name__)

Hashes = NDArray[np.bytes_]  # (N,) S32


class Shards:
    """The shards of one encoder under an index folder."""

    def __init__(self, folder: Path, encoder: str, dimension: int) -> None:
        self._root = folder / ".shards"
        self.folder = self._root / encoder
        self._type = np.dtype([("sha256", "S32"), ("vector", "<f4", (dimension,))])

    def add(self, hashes: Hashes, vectors: Vectors) -> None:
        """Writes one shard, durably. Raises OSError when the disk refuses."""
        rows = np.empty(len(hashes), self._type)
        rows["sha256"], rows["vector"] = hashes, vectors
        buffer = io.BytesIO()
        np.save(buffer, rows)
        data = buffer.getvalue()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"{_name(data)}.npy", data)

    def read(self) -> Iterator[tuple[Hashes, Vectors]]:
        """Every whole shard; damaged ones are logged and removed."""
        for path in sorted(self.folder.glob("*.npy")):
            data = path.read_bytes()
            if path.stem != _name(data):
                log.warning("shard %s is damaged and was removed: its tiles are encoded anew", path)
                path.unlink()
                continue
            rows = np.load(io.BytesIO(data))
            if rows.dtype == self._type:
                yield rows["sha256"], rows["vector"]

    def clear(self) -> None:
        """Removes the shards of every encoder: a version holds them now."""
        shutil.rmtree(self._root, ignore_errors=True)


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
