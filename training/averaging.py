"""The mean of weights that began from the same start.

Averaging fine-tuned weights with their start keeps what both have learnt (Wortsman et al. 2022,
"Robust fine-tuning" and "Model soups").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def mean(weights: Sequence[Weights], shares: Sequence[float] | None = None) -> dict[str, Tensor]:
    """The weighted mean of every tensor, in its type; shares add up to 1. None: equal shares."""
    shares = [1.0 / len(weights)] * len(weights) if shares is None else shares
    return {
        # Batch norm's counters have no mean: keep the first checkpoint's.
        name: torch.stack(
            [share * each[name].double() for each, share in zip(weights, shares, strict=True)]
        )
        .sum(0)
        .to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights[0].items()
    }
