"""Parts of a batch worked on side by side, each part on a core of its own.

The threads of one torch operation wait for each other busily. Where decoding wants the same
cores, half of a processor's time went into that (docs/decisions.md). Threads that work alone do
not wait. Knows nothing of networks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

import torch

MIN_ITEMS = 2  # worth a thread: a pass over one item costs nearly as much as over two
MAX_TEAM = 8  # threads that may serve one operation


class CorePool:
    """One thread for each of `cores`; the threads start with the first work.

    Attributes:
        at_once: how many threads may call `run` at the same time. With two, a core that is done
            goes on with the other caller's work instead of waiting for the slowest core.
    """

    # Shared by all pools: torch.set_num_threads also decides for threads that begin later.
    _lock = threading.Lock()
    _running = 0
    _torch_threads = 0  # torch's number while no pool runs

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.at_once = 1 if cores == 1 else 2
        self._threads = ThreadPoolExecutor(cores, "core")
        # Torch's team of threads belongs to the thread that started it: hence always the same.
        self._leader = ThreadPoolExecutor(1, "core")
        self._team = min(max(1, cores // 2), MAX_TEAM)  # the other cores decode

    @classmethod
    def of(cls, device: torch.device) -> CorePool:
        """A pool of the cores that torch was given; one thread for a device that is no CPU."""
        return cls(_torch_cores() if device.type == "cpu" else 1)

    def run(self, work: Callable[[slice], None], count: int, most: int) -> None:
        """Call `work` on slices of 0 to `count` - 1, each of at most `most` items.

        Returns when all work is done. The slices depend on `count` and the number of cores alone.
        The first error of a slice is raised here, once no thread works any more.
        """
        if self.cores == 1:
            for part in _slices(count, most):
                work(part)
            return
        used = max(1, min(self.cores, count // MIN_ITEMS))
        pool, torch_threads = (self._leader, self._team) if used == 1 else (self._threads, 1)

        def work_alone(part: slice) -> None:
            torch.set_num_threads(torch_threads)
            work(part)

        parts = _slices(count, max(1, min(most, -(-count // used))))
        with self._torch_threads_restored():
            futures = [pool.submit(work_alone, part) for part in parts]
            wait(futures)
        for future in futures:
            future.result()

    @staticmethod
    @contextmanager
    def _torch_threads_restored() -> Iterator[None]:
        """Restores torch's number of threads when the last running work ends."""
        with CorePool._lock:
            if CorePool._running == 0:
                CorePool._torch_threads = torch.get_num_threads()
            CorePool._running += 1
        try:
            yield
        finally:
            with CorePool._lock:
                CorePool._running -= 1
                if CorePool._running == 0:
                    torch.set_num_threads(CorePool._torch_threads)


@cache
def _torch_cores() -> int:
    """Cached before a pool can have changed the answer."""
    return torch.get_num_threads()


def _slices(count: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, count)) for start in range(0, count, most)]
