"""A copy of remote imagery that may begin: the same for map tiles and for rasters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Progress = Callable[[int, int], None]  # done, expected


class ImageryCopy(NamedTuple):
    """What a copy costs and says, and how to make it.

    requests: how many a whole copy needs; an estimate for rasters.
    identity: a text that changes with the imagery that is wanted.
    summary: in words, for the user.
    stated: what metadata.json says of the imagery.
    write: writes whatever the folder lacks. Raises RemoteError where a request failed, NoImagery
        where all imagery is blank, OSError where the disk is full or refuses.
    """

    requests: int
    identity: str
    summary: str
    stated: Mapping[str, Any]
    write: Callable[[Path, Progress], None]
