"""Freed memory that the process keeps, for work that makes and frees large arrays without end.

glibc maps every large block anew and unmaps the block when it is freed. The system then clears
each of its pages once more. Encoding images on a CPU spent half of its time there
(docs/decisions.md).
"""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

# mallopt(3), from malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
KEPT_BYTES = 1 << 30  # free at the heap's end before memory goes back to the system


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next arrays; returns whether that worked.

    Call it when a program starts: the whole process is changed, and its memory stays near its
    peak. Only glibc can do this; elsewhere nothing changes, and the log says so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl; TypeError: Windows
        log.info("this C library has no mallopt: freed memory goes back to the system")
        return False
    # One arena: arenas of other threads could not grow beyond 64 MiB.
    wanted = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(option, value) == 1 for option, value in wanted)
