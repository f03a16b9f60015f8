"""The range of values shown as 0 to 255, for rasters that do not hold bytes.

A range found anew at every opening would move with a handful of edited pixels, and with it every
image of the source. So the range is kept in the source's signature. It is found again only where
the imagery looks different altogether.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.imagery.source import SourceError

PERCENTILES = (2.0, 98.0)
# Share of the range by which its ends may move before the range is found again. An edit of 1 % of
# the pixels moves an end by up to a seventh, for values spread like a bell; a quarter costs little
# contrast.
MAX_DRIFT = 0.25


class ValueRange(NamedTuple):
    """The values shown as 0 and as 255."""

    low: float
    high: float

    @classmethod
    def of(cls, path: Path, samples: Iterable[NDArray[np.generic]]) -> ValueRange:
        """The range of most samples of the imagery at `path`.

        Raises:
            SourceError: there is no sample.
        """
        found = np.concatenate(list(samples))
        if found.size == 0:
            raise SourceError(f"{path}: no valid value was found where samples were taken")
        # The nearest sample: a mean of two int16 overflows.
        low, high = (float(v) for v in np.percentile(found, PERCENTILES, method="nearest"))
        return cls(low, max(high, low + 1e-6))

    def near(self, other: ValueRange) -> bool:
        """Whether this range shows the other's imagery about as well."""
        drift = max(abs(self.low - other.low), abs(self.high - other.high))
        return drift <= MAX_DRIFT * (self.high - self.low)
