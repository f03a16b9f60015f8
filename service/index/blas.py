"""How many threads a matrix product of numpy's may take.

OpenBLAS's threads look for work busily for a while after each product. A small product gains less
by them than the encoder then lacks of the cores: docs/decisions.md.
"""

from __future__ import annotations

import threading
from functools import cache

from threadpoolctl import LibController, ThreadpoolController

_ASKING = threading.Lock()  # how many there were can be asked only before one has been set


def one_thread_if(small: bool) -> None:
    """For the products from now on, in the whole process: one thread, or as many as there were."""
    with _ASKING:
        for library, most in _libraries():
            library.set_num_threads(1 if small else most)


@cache
def _libraries() -> list[tuple[LibController, int]]:
    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return [(library, library.get_num_threads()) for library in found]
