"""Weights files: what they hold, and whether the one that answers still holds it."""

from __future__ import annotations

import logging
from pathlib import Path

from model.errors import SkyfixError, public_reason
from service.index.file_stamp import Stamp, stamp
from service.index.refusal import RETRY_EVERY_S, Refusal

logger = logging.getLogger(__name__)


class WeightsUnknown(SkyfixError):
    """There is no weights file of this name."""


class WeightsUnusable(SkyfixError):
    """The weights file asked for is no whole checkpoint."""


def whole_file(folder: Path, name: str) -> Path:
    """The weights file of this name in a folder, once it is seen that it can be used.

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
    """The fingerprint of the weights in a file, all of which is read.

    Raises:
        CheckpointError: the file is no whole checkpoint.
    """
    from model.checkpoint import Checkpoint

    return Checkpoint.load(path).fingerprint


class WeightsFile:
    """The file that live weights were read from. They answer without it; the next start and the
    next rebuild do not.

    Attributes:
        path: the file. fingerprint: of the weights that were read from it.
    """

    def __init__(self, path: Path, fingerprint: str, retry_every_s: float = RETRY_EVERY_S) -> None:
        self.path, self.fingerprint = path, fingerprint
        self._seen: Stamp | None = None  # when last looked at
        self._read: Stamp | None = None  # when last read whole
        self._refusal = Refusal(retry_every_s)

    def trouble(self) -> str | None:
        """That the file no longer holds the weights, or None."""
        return self._refusal.why

    def look(self) -> None:
        """Look once. A file that changed is read when it has stopped to change, for one that is
        being copied looks damaged; a damaged one now and then again. The log tells what is new."""
        now = stamp(self.path)
        settled, self._seen = now == self._seen, now
        if not settled or (now == self._read and not self._refusal.is_due()):
            return
        self._read = now
        damage, before = self._damage(), self._refusal.why
        if damage is None:
            self._refusal.clear()
            if before:
                logger.info("%s holds the weights that answer again", self.path)
            return
        # No word of the folder nor the damage: who asks may be no administrator.
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
        except Exception as error:  # whatever it is, it is no reason to look no more
            return f"{self.path}: {error!r}"
        return None if found == self.fingerprint else f"{self.path} holds weights {found[:12]}"
