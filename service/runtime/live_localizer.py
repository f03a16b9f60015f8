"""The localizer that answers now, replaced whole when CURRENT names an index of other weights.

An index version and the weights that made it belong together: a request is prepared and answered
by one localizer, and those that run when another takes over finish on the old one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request

from model.errors import SkyfixError, public_reason
from service.index.manifest import VersionCorrupt
from service.index.refusal import RETRY_EVERY_S, Refusal
from service.index.versions import IndexUnreadable, VersionReport, VersionUnknown
from service.locate.fix import Fix
from service.locate.hints import Hints
from service.locate.localizer import LiveTiles, Localizer, Query
from service.runtime.canary import canary_panorama
from service.runtime.weights import WeightsFile

if TYPE_CHECKING:
    from service.index.search import TileIndex

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0

Reopen = Callable[[str], Localizer]  # an encoder's fingerprint to a localizer with it
Prepared = tuple[Localizer, Query]


class WeightsMissing(SkyfixError):
    """No weights at hand made this index."""


class VersionNotFound(SkyfixError):
    """The version to activate does not exist."""


class VersionRefused(SkyfixError):
    """The version to activate cannot be served."""


class Serving:
    """Holds the live localizer, and has it follow CURRENT also where nobody asks it anything.

    `reopen` None: the first one stays for good.
    """

    def __init__(
        self,
        localizer: Localizer,
        reopen: Reopen | None = None,
        look_every_s: float = LOOK_EVERY_S,
        retry_every_s: float = RETRY_EVERY_S,
    ) -> None:
        self._reopen = reopen
        self._retry_every_s = retry_every_s
        self._answer_by(localizer)
        self._look_every_s = look_every_s
        self._seen: str | None = None  # CURRENT when last looked at
        self._refusal = Refusal(retry_every_s)  # of what it names
        self._changing = threading.Lock()  # the weights, or what CURRENT names
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="follow", daemon=True)

    def start(self) -> None:
        """Begin to follow CURRENT."""
        self._thread.start()

    def stop(self) -> None:
        """Follow no longer."""
        self._stopping.set()

    def activate(self, name: str) -> VersionReport:
        """Make a version the live one, with the weights that made it: every request that begins
        when this has returned is answered from it.

        Raises:
            VersionNotFound, VersionRefused; EngineUnavailable and IndexUnwritable as
                `LiveIndex.activate`. The live version stays.
        """
        try:
            return self._activate(name)
        except VersionUnknown as error:
            raise VersionNotFound(str(error), public=error.public) from error
        except (VersionCorrupt, WeightsMissing) as error:
            raise VersionRefused(str(error), public=error.public) from error

    def _activate(self, name: str) -> VersionReport:
        with self._changing:
            fresh = self._opened(self.localizer.live.versions.manifest(name).encoder)
            if fresh is self.localizer:
                report = fresh.live.activate(name)
            else:
                report = fresh.live.activate(name, lambda index: _warm_up(fresh, index))
                self._go_live(fresh, name)
            self._seen = name
            self._refusal.clear()
        return report

    def trouble(self) -> str | None:
        """Why what CURRENT names is not what answers; None when it is."""
        return self._refusal.why or self.localizer.live.trouble()

    def weights_trouble(self) -> str | None:
        """Why the next start would not have the weights that answer; None when it would."""
        return self._file.trouble() if self._file else None

    def follow(self) -> None:
        """Look once. Another encoder's index goes live with its weights, warmed up, or not at all:
        the log then says why, the old pair stays, and a later look tries again. An index of the
        same weights goes live as `LiveIndex.refresh` says. See `WeightsFile.look` for theirs."""
        with self._changing:
            self._follow_weights()
        if self._refusal.why is None:
            self.localizer.live.refresh()
        if self._file is not None:
            self._file.look()

    def _answer_by(self, localizer: Localizer) -> None:
        made_by, path = localizer.encoder.fingerprint, localizer.weights
        self.localizer = localizer
        self._file = WeightsFile(path, made_by, self._retry_every_s) if path else None

    def _go_live(self, fresh: Localizer, name: str) -> None:
        self._answer_by(fresh)
        made_by = fresh.encoder.fingerprint
        logger.info("weights %s and index version %s are live", made_by[:12], name)

    def _follow_weights(self) -> None:
        try:
            name = self.localizer.live.versions.current()
        except IndexUnreadable:
            return  # the live index tells it
        if name == self._seen and not self._refusal.is_due():
            return
        self._seen = name
        if not name:  # the live index tells it
            self._refusal.clear()
        else:
            self._try(name)

    def _opened(self, made_by: str) -> Localizer:
        """A localizer with this encoder: the live one, where it is its own."""
        own = self.localizer.encoder.fingerprint
        if made_by == own:
            return self.localizer
        if self._reopen is None:
            raise WeightsMissing(
                f"the index was built by encoder {made_by[:12]}; this is {own[:12]} and cannot "
                "change"
            )
        return self._reopen(made_by)

    def _try(self, name: str) -> None:
        versions = self.localizer.live.versions
        try:
            fresh = self._opened(versions.manifest(name).encoder)
            if fresh is not self.localizer:
                _warm_up(fresh, fresh.live.take(name))
                self._go_live(fresh, name)
            self._refusal.clear()  # only now: what is tried again is no less in trouble meanwhile
        except Exception as error:  # whatever it is, the old pair stays
            self._refusal.refuse(f"index version {name} is not used: {public_reason(error)}")
            unexpected = not isinstance(error, SkyfixError)
            logger.error("index version %s is not used: %s", name, error, exc_info=unexpected)

    def _watch(self) -> None:
        while not self._stopping.wait(self._look_every_s):
            try:
                self.follow()
            except Exception:  # whatever goes wrong here, the old pair still answers
                logger.exception("looking for another index version failed")


def _warm_up(localizer: Localizer, index: TileIndex) -> None:
    """The first request should not pay for it, and what cannot answer must not go live."""
    localizer.candidates(
        index, localizer.prepare(canary_panorama(), Hints(heading_deg=0.0)), [None]
    )


def live_of(request: Request) -> LiveTiles:
    """The live index as of now."""
    serving: Serving = request.app.state.serving
    return serving.localizer.live


def answer(prepared: Sequence[Prepared]) -> list[Fix]:
    """Answer a batch, each query by the localizer that prepared it; see `Localizer.answer`."""
    fixes: dict[int, Fix] = {}
    for localizer in {id(localizer): localizer for localizer, _ in prepared}.values():
        own = [number for number, (other, _) in enumerate(prepared) if other is localizer]
        found = localizer.answer([prepared[number][1] for number in own])
        fixes.update(zip(own, found, strict=True))
    return [fixes[number] for number in range(len(prepared))]
