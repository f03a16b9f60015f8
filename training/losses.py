"""The losses, as functions of descriptors alone; they know nothing of networks or datasets.

Convention: row i of `street` and row i of `aerial` belong together. Every mask is True where the
pair is MASKED OUT, that is, where it is *not* a negative.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from model.errors import SkyfixError


class LossError(SkyfixError):
    """Descriptors or masks that allow no loss, such as wrong shapes or no possible negative."""


def soft_margin_triplet(
    street: Tensor,
    aerial: Tensor,
    alpha: float = 10.0,
    *,
    queue: Tensor | None = None,
    queue_mask: Tensor | None = None,
    pair_mask: Tensor | None = None,
    queue_weight: float = 1.0,
) -> Tensor:
    """Weighted soft-margin triplet loss, eq. 4-6: softplus(alpha * (d_pos - d_neg)), d squared L2.

    The in-batch term is the mean over the 2B(B-1) triplets: street anchors against the other
    aerials, and aerial anchors against the other streets. The queue term, times `queue_weight`,
    is the mean over street anchors against queued aerials. A term with every pair masked is 0.

    Args:
        street, aerial: (B, D) descriptors; alpha = 10 presumes unit rows.
        queue: (Q, D) earlier aerial descriptors; no gradient flows into them.
        queue_mask: bool (B, Q) or (Q,), **True = masked out**, no negative for that street.
        pair_mask: bool (B, B), **True = masked out**: street i and aerial j overlap and are no
            negatives of each other in either direction. The diagonal never counts.

    Returns: a scalar, at least float32, also under autocast.

    Raises:
        LossError: shapes that do not fit, or B = 1 with an empty queue.
    """
    _check_pairs(street, aerial, pair_mask)
    if len(street) < 2 and (queue is None or len(queue) == 0):
        raise LossError("a batch of 1 pair holds no negative: use at least 2, or a filled queue")
    _check_both(queue, queue_mask)
    with torch.autocast(street.device.type, enabled=False):
        street, aerial = _full_precision(street), _full_precision(aerial)
        distance = _squared_distances(street, aerial)
        positive = (street - aerial).square().sum(1)
        excluded = _never_negative(street, pair_mask)
        street_terms = functional.softplus(alpha * (positive[:, None] - distance))
        aerial_terms = functional.softplus(alpha * (positive[None, :] - distance))
        loss = _mean_where((street_terms + aerial_terms) / 2, ~excluded)
        if queue is not None:
            usable = _usable_queue(street, queue, queue_mask)
            negative = _squared_distances(street, queue.detach().to(street))
            queue_terms = functional.softplus(alpha * (positive[:, None] - negative))
            loss = loss + queue_weight * _mean_where(queue_terms, usable)
        return loss


def info_nce(
    street: Tensor,
    aerial: Tensor,
    temperature: float | Tensor,
    label_smoothing: float = 0.0,
    pair_mask: Tensor | None = None,
    *,
    queue: Tensor | None = None,
    queue_mask: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE: mean cross-entropy of street -> aerial and of aerial -> street.

    The queue's aerials are further negatives of the streets only.

    Args:
        street, aerial: (B, D) unit descriptors, B >= 2.
        temperature: divides the cosine similarities; a scalar tensor may be learnt.
        label_smoothing: share of the target spread evenly over all unmasked aerials, the positive
            among them. Torch's cross_entropy would spread it over the masked ones as well.
        pair_mask, queue, queue_mask: as in `soft_margin_triplet`, **True = masked out**.

    Returns: a scalar, at least float32, also under autocast.

    Raises:
        LossError: shapes or numbers that do not fit.
    """
    _check_pairs(street, aerial, pair_mask)
    if len(street) < 2:
        raise LossError("a batch of 1 pair holds no negative: use at least 2")
    if not isinstance(temperature, Tensor) and temperature <= 0:
        raise LossError(f"temperature is {temperature}: it must be above 0")
    if not 0 <= label_smoothing < 1:
        raise LossError(f"label_smoothing is {label_smoothing}: it must be in [0, 1)")
    _check_both(queue, queue_mask)
    with torch.autocast(street.device.type, enabled=False):
        street, aerial = _full_precision(street), _full_precision(aerial)
        logits = street @ aerial.T / temperature
        diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        kept = ~_never_negative(street, pair_mask) | diagonal
        aerial_to_street = _cross_entropy(logits.T, kept.T, label_smoothing)
        if queue is not None:
            kept = torch.cat([kept, _usable_queue(street, queue, queue_mask)], 1)
            earlier = street @ queue.detach().to(street).T / temperature
            logits = torch.cat([logits, earlier], 1)
        return (_cross_entropy(logits, kept, label_smoothing) + aerial_to_street) / 2


def _cross_entropy(logits: Tensor, kept: Tensor, label_smoothing: float) -> Tensor:
    """Mean over rows; the target is the diagonal. (B, B + Q), bool (B, B + Q) -> scalar."""
    surprise = -logits.masked_fill(~kept, -torch.inf).log_softmax(1)
    spread = surprise.masked_fill(~kept, 0).sum(1) / kept.sum(1)
    return ((1 - label_smoothing) * surprise.diagonal() + label_smoothing * spread).mean()


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M). Cancellation costs about 1e-7 on unit rows in float32."""
    return a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the counted values; 0, still differentiable, if no value counts."""
    return values.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)


def _never_negative(street: Tensor, pair_mask: Tensor | None) -> Tensor:
    """Bool (B, B): the diagonal, and the pairs that `pair_mask` masks out."""
    diagonal = torch.eye(len(street), dtype=torch.bool, device=street.device)
    return diagonal if pair_mask is None else diagonal | pair_mask.to(street.device)


def _usable_queue(street: Tensor, queue: Tensor, queue_mask: Tensor | None) -> Tensor:
    """Bool (B, Q), True for entries that are negatives: the opposite of `queue_mask`."""
    if queue.ndim != 2 or queue.shape[1] != street.shape[1]:
        raise LossError(f"queue is {tuple(queue.shape)}: expected (Q, {street.shape[1]})")
    shape = (len(street), len(queue))
    if queue_mask is None:
        return torch.ones(shape, dtype=torch.bool, device=street.device)
    if queue_mask.shape not in (shape, shape[1:]):
        raise LossError(f"queue_mask is {tuple(queue_mask.shape)}: expected {shape}")
    _check_bool("queue_mask", queue_mask)
    return ~queue_mask.to(street.device).expand(shape)


def _check_both(queue: Tensor | None, queue_mask: Tensor | None) -> None:
    if queue is None and queue_mask is not None:
        raise LossError("queue_mask was given without a queue: pass both or neither")


def _check_pairs(street: Tensor, aerial: Tensor, pair_mask: Tensor | None) -> None:
    if street.ndim != 2 or street.shape != aerial.shape or street.numel() == 0:
        raise LossError(
            f"street is {tuple(street.shape)} and aerial {tuple(aerial.shape)}: "
            "both must be the same (B, D), not empty"
        )
    if pair_mask is not None:
        if pair_mask.shape != (len(street), len(street)):
            raise LossError(
                f"pair_mask is {tuple(pair_mask.shape)}: expected {(len(street), len(street))}"
            )
        _check_bool("pair_mask", pair_mask)


def _check_bool(name: str, mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise LossError(f"{name} is {mask.dtype}: expected bool, True = masked out")


def _full_precision(descriptors: Tensor) -> Tensor:
    """float32 from half types; float64 stays."""
    return descriptors.to(torch.promote_types(descriptors.dtype, torch.float32))
