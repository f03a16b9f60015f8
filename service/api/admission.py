"""Who may come in: bounds on the panoramas and the upload bytes held at once.

Used from the event loop only, so its counters need no lock. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from model.errors import SkyfixError


class OverloadedError(SkyfixError):
    """More work is in hand than the limits allow."""


class Admission:
    """Counts what has been let in and not yet answered.

    Attributes:
        panoramas, bytes: in flight now.
    """

    def __init__(self, max_panoramas: int, max_bytes: int) -> None:
        self._max_panoramas, self._max_bytes = max_panoramas, max_bytes
        self.panoramas = 0
        self.bytes = 0

    @contextmanager
    def admitted(self) -> Iterator[Place]:
        """Holds a place for one panorama, from the first byte of its upload to its answer.

        Raises:
            OverloadedError: all places are taken.
        """
        place = Place(self)
        place.take(panoramas=1)
        try:
            yield place
        finally:
            place.leave()

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

    def take(self, *, panoramas: int = 0, size: int = 0) -> None:
        """Raises OverloadedError, holding what was held before."""
        self._admission._take(panoramas, size)
        self._panoramas += panoramas
        self._bytes += size

    def leave(self) -> None:
        """Gives everything back."""
        self._admission.panoramas -= self._panoramas
        self._admission.bytes -= self._bytes
        self._panoramas = self._bytes = 0
