"""Writing so that a crash leaves the old file or the new one, never a piece of either."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

BLOCK = 1 << 20

Stamp = tuple[int, ...]


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path`'s content, durable when this returns.

    Raises:
        OSError: the disk is full or refuses; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Forces a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def stamp(path: Path) -> Stamp:
    """Differs where a file may have changed; empty where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
