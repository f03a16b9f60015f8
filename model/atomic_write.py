"""Files and folders that a crash leaves whole: the old content or the new, never a part."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import SkyfixError


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path`; the new content is on the disk when this returns.

    Raises:
        OSError: the disk is full or refuses. The message names `path`, whose content is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the file that was there is intact" if path.is_file() else ""
        raise OSError(error.errno, f"{error.strerror}{kept}", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whose content is on the disk when this returns; a crash may leave a part."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(path: Path, error: type[SkyfixError]) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to `path` on success and removed on failure.

    Raises:
        error: `path` exists already; it is left unchanged.
    """
    if path.exists():
        raise error(f"{path} exists already: remove it or name another folder")
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
