"""Parts of a batch worked on side by side, each part on a core of its own.

The threads of one torch operation wait for each other busily. Where decoding wants the same
cores, half of a processor's time went into that (docs/decisions.md). Threads that work alone do
not wait. Knows nothing of networks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

MIN_ITEMS = 2  # worth a thread: a pass over one item costs nearly as much as over two
MAX_TEAM = 8  # threads that may serve one operation

_starting = threading.Lock()


class CorePool:
    """One thread for each of `cores`.

    Attributes:
        at_once: how many threads may call `run` at the same time. With two, a core that is done
            goes on with the other caller's work instead of waiting for the slowest core.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.at_once = 1 if cores == 1 else 2
        if cores > 1:
            self._threads = _start_threads(cores, torch_threads=1)
            team = min(cores // 2, MAX_TEAM)  # the other cores decode
            self._leader = _start_threads(1, torch_threads=team)

    def run(self, work: Callable[[slice], None], count: int, most: int) -> None:
        """Call `work` on slices of 0 to `count` - 1, each of at most `most` items.

        Returns when all work is done. The slices depend on `count` and the number of cores alone.
        The first error of a slice is raised here, once no thread works any more.
        """
        used = max(1, min(self.cores, count // MIN_ITEMS))
        size = max(1, min(most, -(-count // used)))
        parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        if self.cores == 1:
            for part in parts:
                work(part)
            return
        pool = self._leader if used == 1 else self._threads
        futures = [pool.submit(work, part) for part in parts]
        wait(futures)
        for future in futures:
            future.result()


def _start_threads(count: int, torch_threads: int) -> ThreadPoolExecutor:
    """Threads whose torch operations use `torch_threads` threads each.

    torch.set_num_threads decides for the calling thread and for threads that begin later. So all
    of these threads start here, and the number is restored.
    """
    started = threading.Barrier(count + 1)

    def start() -> None:
        torch.get_num_threads()  # else a thread's first operation takes the process's number
        torch.set_num_threads(torch_threads)
        started.wait()

    pool = ThreadPoolExecutor(count, "core", start)
    with _starting:
        before = torch.get_num_threads()
        for _ in range(count):
            pool.submit(int)  # starts a thread, because no thread is idle yet
        started.wait()
        torch.set_num_threads(before)
    return pool
