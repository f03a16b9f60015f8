"""Weights files: choosing one by name, and whether the live weights are still in their file."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from model.errors import SkyfixError, public_reason
from service.index.file_stamp import Stamp, stamp
from service.index.retry_timer import RETRY_EVERY_S, Refusal

logger = logging.getLogger(__name__)

SETTLED_S = 1.0  # a file that has not changed for so long is not being copied


class WeightsUnknown(SkyfixError):
    """There is no weights file of this name."""


class WeightsUnusable(SkyfixError):
    """The weights file asked for is no whole checkpoint."""


def whole_file(folder: Path, name: str) -> Path:
    """The weights file of this name in a folder, after checking that it can be used.

    Raises:
        WeightsUnknown, WeightsUnusable: naming the files that are there.
    """
    from model.checkpoint import Checkpoint, CheckpointError  # here: routes know nothing of torch

    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if name not in there:
        raise WeightsUnknown(
            f"weights={name} is not in the home folder's `weights`; there are {there}"
        )
    try:
        Checkpoint.load(folder / name).network()
    except CheckpointError as error:
        raise WeightsUnusable(
            f"weights={name}: {error}; there are {there}",
            public=f"weights={name}: {public_reason(error)}; there are {there}",
        ) from error
    return folder / name


def fingerprint_of(path: Path) -> str:
    """The fingerprint of the weights in a file. Reads the whole file.

    Raises:
        CheckpointError: the file is no whole checkpoint.
    """
    from model.checkpoint import Checkpoint

    return Checkpoint.load(path).fingerprint


class WeightsFile:
    """The file of the live weights. They answer from memory, but the next start and the next
    rebuild read the file.

    Attributes:
        path: the file. fingerprint: of the live weights.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        settled_s: float = SETTLED_S,
        retry_every_s: float = RETRY_EVERY_S,
    ) -> None:
        self.path, self.fingerprint = path, fingerprint
        self._settled_s = settled_s
        self._lock = threading.Lock()
        self._seen: Stamp | None = None  # at the last look
        self._seen_since = 0.0  # time.monotonic()
        self._read: Stamp | None = None  # when last read whole
        self._refusal = Refusal(retry_every_s)

    def trouble(self) -> str | None:
        """Look at the file, and say if it no longer holds the live weights; None when it does.

        A file that changed is read once it has been the same for `settled_s`, because a file that
        is being copied looks damaged. A damaged file is read again every `retry_every_s`. The log
        gets a line when the file is damaged and when it is whole again.
        """
        with self._lock:
            now = stamp(self.path)
            if now != self._seen:
                self._seen, self._seen_since = now, time.monotonic()
            settled = time.monotonic() - self._seen_since >= self._settled_s
            if settled and (now != self._read or self._refusal.is_due()):
                self._read = now
                self._judge(self._damage())
            return self._refusal.why

    def _judge(self, damage: str | None) -> None:
        before = self._refusal.why
        if damage is None:
            self._refusal.clear()
            if before:
                logger.info("%s holds the live weights again", self.path)
            return
        # Neither folder nor damage: the caller may be no administrator.
        self._refusal.refuse(
            f"the file {self.path.name} no longer holds the weights {self.fingerprint[:12]}, which "
            "answer from memory: put back a whole copy before the next start"
        )
        if before is None:
            logger.error("%s: %s", self._refusal.why, damage)

    def _damage(self) -> str | None:
        try:
            found = fingerprint_of(self.path)
        except SkyfixError as error:
            return str(error)
        except Exception as error:  # any error: the next look may succeed
            return f"{self.path}: {error!r}"
        return None if found == self.fingerprint else f"{self.path} holds weights {found[:12]}"
