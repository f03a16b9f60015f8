"""The calibration that an index version stores: the numbers of `service.locate.confidence`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import SkyfixError
from model.geo import LatLon
from service.index.frozen_tiles import TileTable

SQRT_1_5 = 1.2247  # radius over spread for 78 % of a round Gaussian: until something is measured
SAMPLED_TILES = 64
MIN_DEPTH, MAX_DEPTH = 32, 256

Numbers = NDArray[np.float64]
Weights = tuple[float, float, float]


class CalibrationError(SkyfixError):
    """A stored calibration that cannot be read, or panoramas from which none can be made."""


@dataclass(frozen=True)
class Calibration:
    """Numbers of the formulas of `service.locate.confidence`. Stored in a version's manifest.

    The tiles give reach_m, half a tile; spacing_m, between neighbours' centres; and depth, how
    many candidates are read, enough for rivals to be among them.
    Panoramas with known positions give the others. `weights` is (a, b), and `source` names the
    panoramas. Without panoramas, weights is None and an answer states no confidence.
    """

    reach_m: float
    spacing_m: float
    depth: int
    temperature: float = 0.1  # the loss compares exp(-alpha d) with alpha = 10
    radius_scale: float = SQRT_1_5
    agreement_temperature: float = 0.1
    weights: tuple[Weights, Weights] | None = None
    source: str = "not calibrated"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Inverse of `as_dict`.

        Raises:
            CalibrationError: fields are missing, unknown or of the wrong kind.
        """
        try:
            weights = values["weights"]
            if weights is not None:
                inside, placed = weights
                weights = (_three(inside), _three(placed))
            # Older calibrations hold a distance that decided in_index; now the weights do.
            own = {name: value for name, value in values.items() if name != "in_index_distance"}
            return cls(**{**own, "weights": weights})
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"the stored calibration cannot be read: {error!r}") from error

    @classmethod
    def from_tiles(cls, tiles: TileTable) -> Calibration:
        """The default: the size and density of an index's own tiles, and no confidence."""
        rows = np.unique(np.linspace(0, len(tiles) - 1, SAMPLED_TILES).astype(int))
        size_m = float(np.median(tiles.records["size_m"][rows]))
        around = [_distances_m(tiles, int(row), size_m) for row in rows]
        nearest = [other[other > 0.01].min(initial=size_m) for other in around]
        depth = 2 * int(np.median([len(other) for other in around]))
        return cls(
            reach_m=size_m / 2.0,
            spacing_m=float(np.median(nearest)),
            depth=int(np.clip(depth, MIN_DEPTH, MAX_DEPTH)),
        )

    def measured_on(self, tiles: Calibration) -> Calibration:
        """These panoramas' numbers with the tiles' numbers of another index."""
        own = {"reach_m": tiles.reach_m, "spacing_m": tiles.spacing_m, "depth": tiles.depth}
        return dataclasses.replace(self, **own)  # type: ignore[arg-type]


def _distances_m(tiles: TileTable, row: int, size_m: float) -> Numbers:
    """Metres to the tiles around a tile, itself included."""
    centre = LatLon(*tiles[row][1:3])
    return tiles.distance_m(np.flatnonzero(tiles.within(centre, size_m)), centre)


def _three(numbers: Sequence[float]) -> Weights:
    first, second, third = map(float, numbers)
    return first, second, third
