"""How far a job is, on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 10.0

Report = Callable[[int, int], None]  # done, expected in all


@contextmanager
def progress_bar(what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """Yields the function to call with how much is done and how much is expected in all."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(what, clock)
        try:
            yield lines.report
        finally:
            lines.tell()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, expected: bar.update(task, completed=done, total=expected)


class _Lines:
    """`done/expected, rate, time left` every LINE_EVERY_S, and at the end.

    Rates count from the first report on: what a resumed build found done has taken no time.
    """

    def __init__(self, what: str, clock: Callable[[], float]) -> None:
        self._what, self._clock = what, clock
        self._first: tuple[float, int] | None = None  # when, and how much was done
        self._untold = ""

    def report(self, done: int, expected: int) -> None:
        """Tells it where the last line is long enough ago."""
        now = self._clock()
        if self._first is None:
            self._first, self._told_at = (now, done), now
        since, before = self._first
        rate = (done - before) / max(now - since, 1e-9)
        self._untold = f"{self._what}: {done}/{expected}"
        if rate > 0.0:
            left = timedelta(seconds=round((expected - done) / rate))
            self._untold += f", {rate:.1f}/s, {left} left"
        if now - self._told_at >= LINE_EVERY_S:
            self._told_at = now
            self.tell()

    def tell(self) -> None:
        """Writes what was reported last, unless it has been told."""
        if self._untold:
            print(self._untold, file=sys.stderr, flush=True)
            self._untold = ""
