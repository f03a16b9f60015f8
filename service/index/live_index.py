"""LiveIndex: the version that answers. Opens, swaps and drops versions, and falls back."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path

from model.errors import SkyfixError, public_reason
from service.index.file_stamp import Stamp, stamp
from service.index.manifest import FILE as MANIFEST
from service.index.manifest import VersionCorrupt
from service.index.retry_timer import RETRY_EVERY_S, Refusal
from service.index.search import TileIndex
from service.index.versions import (
    EncoderMismatch,
    IndexMissing,
    IndexUnreadable,
    VersionReport,
    Versions,
)

log = logging.getLogger(__name__)

UNREADABLE = ""  # instead of the name in CURRENT

Stamps = list[Stamp]  # one of each file of a version


class LiveIndex:
    """Hands out the live TileIndex. A caller may use a TileIndex for as long as it likes."""

    def __init__(
        self,
        home: Path,
        encoder: str,
        device: str = "cpu",
        retry_every_s: float = RETRY_EVERY_S,
    ) -> None:
        """`encoder`: the fingerprint of the encoder whose descriptors will be searched."""
        self.versions = Versions(home)
        self._encoder, self._device = encoder, device
        self._lock = threading.Lock()
        self._index: TileIndex | None = None
        self._named: str | None = None  # by CURRENT when last followed; see _look
        self._refusal = Refusal(retry_every_s)  # why the named version does not answer
        self._damaged: dict[str, Stamps] = {}  # versions, and their files when found damaged

    def get(self) -> TileIndex:
        """The live index. The first call opens it; later calls wait for nothing.

        Opening checks the sizes of files and that some vectors find themselves; a thread then reads
        every byte. A version whose files were cut short is dropped for the last good one before it
        is read.

        Raises:
            IndexMissing, VersionUnknown, VersionCorrupt, EncoderMismatch, EngineUnavailable:
                no version can be used yet.
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
        return index

    def follow(self) -> str | None:
        """Look at CURRENT once, and swap to the version that it names.

        Opens a version when the name has changed, when a refused version is due for another try, or
        when a damaged version is whole again. On any error the last good version stays, and the log
        says why.

        Returns:
            The named version if another encoder built it, else None. The caller opens that version
            with its own weights, or calls `refuse`.
        """
        with self._lock:
            name = self._look()
            if name == self._named and not self._refusal.is_due() and not self._is_healed(name):
                return None
            self._named = name
            try:
                self._go_live(self._open(name or self.versions.require_current()))
            except EncoderMismatch:
                return name
            except Exception as error:  # any error: a lost error would never be tried again
                self.refuse(error)
            return None

    def refuse(self, error: Exception) -> None:
        """Keep the last good version: the named version cannot be used now."""
        named = f"index version {self._named}" if self._named else "what CURRENT names"
        kept = f", {self._index.version} stays live" if self._index else ""
        self._note(f"{named} is not used{kept}", error)

    def open(self, name: str) -> TileIndex:
        """Open a version that `swap` or `activate` may make live. A damaged one is verified first.

        Raises:
            VersionUnknown, VersionCorrupt, EncoderMismatch, EngineUnavailable.
        """
        with self._lock:
            if name in self._damaged:
                self.versions.verify(name)
                del self._damaged[name]
            return self._open(name)

    def swap(self, index: TileIndex) -> None:
        """Answer from a version that CURRENT names and `open` has opened."""
        with self._lock:
            self._named = index.version
            self._go_live(index)

    def activate(self, index: TileIndex) -> VersionReport:
        """Verify an opened version, name it in CURRENT and answer from it.

        Raises:
            VersionUnknown, VersionCorrupt, IndexUnwritable: the live version stays.
        """
        report = self.versions.activate(index.version)
        self.swap(index)
        return report

    def trouble(self) -> str | None:
        """Why the version that CURRENT names does not answer from disk; None when it does."""
        index = self._index
        if self._refusal.why or index is None:
            return self._refusal.why
        if stamp(self.versions.folder / index.version / MANIFEST):
            return None
        return f"index version {index.version} answers, but its folder is gone"

    def check(self, index: TileIndex) -> None:
        """Read every byte of a version. Drop a damaged version for the last good one."""
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
                self._note(f"index version {index.version} stays live", error)
                return
            self._note(f"index version {index.version} is dropped", error)
            self._damaged[index.version] = self._stamps(index.version)
            self._index = None
            self._fall_back(self._look(), but=index.version)

    def _first(self) -> TileIndex:
        name = self._look()
        try:
            index = self._open(name or self.versions.require_current())
        except (IndexMissing, EncoderMismatch):  # build first, or follow with other weights
            raise
        except Exception as error:
            self._named = name
            self.refuse(error)
            fallback = self._fall_back(name, but=name)
            if fallback is None:
                raise
            return fallback
        self._named = name
        return self._go_live(index)

    def _fall_back(self, named: str | None, but: str | None) -> TileIndex | None:
        """Swap to the version that CURRENT names, or else to the newest that can be used."""
        names = self.versions.names()
        for name in sorted(names, key=lambda name: (name == named, name), reverse=True):
            if name == but:
                continue
            try:
                index = self._open(name)
            except Exception as error:
                log.error("index version %s is not used either: %s", name, _text(error))
                continue
            if name == named:
                self._named = name
            return self._go_live(index)
        return None

    def _go_live(self, index: TileIndex) -> TileIndex:
        if index.version == self._named:
            self._refusal.clear()
        self._index = index
        log.info("index version %s is live", index.version)
        threading.Thread(target=self.check, args=(index,), name="index-check", daemon=True).start()
        return index

    def _note(self, fact: str, error: Exception) -> None:
        self._refusal.refuse(f"{fact}: {public_reason(error)}")
        unexpected = None if isinstance(error, SkyfixError) else error
        log.error("%s: %s", fact, _text(error), exc_info=unexpected)

    def _look(self) -> str | None:
        """The name in CURRENT. None: there is no CURRENT. UNREADABLE: opening says why."""
        try:
            return self.versions.current()
        except IndexUnreadable:
            return UNREADABLE

    def _is_healed(self, name: str | None) -> bool:
        """Whether a damaged version's files have changed and are whole now."""
        if name not in self._damaged or (stamps := self._stamps(name)) == self._damaged[name]:
            return False
        self._damaged[name] = stamps
        with suppress(SkyfixError):
            self.versions.verify(name)
            del self._damaged[name]
        return name not in self._damaged

    def _stamps(self, name: str) -> Stamps:
        return [stamp(file) for file in sorted((self.versions.folder / name).glob("*"))]

    def _open(self, name: str) -> TileIndex:
        if name in self._damaged and not self._is_healed(name):
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


def _text(error: Exception) -> str:
    """Skyfix's errors are sentences; of other errors the class may say most."""
    return str(error) if isinstance(error, SkyfixError) else repr(error)
