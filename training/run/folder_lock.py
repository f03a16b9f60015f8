"""A lock that lets one process at a time work in a folder."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import SkyfixError

log = logging.getLogger(__name__)


class LockedError(SkyfixError):
    """Another process holds the folder's lock."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder if it is absent, and hold its lock until the end or the process's death.

    Raises:
        LockedError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"another process is training in {folder}: wait for it, or choose another --out"
            ) from None
        except OSError as error:  # some network file systems
            log.warning("%s cannot be locked (%s): run no second training in it", folder, error)
        for left_over in folder.glob(".*.tmp"):  # from a process killed in a write
            left_over.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)
