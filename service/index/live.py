"""LiveIndex: the version that answers now. Follows CURRENT, on requests and when told to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from model.errors import SkyfixError, public_reason
from service.index.file_stamp import Stamp, stamp
from service.index.manifest import FILE as MANIFEST
from service.index.manifest import VersionCorrupt
from service.index.refusal import RETRY_EVERY_S, Refusal
from service.index.search import TileIndex
from service.index.versions import (
    EncoderMismatch,
    IndexMissing,
    IndexUnreadable,
    VersionReport,
    Versions,
)

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
UNREADABLE = ""  # instead of a name

Stamps = list[Stamp]  # of a version's files


class LiveIndex:
    """Hands out the live TileIndex. Whoever holds one may use it for as long as it likes."""

    def __init__(
        self,
        home: Path,
        encoder: str,
        device: str = "cpu",
        look_every_s: float = LOOK_EVERY_S,
        retry_every_s: float = RETRY_EVERY_S,
    ) -> None:
        """`encoder`: the fingerprint of the encoder whose queries will be searched."""
        self.versions = Versions(home)
        self._encoder, self._device = encoder, device
        self._look_every_s = look_every_s
        self._lock = threading.Lock()
        self._index: TileIndex | None = None
        self._pointed: str | None = None  # see _look: when last looked at, good or bad
        self._refusal = Refusal(retry_every_s)  # of what it names
        self._look_at = 0.0
        self._damaged: dict[str, Stamps] = {}  # versions, and their files when found so

    def get(self) -> TileIndex:
        """The live index.

        The first call opens it; later ones never wait. At most every `look_every_s` a call looks
        at CURRENT; where that changed, the call has the new version opened in the background and
        is given the old one still, as are others until it is open. A version that cannot be used is
        logged as an error, and the last good one stays; it is tried again every `retry_every_s`.
        One whose files were cut short is dropped for the last good one before it is read.
        At opening sizes are checked, and whether some vectors find themselves; every byte in the
        background after it.

        Raises:
            IndexMissing, VersionUnknown, VersionCorrupt, EncoderMismatch, EngineUnavailable:
                nothing usable yet.
        """
        index = self._index
        if index is None:
            with self._lock:
                return self._index or self._first()
        try:
            index.check_whole()
        except VersionCorrupt as error:
            self._drop(index, error)
            return self.get()
        if time.monotonic() >= self._look_at and self._lock.acquire(blocking=False):
            try:
                self._look_at = time.monotonic() + self._look_every_s
                changed = self._look() != self._pointed or self._refusal.is_due()
            finally:
                self._lock.release()
            if changed:
                threading.Thread(target=self.refresh, name="live-index", daemon=True).start()
        return index

    def refresh(self) -> None:
        """Follows CURRENT now, if it changed, a retry is due or what was damaged is whole again.
        Keeps the last good version on any error. A version of another encoder is none of its
        business: whoever can change the weights opens that, or tells why not."""
        with self._lock:
            name, healed = self._look(), self._healed()
            if name == self._pointed and name not in healed and not self._refusal.is_due():
                return
            self._pointed = name
            self._refusal.put_off()
            try:
                self._go_live(self._open(name or self.versions.require_current()))
            except EncoderMismatch:
                self._refusal.clear()
            except Exception as error:  # whatever it is: lost, it would never be tried again
                kept = self._index.version if self._index else "nothing"
                self._refuse(f"{self._asked()} is not used, {kept} stays live", error)

    def activate(
        self, name: str, prove: Callable[[TileIndex], object] = lambda index: None
    ) -> VersionReport:
        """Opens a version and verifies it, then makes it the live one, and answers from it when
        this returns.

        Args:
            prove: given what was opened before anything changes; may raise.

        Raises:
            VersionUnknown, VersionCorrupt, EncoderMismatch, EngineUnavailable, IndexUnwritable, and
            what `prove` raises: the live version stays.
        """
        with self._lock:
            if name in self._damaged:
                self.versions.verify(name)
                del self._damaged[name]
            index = self._open(name)
            prove(index)
            report = self.versions.activate(name)
            self._pointed = name
            self._go_live(index)
        return report

    def take(self, name: str) -> TileIndex:
        """Opens a version and answers from it, or from nothing: unlike `get`, from no older one.

        Raises:
            VersionUnknown, VersionCorrupt, EncoderMismatch, EngineUnavailable.
        """
        with self._lock:
            self._pointed = name
            return self._go_live(self._open(name))

    def trouble(self) -> str | None:
        """Why the version that CURRENT names is not the one on disk that answers, or None."""
        index = self._index
        if self._refusal.why is None and index is not None and not self._on_disk(index):
            return f"index version {index.version} answers, but its folder is gone"
        return self._refusal.why

    def check(self, index: TileIndex) -> None:
        """Reads every byte of a version; drops it for the last good one if it is damaged."""
        try:
            index.manifest.check(self.versions.folder / index.version, digests=True)
        except SkyfixError as error:
            gone = isinstance(error.__cause__, FileNotFoundError)  # still mapped, and whole
            self._drop(index, error, keep=gone)

    def _drop(self, index: TileIndex, error: SkyfixError, *, keep: bool = False) -> None:
        with self._lock:
            if self._index is not index:  # replaced, and perhaps pruned, in the meantime
                return
            if keep:
                self._refuse(f"index version {index.version} stays live", error)
                return
            self._refuse(f"index version {index.version} is dropped", error)
            self._damaged[index.version] = self._stamps(index.version)
            self._index = None
            self._pointed = self._look()
            self._fall_back(but=index.version)

    def _first(self) -> TileIndex:
        self._pointed = name = self._look()
        try:
            return self._go_live(self._open(name or self.versions.require_current()))
        except (IndexMissing, EncoderMismatch):  # build first; open the weights that made it
            raise
        except Exception as error:
            self._refuse(f"{self._asked()} is not used", error)
            fallback = self._fall_back(but=name)
            if fallback is None:
                raise
            return fallback

    def _fall_back(self, but: str | None) -> TileIndex | None:
        """Another version that can be used goes live, if there is one: what CURRENT names, or the
        newest."""
        names = self.versions.names()
        for name in sorted(names, key=lambda name: (name == self._pointed, name), reverse=True):
            try:
                if name != but:
                    return self._go_live(self._open(name))
            except Exception as also:
                log.error("index version %s is not used either: %s", name, _said(also))
        return None

    def _go_live(self, index: TileIndex) -> TileIndex:
        if index.version == self._pointed:
            self._refusal.clear()
        self._index = index
        log.info("index version %s is live", index.version)
        threading.Thread(target=self.check, args=(index,), name="index-check", daemon=True).start()
        return index

    def _refuse(self, what: str, error: Exception) -> None:
        self._refusal.refuse(f"{what}: {public_reason(error)}")
        unexpected = None if isinstance(error, SkyfixError) else error
        log.error("%s: %s", what, _said(error), exc_info=unexpected)

    def _look(self) -> str | None:
        """What CURRENT names; None: there is none; UNREADABLE: opening that says why."""
        try:
            return self.versions.current()
        except IndexUnreadable:
            return UNREADABLE

    def _asked(self) -> str:
        return f"index version {self._pointed}" if self._pointed else "what CURRENT names"

    def _healed(self) -> list[str]:
        """Versions whose files changed since they were found damaged, and are whole now."""
        stamps = {name: self._stamps(name) for name in self._damaged}
        changed = [name for name in stamps if stamps[name] != self._damaged[name]]
        self._damaged |= stamps
        for name in changed:
            with suppress(SkyfixError):
                self.versions.verify(name)
                del self._damaged[name]
        return [name for name in changed if name not in self._damaged]

    def _stamps(self, name: str) -> Stamps:
        return [stamp(file) for file in sorted((self.versions.folder / name).glob("*"))]

    def _on_disk(self, index: TileIndex) -> bool:
        try:
            return (self.versions.folder / index.version / MANIFEST).is_file()
        except OSError:
            return False

    def _open(self, name: str) -> TileIndex:
        if name in self._damaged:
            raise VersionCorrupt(
                f"index version {name} was found damaged: put its files back, or run `skyfix build`"
            )
        path, manifest = self.versions.path(name), self.versions.manifest(name)
        if manifest.encoder != self._encoder:
            raise EncoderMismatch(
                f"index {name} was built by encoder {manifest.encoder[:12]}, this is "
                f"{self._encoder[:12]}: use the weights that built it, or run `skyfix build`"
            )
        if self._index is not None and self._index.manifest == manifest:
            manifest.check(path, digests=False)
            return self._index  # not opened again: a GPU may not hold it twice
        index = TileIndex.open(path, self._device)
        index.find_itself()
        return index


def _said(error: Exception) -> str:
    """Skyfix's errors are sentences; of others the class may be all they tell."""
    return str(error) if isinstance(error, SkyfixError) else repr(error)
