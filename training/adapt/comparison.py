"""Two checkpoints on the same held-out photographs, in metres, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder
from training.data.pairs import Pair
from training.evaluate.gallery import overlapping_tiles
from training.evaluate.recall import nearest
from training.evaluate.street_views import Condition, encode_streets

RADIUS_M = 25.0
STRIDE_M = 16.0  # of the tiles that `skyfix ingest` cuts
RESAMPLES = 2000

Metres = NDArray[np.float64]


def errors_m(encoder: Encoder, pairs: Sequence[Pair], condition: Condition) -> Metres:
    """From each photograph to the tile nearest to it by descriptor, among the region's tiles, (N,).

    A tile every STRIDE_M covers the pairs' raster.
    """
    gallery = overlapping_tiles(encoder, pairs, STRIDE_M)
    assert gallery.tiles_at is not None and gallery.streets_at is not None  # noqa: PT018
    tiles = [
        nearest(streets.descriptors[condition], gallery.descriptors)
        for streets in encode_streets(encoder, pairs, {condition}, 0)
    ]
    found = gallery.tiles_at[np.concatenate(tiles)]
    distances: Metres = np.linalg.norm(found - gallery.streets_at, axis=1)
    return distances


class Interval(NamedTuple):
    """The middle 95 % of a bootstrap's results."""

    low: float
    high: float


class Comparison(NamedTuple):
    """Errors in metres of the same photographs, (N,), before and after."""

    before: Metres
    after: Metres

    @property
    def is_worse(self) -> bool:
        """Fewer photographs within RADIUS_M, or as many with a larger median."""
        return _worth(self.after) < _worth(self.before)

    def gain(self, seed: int) -> tuple[float, Interval]:
        """The difference of the shares within RADIUS_M, and its interval over photographs.

        Each resample draws photographs, with both of their errors.
        """
        each = (self.after <= RADIUS_M).astype(float) - (self.before <= RADIUS_M)
        rows = np.random.default_rng(seed).integers(0, len(each), (RESAMPLES, len(each)))
        low, high = np.quantile(each[rows].mean(1), (0.025, 0.975))
        return float(each.mean()), Interval(float(low), float(high))

    def as_dict(self, seed: int) -> dict[str, Any]:
        """Plain values of the report."""
        gain, interval = self.gain(seed)
        return {
            "photographs": len(self.before),
            "before": _figures(self.before),
            "after": _figures(self.after),
            "gain_within_25m": gain,
            "interval_95": list(interval),
        }

    def lines(self, seed: int) -> list[str]:
        """A small table for people."""
        gain, (low, high) = self.gain(seed)
        return [
            f"{len(self.before)} held-out photographs   within 25 m   median error",
            *(
                f"{name:22}   {100 * within(errors):9.1f} %   {np.median(errors):10.1f} m"
                for name, errors in (("before", self.before), ("after", self.after))
            ),
            f"{'difference':22}   {100 * gain:+9.1f} points; "
            f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}",
        ]


def within(errors: Metres) -> float:
    """The share within RADIUS_M."""
    return float((errors <= RADIUS_M).mean())


def _worth(errors: Metres) -> tuple[float, float]:
    return within(errors), -float(np.median(errors))


def _figures(errors: Metres) -> dict[str, float]:
    return {"within_25m": within(errors), "median_m": float(np.median(errors))}
