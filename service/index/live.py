"""LiveIndex: the version that answers now. Follows CURRENT while requests run."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from model.errors import SkyfixError
from service.index.manifest import VersionCorrupt
from service.index.search import TileIndex
from service.index.versions import EncoderMismatch, Versions, VersionUnknown

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2


class LiveIndex:
    """Hands out the live TileIndex. Whoever holds one may use it for as long as it likes."""

    def __init__(
        self, home: Path, encoder: str, device: str = "cpu", look_every_s: float = LOOK_EVERY_S
    ) -> None:
        """`encoder`: the fingerprint of the encoder whose queries will be searched."""
        self.versions = Versions(home)
        self._encoder, self._device, self._look_every_s = encoder, device, look_every_s
        self._lock = threading.Lock()
        self._index: TileIndex | None = None
        self._pointed: str | None = None  # CURRENT when last looked at, good or bad
        self._look_at = 0.0
        self._damaged: set[str] = set()

    def get(self) -> TileIndex:
        """The live index.

        The first call opens it; later ones never wait. At most every `look_every_s` a call looks
        at CURRENT; where that changed, the call has the new version opened in the background and
        is given the old one still, as are others until it is open. A version that cannot be used is
        logged as an error, and the last good one stays. Sizes are checked at opening, every byte
        in the background after it.

        Raises:
            IndexMissing, VersionUnknown, VersionCorrupt, EncoderMismatch: nothing usable yet.
        """
        index = self._index
        if index is None:
            with self._lock:
                return self._index or self._first()
        if time.monotonic() >= self._look_at and self._lock.acquire(blocking=False):
            try:
                self._look_at = time.monotonic() + self._look_every_s
                changed = self.versions.current() != self._pointed
            finally:
                self._lock.release()
            if changed:
                threading.Thread(target=self.refresh, name="live-index", daemon=True).start()
        return index

    def refresh(self) -> None:
        """Follows CURRENT now, if it changed. Keeps the last good version on any error."""
        with self._lock:
            name = self.versions.current()
            if name == self._pointed or name is None:
                return
            self._pointed = name
            try:
                self._go_live(self._open(name))
            except SkyfixError as error:
                kept = self._index.version if self._index else "nothing"
                log.error("index version %s is not used, %s stays live: %s", name, kept, error)

    def check(self, index: TileIndex) -> None:
        """Reads every byte of a version; drops it for the last good one if it is damaged."""
        try:
            index.manifest.check(self.versions.path(index.version), digests=True)
        except SkyfixError as error:
            with self._lock:
                if self._index is not index:  # replaced, and perhaps pruned, in the meantime
                    return
                log.error("index version %s is dropped: %s", index.version, error)
                self._damaged.add(index.version)
                self._index = None
                self._pointed = self.versions.current()
                self._fall_back()

    def _first(self) -> TileIndex:
        name = self.versions.require_current()
        self._pointed = name
        try:
            return self._go_live(self._open(name))
        except (VersionCorrupt, VersionUnknown) as error:
            log.error("index version %s is not used: %s", name, error)
            fallback = self._fall_back()
            if fallback is None:
                raise
            return fallback

    def _fall_back(self) -> TileIndex | None:
        """The newest other version that can be used goes live, if there is one."""
        for name in reversed(self.versions.names()):
            try:
                if name != self._pointed:
                    return self._go_live(self._open(name))
            except SkyfixError as also:
                log.error("index version %s is not used either: %s", name, also)
        return None

    def _go_live(self, index: TileIndex) -> TileIndex:
        self._index = index
        log.info("index version %s is live", index.version)
        threading.Thread(target=self.check, args=(index,), name="index-check", daemon=True).start()
        return index

    def _open(self, name: str) -> TileIndex:
        if name in self._damaged:
            raise VersionCorrupt(f"index version {name} was found damaged: run `skyfix build`")
        path = self.versions.path(name)
        made_by = self.versions.manifest(name).encoder
        if made_by != self._encoder:
            raise EncoderMismatch(
                f"index {name} was built by encoder {made_by[:12]}, this is "
                f"{self._encoder[:12]}: run `skyfix build`"
            )
        return TileIndex.open(path, self._device)
