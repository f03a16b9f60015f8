"""Refusal: why an index version or a weights file is not used, and when it is tried again."""

from __future__ import annotations

import math
import time

RETRY_EVERY_S = 60.0  # what was refused may be put right: copied whole, its engine or weights back


class Refusal:
    """Nothing is refused at first."""

    def __init__(self, retry_every_s: float = RETRY_EVERY_S) -> None:
        self.why: str | None = None
        self._retry_every_s, self._retry_at = retry_every_s, math.inf

    def refuse(self, why: str) -> None:
        """Not used, until tried again in `retry_every_s`."""
        self.why, self._retry_at = why, time.monotonic() + self._retry_every_s

    def clear(self) -> None:
        """What was refused is used now, or is asked for no longer."""
        self.why, self._retry_at = None, math.inf

    def put_off(self) -> None:
        """Being tried again: not due before the next refusal, and no less in trouble meanwhile."""
        self._retry_at = math.inf

    def is_due(self) -> bool:
        """Whether to try again now."""
        return time.monotonic() >= self._retry_at
