"""Work on parts of a batch, side by side, each on a core of its own. Knows nothing of networks.

The threads of one operation wait for each other busily: where decoding wants the same cores, half
of a processor's time went into that (docs/decisions.md). Threads that work alone do not wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

import torch

LEAST = 2  # items that are worth a lane: a pass costs the same for one as for two, nearly
TEAM = 8  # threads that may serve one operation


class Lanes:
    """So many threads; the first work starts them.

    Attributes:
        at_once: how many threads may `run` work at the same time: with two, a lane that is done
            goes on with the other's instead of waiting for the slowest of its own.
    """

    # Of all lanes there are, as torch's number is of the process.
    _lock = threading.Lock()
    _running = 0
    _threads = 0  # torch's number while nothing runs

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.at_once = 1 if cores == 1 else 2
        self._lanes = ThreadPoolExecutor(cores, "lane")
        # A team of threads belongs to the thread that it once worked for: hence always the same.
        self._lone = ThreadPoolExecutor(1, "lane")
        self._team = min(max(1, cores // 2), TEAM)  # the other cores decode

    @classmethod
    def of(cls, device: torch.device) -> Lanes:
        """One for each core that torch was given; one for a device that is no CPU."""
        return cls(_cores() if device.type == "cpu" else 1)

    def run(self, work: Callable[[slice], None], count: int, most: int) -> None:
        """`work` on 0 … `count` - 1 in slices of at most `most`; returns when all of it is done.

        Which slices there are depends on `count` and the number of cores alone. The first error of
        a lane is raised here, once no lane works any more.
        """
        if self.cores == 1:
            for part in _parts(count, most):
                work(part)
            return
        lanes = max(1, min(self.cores, count // LEAST))
        pool, threads = (self._lone, self._team) if lanes == 1 else (self._lanes, 1)

        def alone(part: slice) -> None:
            torch.set_num_threads(threads)
            work(part)

        parts = _parts(count, max(1, min(most, -(-count // lanes))))
        with self._torch_as_it_was():
            working = [pool.submit(alone, part) for part in parts]
            wait(working)
        for one in working:
            one.result()

    @staticmethod
    @contextmanager
    def _torch_as_it_was() -> Iterator[None]:
        """Until the last work ends: a lane's number is also that of threads yet to begin."""
        with Lanes._lock:
            if Lanes._running == 0:
                Lanes._threads = torch.get_num_threads()
            Lanes._running += 1
        try:
            yield
        finally:
            with Lanes._lock:
                Lanes._running -= 1
                if Lanes._running == 0:
                    torch.set_num_threads(Lanes._threads)


@cache
def _cores() -> int:
    """Asked once, before a lane can have changed the answer."""
    return torch.get_num_threads()


def _parts(count: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, count)) for start in range(0, count, most)]
