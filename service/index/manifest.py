"""The manifest: what an index version holds, what made it, and the digests of its files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.atomic_write import write_atomically
from model.errors import SkyfixError, public_reason

FORMAT = 2
READABLE = (1, 2)  # 1: vectors.npy in place of vectors.faiss
FILE = "manifest.json"
VECTORS = "vectors.faiss"  # see service.index.flat
VECTORS_OF_FORMAT_1 = "vectors.npy"  # float32 (N, D)
TILES = "tiles.npy"  # see service.index.frozen_tiles


class EngineUnavailable(SkyfixError):
    """The search engine that an index version needs does not answer."""


class VersionCorrupt(SkyfixError):
    """An index version's files are not what its manifest says."""


@dataclass(frozen=True)
class Content:
    """One file of a version."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Content:
        return cls(path.stat().st_size, _sha256(path))


@dataclass(frozen=True)
class Manifest:
    """Stored as manifest.json in the version's folder, with a digest of itself."""

    version: str
    encoder: str  # fingerprint
    preprocessing: dict[str, float]
    dimension: int
    count: int
    tile_size_m: tuple[float, float]  # smallest and largest
    sources: list[dict[str, Any]]  # name, kind, licence, attribution, stride_m, ingested_at, tiles
    built_at: str  # ISO 8601, UTC
    files: dict[str, Content]
    calibration: dict[str, Any] | None = None  # service.index.stored_calibration
    # `kind`: exact (the flat index), ivfpq (with `recall`: reached by tuning) or milvus (with
    # `uri`: its address); `approximate_from`: the tiles from which ivfpq searches, as asked for
    engine: dict[str, Any] = field(default_factory=lambda: {"kind": "exact"})
    metric: str = "squared L2 of unit vectors"
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def write(self, folder: Path) -> None:
        """Write manifest.json, durably."""
        fields = self.as_dict()
        document = {**fields, "sha256": _digest(fields)}
        write_atomically(folder / FILE, json.dumps(document, indent=2).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a version's folder.

        Raises:
            VersionCorrupt: missing, damaged, or of a format this program does not read.
        """
        try:
            document = json.loads((folder / FILE).read_bytes())
            stated = document.pop("sha256")
            if document["format"] not in READABLE:
                raise VersionCorrupt(
                    f"index version {folder.name} has format {document['format']}, this program "
                    f"reads {READABLE}: run `skyfix build`"
                )
            if stated != _digest(document):
                raise ValueError("its digest does not match")
            files = {name: Content(**content) for name, content in document.pop("files").items()}
            smallest, largest = document.pop("tile_size_m")
            return cls(**document, files=files, tile_size_m=(smallest, largest))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise VersionCorrupt(
                f"index version {folder.name}: {FILE} cannot be used: {error!r}"
            ) from error

    def check(self, folder: Path, *, digests: bool) -> None:
        """Compare the files' sizes and, when asked, their whole content.

        Raises:
            VersionCorrupt: naming the first file that differs.
        """
        for name, stated in self.files.items():
            try:
                size = (folder / name).stat().st_size
                sha256 = _sha256(folder / name) if digests else stated.sha256
            except OSError as error:
                raise VersionCorrupt(
                    f"index version {self.version}: {error}",
                    public=f"index version {self.version}: {public_reason(error)}",
                ) from error
            if size != stated.bytes:
                raise VersionCorrupt(
                    f"index version {self.version}: {name} has {size} bytes, not {stated.bytes}"
                )
            if sha256 != stated.sha256:
                raise VersionCorrupt(
                    f"index version {self.version}: the content of {name} has changed on disk "
                    f"(sha256 {sha256[:12]}, not {stated.sha256[:12]})"
                )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
