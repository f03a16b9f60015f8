"""The localizer that answers now, and the thread that follows CURRENT for it.

An index version and the weights that built it belong together: one localizer prepares and answers a
request. Requests that run when another localizer goes live finish on the old one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from model.errors import SkyfixError
from service.index.manifest import VersionCorrupt
from service.index.versions import VersionReport, VersionUnknown
from service.locate.drive_path import Frame
from service.locate.fix import Fix
from service.locate.hints import Hints
from service.locate.localizer import Localizer, Query
from service.runtime.canary import canary_panorama
from service.runtime.weights_check import WeightsFile

if TYPE_CHECKING:
    from service.index.live_index import LiveIndex
    from service.index.search import TileIndex

logger = logging.getLogger(__name__)

FOLLOW_EVERY_S = 0.2

Reopen = Callable[[str], Localizer]  # an encoder's fingerprint to a localizer with that encoder


class Prepared(NamedTuple):
    """A query and the localizer that prepared it.

    drive_in: the version in which a frame's candidates are wanted; None: a fix is wanted.
    """

    localizer: Localizer
    query: Query
    drive_in: TileIndex | None = None


class WeightsMissing(SkyfixError):
    """No weights at hand built this index."""


class VersionNotFound(SkyfixError):
    """The version to activate does not exist."""


class VersionRefused(SkyfixError):
    """The version to activate cannot answer."""


class LiveLocalizer:
    """Holds the live localizer. Swaps weights and index together when CURRENT changes.

    reopen: opens a localizer for an index of other weights. None: the first localizer stays.
    """

    def __init__(
        self,
        localizer: Localizer,
        reopen: Reopen | None = None,
        follow_every_s: float = FOLLOW_EVERY_S,
    ) -> None:
        self._reopen = reopen
        self._follow_every_s = follow_every_s
        self._answer_by(localizer)
        self._changing = threading.Lock()  # held while the version or the weights change
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    @property
    def index(self) -> LiveIndex:
        """The live index."""
        return self.localizer.live

    def start(self) -> None:
        """Begin to follow CURRENT."""
        self._thread.start()

    def stop(self) -> None:
        """Follow no longer."""
        self._stopping.set()

    def follow(self) -> None:
        """Look at CURRENT once; see `LiveIndex.follow`.

        An index of other weights goes live with its weights, warmed up, or not at all. Then the old
        pair stays, the log says why, and a later look tries again.
        """
        with self._changing:
            name = self.index.follow()
            if name is None:
                return
            try:
                fresh, index = self._open(name)
                fresh.live.swap(index)
                self._go_live(fresh, name)
            except Exception as error:  # any error: the old pair stays
                self.index.refuse(error)

    def activate(self, name: str) -> VersionReport:
        """Make a version live, with the weights that built it. Requests that begin when this has
        returned are answered from that version.

        Raises:
            VersionNotFound, VersionRefused, EncoderMismatch, EngineUnavailable, IndexUnwritable:
                the old pair stays.
        """
        with self._changing:
            try:
                fresh, index = self._open(name)
                report = fresh.live.activate(index)
            except VersionUnknown as error:
                raise VersionNotFound(str(error), public=error.public) from error
            except (VersionCorrupt, WeightsMissing) as error:
                raise VersionRefused(str(error), public=error.public) from error
            if fresh is not self.localizer:
                self._go_live(fresh, name)
        return report

    def trouble(self) -> str | None:
        """Why the version that CURRENT names does not answer; None when it does."""
        return self.index.trouble()

    def weights_trouble(self) -> str | None:
        """Why the next start would not have the weights that answer; None when it would."""
        return self._file.trouble() if self._file else None

    def _answer_by(self, localizer: Localizer) -> None:
        path = localizer.weights
        self.localizer = localizer
        self._file = WeightsFile(path, localizer.encoder.fingerprint) if path else None

    def _go_live(self, fresh: Localizer, name: str) -> None:
        self._answer_by(fresh)
        fingerprint = fresh.encoder.fingerprint
        logger.info("weights %s and index version %s are live", fingerprint[:12], name)

    def _open(self, name: str) -> tuple[Localizer, TileIndex]:
        """A version and a localizer of its weights: the live localizer where it has them."""
        built_by = self.index.versions.manifest(name).encoder
        live = self.localizer.encoder.fingerprint
        if built_by == live:
            return self.localizer, self.index.open(name)
        if self._reopen is None:
            raise WeightsMissing(
                f"the index was built by encoder {built_by[:12]}; this is {live[:12]} and cannot "
                "change"
            )
        fresh = self._reopen(built_by)
        index = fresh.live.open(name)
        _warm_up(fresh, index)
        return fresh, index

    def _run(self) -> None:
        while not self._stopping.wait(self._follow_every_s):
            try:
                self.follow()
            except Exception:  # any error: the old pair still answers
                logger.exception("following CURRENT failed")


def _warm_up(localizer: Localizer, index: TileIndex) -> None:
    """The first request should not wait for this, and a pair that fails must not go live."""
    query = localizer.prepare(canary_panorama(), Hints(heading_deg=0.0))
    localizer.candidates(index, query, [None])


def answer(prepared: Sequence[Prepared]) -> list[Fix | Frame]:
    """Answer a batch, each query by the localizer that prepared it; see `Localizer.answer`."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, (localizer, _, index) in enumerate(prepared):
        groups.setdefault((id(localizer), id(index)), []).append(number)
    answers: dict[int, Fix | Frame] = {}
    for numbers in groups.values():
        localizer, _, index = prepared[numbers[0]]
        queries = [prepared[number].query for number in numbers]
        found: Sequence[Fix | Frame] = (
            localizer.answer(queries) if index is None else localizer.frames(index, queries)
        )
        answers.update(zip(numbers, found, strict=True))
    return [answers[number] for number in range(len(prepared))]
