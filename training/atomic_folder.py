"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import SkyfixError


@contextmanager
def appearing(out: Path, error: type[SkyfixError]) -> Iterator[Path]:
    """A temporary sibling that becomes `out` at the end, or vanishes.

    Raises:
        error: `out` exists already; it is left as it is.
    """
    if out.exists():
        raise error(f"{out} exists already: remove it or name another folder")
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
