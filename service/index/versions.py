"""Index versions on disk: immutable folders, and CURRENT, the pointer to the live one.

index/000007-20260731T101500Z/
    manifest.json   service.index.manifest
    vectors.faiss   service.index.flat
    tiles.npy       service.index.frozen_tiles
    ivfpq.faiss     service.index.ivf_pq; for many tiles only
index/CURRENT       the live version's name
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from model.atomic_write import sync, write_atomically
from model.errors import SkyfixError, public_reason
from service.index import milvus
from service.index.lock import build_lock, pointer_lock
from service.index.manifest import Manifest, VersionCorrupt
from service.index.search import TileIndex

NAME = re.compile(r"\d{6,}-\d{8}T\d{6}Z")


class IndexMissing(SkyfixError):
    """There is no live index version."""


class IndexUnreadable(VersionCorrupt):
    """The file system does not say which versions there are, or which is live."""


class IndexUnwritable(SkyfixError):
    """The file system refuses to change the index."""


class VersionUnknown(SkyfixError):
    """No index version has this name."""


class EncoderMismatch(SkyfixError):
    """The index was built by another encoder."""


@dataclass(frozen=True)
class VersionReport:
    """A version that `verify` found whole: its tiles, bytes on disk and canaries."""

    version: str
    tiles: int
    bytes: int
    canaries: int


class Versions:
    """The versions under a home folder, oldest first. Reading needs no lock."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "index"
        self.pointer = self.folder / "CURRENT"

    def names(self) -> list[str]:
        """All versions, oldest first. Raises IndexUnreadable."""
        try:
            if not self.folder.is_dir():
                return []
            return sorted(p.name for p in self.folder.iterdir() if NAME.fullmatch(p.name))
        except OSError as error:
            raise IndexUnreadable(
                f"{self.folder} cannot be read: {error}",
                public=f"the index cannot be read: {public_reason(error)}",
            ) from error

    def current(self) -> str | None:
        """The live version's name, or None before the first build. Raises IndexUnreadable."""
        try:
            return self.pointer.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            remedy = "where it is no file, remove it and run `skyfix activate`"
            raise IndexUnreadable(
                f"{self.pointer} cannot be read: {error}: {remedy}",
                public=f"{self.pointer.name} cannot be read: {error.strerror}: {remedy}",
            ) from error

    def require_current(self) -> str:
        """Raises IndexMissing before the first build, IndexUnreadable where CURRENT is empty."""
        name = self.current()
        if name == "":
            remedy = f"run `skyfix activate` with one of {self.names()}, or `skyfix build`"
            raise IndexUnreadable(
                f"{self.pointer} is empty: {remedy}",
                public=f"{self.pointer.name} is empty: {remedy}",
            )
        if name is None:
            raise IndexMissing(
                f"{self.folder} holds no index yet: run `skyfix build`",
                public="the home folder holds no index yet: run `skyfix build`",
            )
        return name

    def path(self, name: str) -> Path:
        """Raises VersionUnknown when there is no such version."""
        if not NAME.fullmatch(name) or not (self.folder / name).is_dir():
            there = f"there are {self.names()}"
            raise VersionUnknown(
                f"no index version is named {name!r} in {self.folder}; {there}",
                public=f"no index version is named {name!r}; {there}",
            )
        return self.folder / name

    def manifest(self, name: str) -> Manifest:
        """Raises VersionUnknown, VersionCorrupt."""
        return Manifest.read(self.path(name))

    def next_name(self, now: datetime) -> str:
        """A name that sorts after all others, whatever the clock says."""
        numbers = [int(name.split("-")[0]) for name in self.names()]
        return f"{max(numbers, default=0) + 1:06d}-{now:%Y%m%dT%H%M%SZ}"

    def verify(self, name: str) -> VersionReport:
        """Read every byte of a version, and let some vectors find themselves.

        Raises:
            VersionUnknown, VersionCorrupt.
        """
        return verify_folder(self.path(name))

    def activate(self, name: str) -> VersionReport:
        """Verify a version, then make it the live one: atomic and durable.

        Raises:
            VersionUnknown, VersionCorrupt, IndexUnwritable: the live version stays.
        """
        self.path(name)
        with _writable(self.pointer, f"{name} is not made live"), pointer_lock(self.folder):
            report = verify_folder(self.path(name))
            write_atomically(self.pointer, f"{name}\n".encode())
        return report

    def publish(self, folder: Path, name: str) -> None:
        """Give a finished, verified folder its name and make it the live version."""
        with pointer_lock(self.folder):
            os.rename(folder, self.folder / name)
            sync(self.folder)
            write_atomically(self.pointer, f"{name}\n".encode())

    def prune(self, keep: int) -> list[str]:
        """Remove all but the newest `keep` versions and the live one; return the removed names.

        Where CURRENT names no version, servers fall back to the newest, which therefore stays.

        Raises:
            BuildLocked: a build is running.
            IndexUnreadable: it is not known which version is live; nothing was removed.
            IndexUnwritable: some may be left; pruning again removes them.
            ValueError: `keep` is negative.
        """
        if keep < 0:
            raise ValueError(f"keep is {keep}: it must not be negative")
        with _writable(self.folder, "old versions are not removed"), build_lock(self.folder):
            self.sweep()
            with pointer_lock(self.folder):
                for rest in self.folder.glob(".CURRENT.*.tmp"):  # left by a killed process
                    rest.unlink(missing_ok=True)
                current, names = self.current(), self.names()
                live = [current] if current in names else names[-1:]
                old = [name for name in names[: max(0, len(names) - keep)] if name not in live]
                servers = {uri for name in old if (uri := self._milvus(name)) is not None}
                for name in old:
                    os.rename(self.folder / name, self.folder / f".old-{name}")
            self.sweep()
            for uri in servers:
                milvus.drop_if_there(uri, self.names())
        return old

    def _milvus(self, name: str) -> str | None:
        """Address of the Milvus server that searches a version, if one does."""
        try:
            return self.manifest(name).engine.get("uri")
        except VersionCorrupt:
            return None

    def sweep(self) -> None:
        """Remove what killed builds and prunes left. The caller holds the build lock."""
        for pattern in (".new-*", ".old-*"):
            for left in self.folder.glob(pattern):
                shutil.rmtree(left)


def verify_folder(folder: Path) -> VersionReport:
    """See Versions.verify; also for a folder that is not published yet."""
    manifest = Manifest.read(folder)
    manifest.check(folder, digests=True)
    canaries = TileIndex.open(folder).find_itself()
    size = sum(content.bytes for content in manifest.files.values())
    return VersionReport(manifest.version, manifest.count, size, canaries)


@contextmanager
def _writable(path: Path, what: str) -> Iterator[None]:
    """The file system's errors as IndexUnwritable."""
    try:
        yield
    except OSError as error:  # that of a full disk names no path
        remedy = "free space on its disk, or make it writable, and try again"
        raise IndexUnwritable(
            f"{path}: {what}: {error}: {remedy}",
            public=f"{path.name}: {what}: {error.strerror}: {remedy}",
        ) from error
