"""One builder at a time, across processes; the lock ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from model.errors import SkyfixError

log = logging.getLogger(__name__)


class BuildLocked(SkyfixError):
    """Another process is building or pruning."""


@contextmanager
def build_lock(folder: Path) -> Iterator[None]:
    """Holds `folder`/.lock while the block runs.

    Raises:
        BuildLocked: naming the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise BuildLocked(
                f"the index in {folder} is being built by {file.read() or 'another process'}: "
                "wait until it has finished"
            ) from error
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _name_holder(file.fileno(), folder, json.dumps(owner))
        yield
        _name_holder(file.fileno(), folder, "")


def _name_holder(descriptor: int, folder: Path, text: str) -> None:
    """Write the holder for others to read. The lock holds without it: a full disk can be pruned."""
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, text.encode())
    except OSError as error:
        log.warning("the holder of the lock of %s cannot be written down: %s", folder, error)


@contextmanager
def pointer_lock(folder: Path) -> Iterator[None]:
    """Waits for, then holds, the right to move CURRENT or to remove versions.

    Apart from the build lock, so that an older version can be activated while a build runs.
    """
    with (folder / ".pointer").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
