"""Work on parts of a batch, side by side, each on a core of its own. Knows nothing of networks.

The threads of one operation wait for each other busily: where decoding wants the same cores, half
of a processor's time went into that (docs/decisions.md). Threads that work alone do not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

LEAST = 2  # items that are worth a lane: a pass costs the same for one as for two, nearly


class Lanes:
    """So many threads; the first work starts them."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._pool = ThreadPoolExecutor(cores, "lane")

    @classmethod
    def of(cls, device: torch.device) -> Lanes:
        """One for each core that torch was given; one for a device that is no CPU."""
        # To ask settles it for this thread: what a lane sets for itself is then the lane's alone.
        return cls(torch.get_num_threads() if device.type == "cpu" else 1)

    def run(self, work: Callable[[slice], None], count: int, most: int) -> None:
        """`work` on 0 … `count` - 1 in slices of at most `most`; returns when all of it is done.

        Which slices there are depends on `count` and the number of cores alone. What a lane raises
        is raised here.
        """
        if self._cores == 1:
            for part in _parts(count, most):
                work(part)
            return
        lanes = max(1, min(self._cores, count // LEAST))
        # Few items leave cores free. Half of those serve one operation together, half the decoders.
        threads = max(1, self._cores // (2 * lanes))

        def alone(part: slice) -> None:
            torch.set_num_threads(threads)
            work(part)

        list(self._pool.map(alone, _parts(count, max(1, min(most, -(-count // lanes))))))


def _parts(count: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, count)) for start in range(0, count, most)]
