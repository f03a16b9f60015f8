"""Progress of a job on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.text import Text

LINE_EVERY_S = 10.0

Report = Callable[[int, int], None]  # done, expected in all


@contextmanager
def progress_bar(title: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """Yields a function to call with the number done and the number expected."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(title, clock)
        try:
            yield lines.report
        finally:
            lines.print()
        return
    columns = *Progress.get_default_columns(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, expected: bar.update(task, completed=done, total=expected)


class _Rate(ProgressColumn):
    """Steps a second, of late."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


class _Lines:
    """`done/expected, rate, time left` every LINE_EVERY_S, and at the end.

    Rates count from the first report, because a resumed build starts with some tiles done.
    """

    def __init__(self, title: str, clock: Callable[[], float]) -> None:
        self._title, self._clock = title, clock
        self._first: tuple[float, int] | None = None  # time, and number done
        self._line = ""  # not yet printed

    def report(self, done: int, expected: int) -> None:
        """Prints a line if the last is LINE_EVERY_S old."""
        now = self._clock()
        if self._first is None:
            self._first, self._printed_at = (now, done), now
        since, before = self._first
        rate = (done - before) / max(now - since, 1e-9)
        self._line = f"{self._title}: {done}/{expected}"
        if rate > 0.0:
            left = timedelta(seconds=round((expected - done) / rate))
            self._line += f", {rate:.1f}/s, {left} left"
        if now - self._printed_at >= LINE_EVERY_S:
            self._printed_at = now
            self.print()

    def print(self) -> None:
        """Prints the last report, unless it has been printed."""
        if self._line:
            print(self._line, file=sys.stderr, flush=True)
            self._line = ""
