"""Retrieval metrics: descriptors and positions in, numbers out.

A street's rank is the number of *other* aerials at most as far from it (L2) as its right aerial.
So ties count against the street, even exact duplicates of the right aerial, and a collapsed
embedding scores 0 at rank 1. Distances are computed in blocks: beyond the descriptors, memory does
not grow with the gallery.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import SkyfixError
from model.heading_estimate import north_between_rolls

Array = Tensor | NDArray[np.generic]

_BLOCK = 2048  # streets by aerials at a time: 32 MiB of float64 distances
_FEW = 64  # streets at a time if each has candidates of its own


class EvaluationError(SkyfixError):
    """Descriptors, truth or positions that allow no metric."""


class NonFiniteError(EvaluationError):
    """NaN or infinity among descriptors: a comparison means nothing, so no score is given."""


def recall_depths(tiles: int) -> dict[str, int]:
    """How many of N tiles a query may retrieve, by metric; "1%" is K = max(1, N // 100)."""
    return {"1": 1, "5": 5, "10": 10, "1%": max(1, tiles // 100)}


def recall_at(street: Array, aerial: Array, truth: Array | None = None) -> dict[str, float]:
    """Share of streets whose right aerial is among the first K: {"1", "5", "10", "1%"} in 0..1.

    `recall_depths(len(aerial))` gives each K; report K and N with the result. A recall with K >= N
    is always 1 and means nothing. Arguments and errors as for `ranks`.
    """
    return recall_of(ranks(street, aerial, truth), len(aerial))


def recall_of(rank: NDArray[np.int64], tiles: int) -> dict[str, float]:
    """`recall_at` from ranks: the share below each of `recall_depths(tiles)`."""
    return {name: float((rank < k).mean()) for name, k in recall_depths(tiles).items()}


def ranks(
    street: Array,
    aerial: Array,
    truth: Array | None = None,
    *,
    ignored: Array | None = None,
    block: int = _BLOCK,
) -> NDArray[np.int64]:
    """Rank of the right aerial for each street, 0 = first, int64 (Nq,); ties count against.

    A matrix product rounds equal rows differently by their position. So distances are float64,
    and each is lowered by the bound of its own rounding (about 1e-13 for unit rows): equal rows
    tie on every machine and for every block size.

    Args:
        street: (Nq, D), or (Nq, R, D): R descriptors of each street; the nearest counts.
        aerial: (N, D). Both are tensors or arrays.
        truth: (Nq,) index of the right aerial of each street; row i for street i by default.
        ignored: (Nq, M) indices of aerials that do not count for that street, padded with -1.

    Raises:
        NonFiniteError: NaN or infinity. EvaluationError: shapes that do not fit.
    """
    street, aerial = _descriptors(street, aerial)
    right = _truth(truth, len(street), len(aerial)).to(aerial.device)
    left_out = _ignored(ignored, right).to(aerial.device)
    ahead = torch.zeros(len(street), dtype=torch.int64, device=street.device)
    for rows in _blocks(len(street), _rows(block, street)):
        own = _own_distances(street[rows], aerial[right[rows], None])
        for columns in _blocks(len(aerial), block):
            at_most_as_far = _least_distances(street[rows], aerial[columns]) <= own[:, None]
            # The right aerial does not count either; by its index, whatever the rounding.
            for skipped in (right[rows, None], left_out[rows]):
                _clear(at_most_as_far, skipped - columns.start)
            ahead[rows] += at_most_as_far.sum(1)
    result: NDArray[np.int64] = ahead.cpu().numpy()
    return result


def nearest(street: Array, aerial: Array, *, block: int = _BLOCK) -> NDArray[np.int64]:
    """Index of the aerial nearest to each street, int64 (Nq,). Arguments and errors as `ranks`."""
    street, aerial = _descriptors(street, aerial)
    best = torch.full((len(street),), torch.inf, dtype=torch.float64, device=street.device)
    index = torch.zeros(len(street), dtype=torch.int64, device=street.device)
    for rows in _blocks(len(street), _rows(block, street)):
        for columns in _blocks(len(aerial), block):
            least, at = _least_distances(street[rows], aerial[columns], lowered=False).min(1)
            closer = least < best[rows]
            best[rows] = torch.where(closer, least, best[rows])
            index[rows] = torch.where(closer, at + columns.start, index[rows])
    result: NDArray[np.int64] = index.cpu().numpy()
    return result


def best_north(street: Array, aerial: Array) -> NDArray[np.float64]:
    """The fraction of the width that faces north when each street is nearest to its aerial.

    street: (n, R, D), R evenly spaced headings from 0; aerial: (n, D). Returns (n,) in 0..1.
    """
    street, aerial = _as_tensor(street).double(), _as_tensor(aerial).double()
    distances = (street - aerial[:, None]).square().sum(2).cpu().numpy()
    return north_between_rolls(distances, distances.argmin(1))


def best_among(street: Array, aerial: Array, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """The candidate nearest to each street: (n, R, D), (N, D), (n, M) -> index (n,).

    Candidates are indices of aerials, padded with -1; every street needs at least one.
    """
    street, aerial, right = _as_tensor(street), _as_tensor(aerial), torch.from_numpy(candidates)
    distance = torch.cat(
        [
            torch.cdist(street[few].double(), aerial[right[few].clamp(min=0)].double()).amin(1)
            for few in _blocks(len(street), _FEW)
        ]
    )
    chosen = distance.masked_fill(right < 0, torch.inf).argmin(1, keepdim=True)
    result: NDArray[np.int64] = right.gather(1, chosen)[:, 0].numpy()
    return result


def recall_within(
    found: Array, true: Array, radii_m: Sequence[float] = (10, 25, 50)
) -> dict[str, float]:
    """Share of queries with at most so many metres of error, and the median error in metres.

    found, true: in metres, (Nq, 2) east and north on one plane or (Nq, 3) earth-centred.
    Returns {"10 m": share, ..., "median_m": metres}. Raises EvaluationError.
    """
    found, true = _tensor("found", found), _tensor("true", true)
    if found.shape != true.shape or found.shape[1] not in (2, 3):
        raise EvaluationError(
            f"positions are {tuple(found.shape)} and {tuple(true.shape)}: "
            "expected (Nq, 2) or (Nq, 3), both the same"
        )
    error_m = (found.double() - true.double()).square().sum(1).sqrt().cpu().numpy()
    within = {f"{radius:g} m": float((error_m <= radius).mean()) for radius in radii_m}
    return within | {"median_m": float(np.median(error_m))}


def _least_distances(street: Tensor, aerial: Tensor, *, lowered: bool = True) -> Tensor:
    """Squared L2 in float64 of the nearest of R, (n, R, D), (m, D) -> (n, m).

    `lowered` subtracts a bound of the rounding error: D + 3 roundings of 2^-53 each, of terms of
    at most (|s| + |a|)^2 <= 2 (|s|^2 + |a|^2) (Higham, Accuracy and Stability, section 3.1).
    """
    rolls = street.shape[1]
    street, aerial = street.flatten(0, 1).double(), aerial.double()
    norms = street.square().sum(1)[:, None] + aerial.square().sum(1)[None, :]
    distance = norms - 2 * street @ aerial.T
    if lowered:
        distance -= _rounding(norms, street.shape[1])
    return distance.view(-1, rolls, len(aerial)).amin(1)


def _own_distances(street: Tensor, right: Tensor) -> Tensor:
    """Squared L2 of the nearest of R, (n, R, D), (n, 1, D) -> (n,), raised by the same bound."""
    street, right = street.double(), right.double()
    norms = street.square().sum(2) + right.square().sum(2)
    raised = (street - right).square().sum(2) + _rounding(norms, street.shape[2])
    return raised.amin(1)


def _rounding(norms: Tensor, dimension: int) -> Tensor:
    return norms * ((dimension + 8) * 2.0**-52)


def _clear(matrix: Tensor, columns: Tensor) -> None:
    """Set each row to False at its columns, (n, M), unless they lie outside the matrix."""
    row, at = ((columns >= 0) & (columns < matrix.shape[1])).nonzero(as_tuple=True)
    matrix[row, columns[row, at]] = False


def _rows(block: int, street: Tensor) -> int:
    """Streets whose descriptors fill a block."""
    return max(1, block // street.shape[1])


def _blocks(count: int, block: int) -> Iterator[slice]:
    return (slice(start, min(start + block, count)) for start in range(0, count, block))


def _descriptors(street: Array, aerial: Array) -> tuple[Tensor, Tensor]:
    """Street (Nq, R, D) and aerial (N, D) on one device."""
    street = _as_tensor(street)
    rolls = street.shape[1] if street.ndim == 3 else 1
    street = _tensor("street", street.flatten(0, 1) if street.ndim == 3 else street)
    aerial = _tensor("aerial", aerial)
    if street.shape[1] != aerial.shape[1]:
        raise EvaluationError(
            f"street is {tuple(street.shape)} and aerial {tuple(aerial.shape)}: "
            "both need the same dimension"
        )
    return street.view(-1, rolls, street.shape[1]), aerial.to(street.device)


def _tensor(name: str, values: Array) -> Tensor:
    """Values as a detached tensor (N, D). Raises EvaluationError if empty or not finite."""
    tensor = _as_tensor(values)
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise EvaluationError(f"{name} is {tuple(tensor.shape)}: expected (N, D), not empty")
    bad = ~tensor.isfinite().all(1)
    if bool(bad.any()):
        raise NonFiniteError(
            f"{name}: {int(bad.sum())} of {len(bad)} rows hold NaN or infinity, the first is row "
            f"{int(bad.nonzero()[0, 0])}; no score is given for such an embedding"
        )
    return tensor


def _as_tensor(values: Array) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))  # copies a read-only one


def _truth(truth: Array | None, streets: int, aerials: int) -> Tensor:
    right = torch.arange(streets) if truth is None else _as_tensor(truth)
    if right.shape != (streets,) or right.is_floating_point() or right.dtype == torch.bool:
        raise EvaluationError(
            f"truth is {right.dtype} {tuple(right.shape)}: expected one integer for each of "
            f"{streets} streets"
        )
    if int(right.min()) < 0 or int(right.max()) >= aerials:
        raise EvaluationError(
            f"truth reaches from {int(right.min())} to {int(right.max())}, but there are "
            f"{aerials} aerials"
        )
    return right.long()


def _ignored(ignored: Array | None, right: Tensor) -> Tensor:
    if ignored is None:
        return right.new_empty(len(right), 0)
    indices = _as_tensor(ignored)
    if indices.ndim != 2 or len(indices) != len(right) or indices.is_floating_point():
        raise EvaluationError(
            f"ignored is {indices.dtype} {tuple(indices.shape)}: expected integers, "
            f"({len(right)}, M)"
        )
    return indices.long()
