"""Who may come in: bounds on the panoramas and the upload bytes held at once, and on the wait.

Used from the event loop only, so its counters need no lock. Knows nothing of HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from model.errors import SkyfixError

LEAST = 2.0  # with fewer the model would be idle while the next is decoded
AT_FIRST = 1.6  # in work for each lone request's latency that they may take: two CPU cores' worth
GAIN = 0.02


class OverloadedError(SkyfixError):
    """More work is in hand than the limits allow."""


class Pace:
    """How many panoramas may be in work at once before they keep each other waiting too long.

    n in work at a rate r take n / r each (Little's law), so there is a limit that holds the mean
    latency at `max_stretch` times a lone request's. It is found from latencies alone, whatever the
    machine: each answer under load lowers it by up to 2 % while their running mean is above that,
    and raises it by up to 2 % while below. One that misses its deadline lowers it by 2 %.

    Attributes:
        limit: as of now, from LEAST to `most`.
    """

    def __init__(self, most: int, max_stretch: float) -> None:
        self._most, self._max_stretch = float(most), max_stretch
        self._alone_s: dict[Hashable, float] = {}  # by kind of request
        self._stretch = 1.0  # running mean of latency over that of a lone request
        self.limit = min(max(AT_FIRST * max_stretch, LEAST), self._most)

    def learn(self, kind: Hashable, seconds: float, *, alone: bool, pressed: bool) -> None:
        """An answer came after `seconds`.

        Args:
            kind: requests of one kind take about the same time when alone.
            alone: nothing else was in work meanwhile.
            pressed: there was at least half as much in work as the limit allows.
        """
        known = self._alone_s.get(kind, seconds)
        if alone or self.limit <= LEAST:  # at the least, too: what is known may be outdated
            known += 0.1 * (seconds - known)
        else:
            known = min(known, seconds)
        self._alone_s[kind] = known
        if pressed:
            self._stretch += 0.05 * (min(seconds / max(known, 1e-6), 10.0) - self._stretch)
            miss = min(max(self._max_stretch - self._stretch, -1.0), 1.0)
            self.limit = min(max(self.limit * (1.0 + GAIN * miss), LEAST), self._most)

    def miss(self) -> None:
        """No answer came in time: how late it would have been is unknown, but late."""
        self.limit = max(self.limit * (1.0 - GAIN), min(LEAST, self._most))


class Admission:
    """Counts what has been let in and not yet answered.

    Uploads that are still arriving count against `max_panoramas` and `max_bytes` only: slow clients
    do not take the places of work.

    Attributes:
        panoramas, bytes: in flight now. working: of these panoramas, uploaded and being located.
    """

    def __init__(
        self,
        max_panoramas: int,
        max_bytes: int,
        max_stretch: float = 2.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_panoramas, self._max_bytes = max_panoramas, max_bytes
        self._pace = Pace(max_panoramas, max_stretch)
        self._clock = clock
        self._starts = 0
        self.panoramas = 0
        self.bytes = 0
        self.working = 0

    @property
    def limit(self) -> int:
        """How many panoramas may be in work now; see Pace."""
        return int(self._pace.limit)

    @contextmanager
    def admitted(self) -> Iterator[Place]:
        """Holds a place for one panorama, from the first byte of its upload to its answer.

        Raises:
            OverloadedError: all places are taken, or too much is in work already.
        """
        self._check_work()  # before the upload is read: refusing must cost little
        place = Place(self)
        place.take(panoramas=1)
        try:
            yield place
        finally:
            place.leave()

    def _check_work(self) -> None:
        if self.working >= self.limit:
            raise OverloadedError(
                f"{self.working} panoramas are being located, and with more than {self.limit} "
                "each would wait too long: try again later"
            )

    def _take(self, panoramas: int, size: int) -> None:
        if self.panoramas + panoramas > self._max_panoramas:
            raise OverloadedError(
                f"{self.panoramas} panoramas are in flight and {panoramas} more would exceed the "
                f"limit of {self._max_panoramas}: try again later"
            )
        if self.bytes + size > self._max_bytes:
            raise OverloadedError(
                f"uploads in flight hold {self.bytes} bytes and {size} more would exceed the limit "
                f"of {self._max_bytes}: try again later"
            )
        self.panoramas += panoramas
        self.bytes += size


class Place:
    """What one request holds of the bounds; it may grow as its upload arrives."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._panoramas = 0
        self._bytes = 0
        self._working = 0

    def take(self, *, panoramas: int = 0, size: int = 0) -> None:
        """Raises OverloadedError, holding what was held before."""
        self._admission._take(panoramas, size)
        self._panoramas += panoramas
        self._bytes += size

    def start(self) -> None:
        """The upload is here and its work begins: all its panoramas at once, however many.

        Raises:
            OverloadedError: too much is in work already.
        """
        admission = self._admission
        admission._check_work()
        self._working = self._panoramas
        admission.working += self._working
        admission._starts += 1
        self._started_at, self._start = admission._clock(), admission._starts
        self._others = admission.working - self._working

    def answered(self, kind: Hashable) -> None:
        """Its one panorama has been located; see `Pace.learn`."""
        admission = self._admission
        admission._pace.learn(
            kind,
            admission._clock() - self._started_at,
            alone=self._others == 0 and admission._starts == self._start,
            pressed=2 * (self._others + 1) >= admission.limit,
        )

    def missed(self) -> None:
        """Its panorama was not located before the deadline; see `Pace.miss`."""
        self._admission._pace.miss()

    def leave(self) -> None:
        """Gives everything back."""
        self._admission.panoramas -= self._panoramas
        self._admission.bytes -= self._bytes
        self._admission.working -= self._working
        self._panoramas = self._bytes = self._working = 0
