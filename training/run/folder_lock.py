"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import SkyfixError

log = logging.getLogger(__name__)


class HeldError(SkyfixError):
    """Another process works in the folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Made if it is not there, and held until the end, or until the process is gone.

    Raises:
        HeldError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = os.open(folder, os.O_RDONLY)
    try:
        _lock(number, folder)
        for rest in folder.glob(".*.safetensors.*.tmp"):  # of whoever was killed writing it
            rest.unlink(missing_ok=True)
        yield
    finally:
        os.close(number)


def _lock(number: int, folder: Path) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HeldError(
            f"another process is training in {folder}: wait for it, or choose another --out"
        ) from None
    except OSError as error:  # some network file systems
        log.warning("%s cannot be held (%s): see that nobody else trains in it", folder, error)
