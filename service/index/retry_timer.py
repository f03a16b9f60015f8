"""Refusal: why an index version or a weights file is not used, and when it is tried again."""

from __future__ import annotations

import math
import time

RETRY_EVERY_S = 60.0  # an operator may have copied the missing file meanwhile


class Refusal:
    """The reason of a refusal, and the time of the next try. At first nothing is refused."""

    def __init__(self, retry_every_s: float = RETRY_EVERY_S) -> None:
        self.why: str | None = None
        self._retry_every_s, self._retry_at = retry_every_s, math.inf

    def refuse(self, why: str) -> None:
        """Not used; try again in `retry_every_s`."""
        self.why, self._retry_at = why, time.monotonic() + self._retry_every_s

    def clear(self) -> None:
        """The version or file is used again, or no longer wanted."""
        self.why, self._retry_at = None, math.inf

    def is_due(self) -> bool:
        """Whether to try again now."""
        return time.monotonic() >= self._retry_at
