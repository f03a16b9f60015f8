"""Who may come in: bounds on uploads arriving, panoramas in work, bytes held, and on the wait.

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

    Uploads that are still arriving count against `max_arriving` and `max_bytes` only: slow clients
    do not take the places of work.

    Attributes:
        arriving: uploads being received now. working: panoramas uploaded and being located.
        bytes: of all these uploads.
    """

    def __init__(
        self,
        max_panoramas: int,
        max_bytes: int,
        max_arriving: int,
        max_stretch: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_panoramas, self._max_bytes = max_panoramas, max_bytes
        self._max_arriving = max_arriving
        self._pace = Pace(max_panoramas, max_stretch)
        self._clock = clock
        self._starts = 0
        self.arriving = 0
        self.working = 0
        self.bytes = 0

    @property
    def panoramas(self) -> int:
        """Let in and not yet answered; an upload that is still arriving counts as one."""
        return self.arriving + self.working

    @property
    def limit(self) -> int:
        """How many panoramas may be in work now; see Pace."""
        return int(self._pace.limit)

    @contextmanager
    def admitted(self) -> Iterator[Place]:
        """Holds a place for one upload, from its first byte to its answer.

        Raises:
            OverloadedError: too many are arriving, or too much is in work already.
        """
        self.check()
        if self.arriving >= self._max_arriving:
            raise OverloadedError(f"{self.arriving} uploads are arriving: try again later")
        place = Place(self)
        try:
            yield place
        finally:
            place.leave()

    def check(self) -> None:
        """Whether an upload may begin. Raises OverloadedError: too much is in work already."""
        self._check_work(1)

    def _check_work(self, panoramas: int) -> None:
        if self.working >= self.limit:
            raise OverloadedError(
                f"{self.working} panoramas are being located, and with more than {self.limit} "
                "each would wait too long: try again later"
            )

        if self.working + panoramas > self._max_panoramas:
            raise OverloadedError(
                f"{self.working} panoramas are being located and {panoramas} more would exceed the "
                f"limit of {self._max_panoramas}: try again later"
            )

    def _take(self, size: int) -> None:
        if self.bytes + size > self._max_bytes:
            raise OverloadedError(
                f"uploads in flight hold {self.bytes} bytes and {size} more would exceed the limit "
                f"of {self._max_bytes}: try again later"
            )
        self.bytes += size


class Place:
    """What one request holds of the bounds; it may grow as its upload arrives."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._arriving = 1
        self._bytes = 0
        self._working = 0
        admission.arriving += 1

    def take(self, size: int) -> None:
        """So many bytes more. Raises OverloadedError, holding what was held before."""
        self._admission._take(size)
        self._bytes += size

    def start(self, panoramas: int = 1) -> None:
        """The upload is here and its work begins: all its panoramas at once.

        Raises:
            OverloadedError: too much is in work already.
        """
        admission = self._admission
        admission._check_work(panoramas)
        admission.arriving -= self._arriving
        self._arriving, self._working = 0, panoramas
        admission.working += panoramas
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
        self._admission.arriving -= self._arriving
        self._admission.bytes -= self._bytes
        self._admission.working -= self._working
        self._arriving = self._bytes = self._working = 0
