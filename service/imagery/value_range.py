"""The range of values shown as 0 to 255, of rasters that hold no bytes.

Found anew at every opening, the range would move with a handful of edited pixels, and every picture
of the source with it. So it is kept in the source's signature, and found again only where the
imagery looks different altogether.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.imagery.source import SourceError

PERCENTILES = (2.0, 98.0)
# Of the range: how far its ends may move before it is given up. An edit of 1 % moves an end by up
# to a seventh of the range, where values are spread like a bell; a quarter costs little contrast.
MAX_DRIFT = 0.25


class Stretch(NamedTuple):
    """The values shown as 0 and as 255."""

    low: float
    high: float

    @classmethod
    def over(cls, path: Path, samples: Iterable[NDArray[np.generic]]) -> Stretch:
        """The range that most samples of the imagery at `path` lie in.

        Raises:
            SourceError: there is no sample.
        """
        found = np.concatenate(list(samples))
        if found.size == 0:
            raise SourceError(f"{path}: no valid value was found where samples were taken")
        # Nearest, since the difference of two int16 is not always one.
        low, high = (float(v) for v in np.percentile(found, PERCENTILES, method="nearest"))
        return cls(low, max(high, low + 1e-6))

    def near(self, other: Stretch) -> bool:
        """Whether the other shows the same imagery about as well."""
        drift = max(abs(self.low - other.low), abs(self.high - other.high))
        return drift <= MAX_DRIFT * (self.high - self.low)
