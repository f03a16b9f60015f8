"""Admission: bounds on uploads that arrive, on panoramas in work, on bytes held and on the wait.

Only the event loop uses this module, so its counters need no lock. Knows nothing of HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from model.errors import SkyfixError

LEAST = 2.0  # fewer would leave the model idle while the next panorama is decoded
AT_FIRST = 1.6  # the first limit over `max_stretch`: right for two CPU cores
GAIN = 0.02


class OverloadedError(SkyfixError):
    """More work is in hand than the limits allow."""


class WorkLimit:
    """How many panoramas may be in work at once before they delay each other too much.

    n panoramas in work at a rate r take n / r each (Little's law). So some limit keeps the mean
    latency at `max_stretch` times a lone request's. Latencies alone find that limit: each answer
    under load lowers it by up to 2 % while their running mean is above the target, and raises it by
    up to 2 % while the mean is below. A missed deadline lowers the limit by 2 %.

    Attributes:
        limit: the value now, from LEAST to `most`.
    """

    def __init__(self, most: int, max_stretch: float) -> None:
        self._most, self._max_stretch = float(most), max_stretch
        self._alone_s: dict[Hashable, float] = {}  # latency of a lone request, by kind
        self._stretch = 1.0  # running mean of latency over a lone request's latency
        self.limit = min(max(AT_FIRST * max_stretch, LEAST), self._most)

    def learn(self, kind: Hashable, seconds: float, *, alone: bool, pressed: bool) -> None:
        """Adapt to an answer that took `seconds`.

        Args:
            kind: requests of one kind take about the same time when alone.
            alone: nothing else was in work meanwhile.
            pressed: at least half as much was in work as the limit allows.
        """
        known = self._alone_s.get(kind, seconds)
        if alone or self.limit <= LEAST:  # at LEAST, too: the known latency may be outdated
            known += 0.1 * (seconds - known)
        else:
            known = min(known, seconds)
        self._alone_s[kind] = known
        if pressed:
            self._stretch += 0.05 * (min(seconds / max(known, 1e-6), 10.0) - self._stretch)
            error = min(max(self._max_stretch - self._stretch, -1.0), 1.0)
            self.limit = min(max(self.limit * (1.0 + GAIN * error), LEAST), self._most)

    def miss(self) -> None:
        """Adapt to a missed deadline, whose latency is unknown but too long."""
        self.limit = max(self.limit * (1.0 - GAIN), min(LEAST, self._most))


class Admission:
    """Counts what was admitted and is not yet answered.

    Uploads that still arrive count against `max_arriving` and `max_bytes` only, so slow clients
    do not hold up other requests.

    Attributes:
        arriving: uploads being received. working: panoramas being located. bytes: of all uploads.
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
        self._work_limit = WorkLimit(max_panoramas, max_stretch)
        self._clock = clock
        self._starts = 0
        self.arriving = 0
        self.working = 0
        self.bytes = 0

    @property
    def panoramas(self) -> int:
        """Admitted and not yet answered; an upload that still arrives counts as one panorama."""
        return self.arriving + self.working

    @property
    def limit(self) -> int:
        """How many panoramas may be in work now; see WorkLimit."""
        return int(self._work_limit.limit)

    @contextmanager
    def reserve(self) -> Iterator[Reservation]:
        """Room for one upload, from its first byte to its answer.

        Raises:
            OverloadedError: too many uploads arrive, or too much is in work.
        """
        self.check()
        if self.arriving >= self._max_arriving:
            raise OverloadedError(f"{self.arriving} uploads are arriving: try again later")
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            reservation.release()

    def check(self, panoramas: int = 1) -> None:
        """Whether so many panoramas may begin. Raises OverloadedError: too much is in work."""
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


class Reservation:
    """The room that an upload holds. It grows as the upload arrives."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0
        self._working = 0  # until `start` the upload is arriving
        admission.arriving += 1

    def grow(self, size: int) -> None:
        """Hold `size` bytes more. Raises OverloadedError, still holding the bytes before."""
        admission = self._admission
        if admission.bytes + size > admission._max_bytes:
            raise OverloadedError(
                f"uploads in flight hold {admission.bytes} bytes and {size} more would exceed the "
                f"limit of {admission._max_bytes}: try again later"
            )
        admission.bytes += size
        self._bytes += size

    def start(self, panoramas: int = 1) -> None:
        """The upload has arrived: begin work on all its panoramas at once.

        Raises:
            OverloadedError: too much is in work.
        """
        admission = self._admission
        admission.check(panoramas)
        self._others = admission.working
        self._working = panoramas
        admission.arriving -= 1
        admission.working += panoramas
        admission._starts += 1
        self._started_at, self._start = admission._clock(), admission._starts

    def answered(self, kind: Hashable) -> None:
        """The upload's one panorama has been located; see `WorkLimit.learn`."""
        admission = self._admission
        admission._work_limit.learn(
            kind,
            admission._clock() - self._started_at,
            alone=self._others == 0 and admission._starts == self._start,
            pressed=2 * (self._others + 1) >= admission.limit,
        )

    def missed(self) -> None:
        """The panorama was not located before the deadline; see `WorkLimit.miss`."""
        self._admission._work_limit.miss()

    def release(self) -> None:
        """Give the room back, once."""
        self._admission.bytes -= self._bytes
        if self._working:
            self._admission.working -= self._working
        else:
            self._admission.arriving -= 1
