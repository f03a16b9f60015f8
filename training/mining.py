"""Global mining strategy (GMS): hard aerial negatives of earlier batches serve later batches.

A queue entry is a detached descriptor with its tile. So neither a panorama's own tile nor an
overlapping tile ever serves as its negative.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.errors import SkyfixError


class QueueError(SkyfixError):
    """Arguments or a state that do not fit the queue; the queue is unchanged."""


def same_place(
    tile_ids: Tensor,
    positions: Tensor | None,
    other_ids: Tensor,
    other_positions: Tensor | None,
    min_distance_m: float = 0.0,
) -> Tensor:
    """Bool (N, M), **True = masked out**: the same tile, or nearer than a distance.

    tile_ids, other_ids: int64 (N,), (M,). positions: (N, 3), (M, 3) earth-centred metres
    (`geo.earth_centred`); None or NaN if unknown, and then only the ids mask. The losses'
    `pair_mask` is this mask of a batch with itself.
    """
    masked = tile_ids[:, None] == other_ids[None, :]
    if positions is None or other_positions is None:
        return masked
    apart = (positions[:, None].double() - other_positions[None].double()).square().sum(2)
    return masked | (apart < min_distance_m**2)  # NaN compares False


def hardest_rows(distance: Tensor, masked: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The aerials of a batch that make the worst triplets; see `HardNegativeQueue.push`.

    distance: (B, B), squared, from street i to aerial j; the diagonal holds the pairs' own.
    masked: bool (B, B), **True = masked out**.

    Returns: min(count, B) rows, int64, ascending; and bool, True for rows that are not finite or
    make no triplet.
    """
    violation = distance.diagonal()[:, None] - distance
    hardness = violation.masked_fill(masked, -torch.inf).amax(0)
    rows = hardness.argsort(descending=True, stable=True)[:count].sort().values
    return rows, ~(hardness[rows] > -torch.inf)  # NaN is not


class HardNegativeQueue:
    """First in, first out, at most `length` aerial descriptors: the hardest of each batch.

    A tile mined again is appended again, as in the paper; the mask covers both entries. Tensors
    are replaced, never written to, so the result of `negatives` stays valid through backward. The
    number of entries depends on no computed value, so the CPU need not wait for a GPU.
    """

    def __init__(self, length: int, dimension: int, device: torch.device | str = "cpu") -> None:
        if length < 1 or dimension < 1:
            raise QueueError(f"length {length} and dimension {dimension} must be at least 1")
        self.length = length
        self.dimension = dimension
        self._descriptors = torch.empty(0, dimension, device=device)
        self._tile_ids = torch.empty(0, dtype=torch.int64, device=device)
        self._positions = torch.empty(0, 3, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        return len(self._tile_ids)

    @torch.no_grad()
    def push(
        self,
        aerial: Tensor,
        tile_ids: Tensor,
        positions: Tensor | None = None,
        *,
        street: Tensor,
        hardest: int,
        min_distance_m: float = 0.0,
    ) -> None:
        """Append the `hardest` most difficult aerial negatives of a batch, in batch order.

        aerial, street: (B, D), row i of both is a pair; tile_ids: int64 (B,); positions: (B, 3)
        as in `same_place`. The difficulty of aerial j is its worst triplet of eq. 4: the largest
        d(i, i) - d(i, j), in squared L2, over the streets i that it is a negative of. Ties go to
        the lower row. An aerial that is no street's negative is stored as zeros, which `mask`
        always masks.

        Raises:
            QueueError: shapes that do not fit; on a CPU also rows that are not finite. On a GPU
                such rows are stored as zeros, and may turn other rows into zeros.
        """
        positions = self._check_batch(aerial, tile_ids, positions)
        if street.shape != aerial.shape:
            raise QueueError(f"street is {tuple(street.shape)}, aerial {tuple(aerial.shape)}")
        if hardest < 1:
            raise QueueError(f"hardest is {hardest}: at least 1 of each batch")
        aerial = aerial.detach().to(self._descriptors)
        distance = torch.cdist(
            street.detach().to(aerial), aerial, compute_mode="donot_use_mm_for_euclid_dist"
        ).square()
        if aerial.device.type == "cpu" and not bool(distance.isfinite().all()):
            raise QueueError("descriptors to be queued are not finite: the training diverged")
        tile_ids = tile_ids.to(self._tile_ids)
        masked = same_place(tile_ids, positions, tile_ids, positions, min_distance_m)
        chosen, useless = hardest_rows(distance, masked, min(hardest, self.length))
        kept = aerial[chosen].masked_fill(useless[:, None], 0), tile_ids[chosen], positions[chosen]
        self._descriptors, self._tile_ids, self._positions = (
            torch.cat([before, new])[-self.length :]
            for before, new in zip(self.state_dict().values(), kept, strict=True)
        )

    def negatives(self) -> Tensor:
        """The descriptors, oldest first: float32 (Q, D), detached; some rows may be zeros."""
        return self._descriptors

    def mask(
        self, tile_ids: Tensor, positions: Tensor | None = None, min_distance_m: float = 0.0
    ) -> Tensor:
        """Bool (B, Q), **True = masked out**: entries that are no negatives of these anchors."""
        positions = self._check_tiles(tile_ids, positions)
        masked = same_place(
            tile_ids.to(self._tile_ids), positions, self._tile_ids, self._positions, min_distance_m
        )
        return masked | ~self._descriptors.any(1)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that an exact resume needs."""
        return {
            "descriptors": self._descriptors,
            "tile_ids": self._tile_ids,
            "positions": self._positions,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the contents by a `state_dict`. Raises QueueError if it does not fit."""
        if state.keys() != self.state_dict().keys():
            raise QueueError(f"queue state holds {sorted(state)}: not one of this queue")
        tile_ids = state["tile_ids"]
        self._check_batch(state["descriptors"], tile_ids, state["positions"])
        if len(tile_ids) > self.length:
            raise QueueError(f"queue state has {len(tile_ids)} entries, the queue {self.length}")
        self._descriptors = state["descriptors"].detach().to(self._descriptors, copy=True)
        self._tile_ids = tile_ids.to(self._tile_ids, copy=True)
        self._positions = state["positions"].to(self._positions, copy=True)

    def _check_batch(self, aerial: Tensor, tile_ids: Tensor, positions: Tensor | None) -> Tensor:
        if tile_ids.ndim != 1 or aerial.shape != (len(tile_ids), self.dimension):
            raise QueueError(
                f"descriptors are {tuple(aerial.shape)} with {tuple(tile_ids.shape)} tile ids: "
                f"expected (B, {self.dimension}) and (B,)"
            )
        return self._check_tiles(tile_ids, positions)

    def _check_tiles(self, tile_ids: Tensor, positions: Tensor | None) -> Tensor:
        """Positions on the queue's device, (B, 3); NaN if none are given."""
        if tile_ids.ndim != 1 or tile_ids.dtype != torch.int64:
            raise QueueError(
                f"tile ids are {tile_ids.dtype} {tuple(tile_ids.shape)}: expected int64 (B,)"
            )
        if positions is None:
            return self._positions.new_full((len(tile_ids), 3), torch.nan)
        if positions.shape != (len(tile_ids), 3):
            raise QueueError(
                f"positions are {tuple(positions.shape)}: expected {(len(tile_ids), 3)}, "
                "earth-centred metres"
            )
        return positions.to(self._positions)
