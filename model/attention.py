"""The multi-scale attention encoder's mask (MSAE), eq. 3 and fig. 4 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNELS = (3, 5, 7)  # p in eq. 3


class MultiScaleAttention(nn.Module):
    """Feature maps to one spatial mask.

    The maps are concatenated along the channel at the features' resolution; a group of
    convolutions for each kernel size 3, 5, 7 reads them (eq. 3, with bias c); 1x1 weighs and sums
    the groups to one channel; the mask is upsampled to the features' size.

    The paper leaves open, and this class chooses: the width of a group (256 channels would need
    27 M weights on VGG16), a stride of 2 that the upsampling undoes, ReLU between the groups and
    the 1x1, and a sigmoid of the logits less their mean over the image. The descriptor's L2 norm
    hides the level of a mask. Without the mean's removal the level drifts up until the sigmoid
    saturates and every mask is 1. What the shipped masks learned: docs/decisions.md.
    """

    def __init__(self, channels: int, group_channels: int = 32) -> None:
        super().__init__()
        self.groups = nn.ModuleList(
            nn.Conv2d(channels, group_channels, p, stride=2, padding=p // 2) for p in KERNELS
        )
        self.weigh = nn.Conv2d(group_channels * len(KERNELS), 1, 1, bias=False)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps (N, C_i, H_i, W_i) and the features' (H, W) to a mask (N, 1, H, W) in 0..1."""
        joined = torch.cat([_averaged(features, size) for features in maps], dim=1)
        context = torch.cat([torch.relu(group(joined)) for group in self.groups], dim=1)
        logits = self.weigh(context)
        mask = torch.sigmoid(logits - logits.mean((2, 3), keepdim=True))
        return functional.interpolate(mask, size, mode="bilinear", align_corners=False)


def _averaged(features: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (N, C, H, W) averaged down to `size`; pixels count equally where H, W are multiples."""
    (rows, more_rows), (columns, more_columns) = (
        divmod(int(side), int(wanted))
        for side, wanted in zip(features.shape[2:], size, strict=True)
    )
    if more_rows or more_columns:
        return functional.adaptive_avg_pool2d(features, size)
    return functional.avg_pool2d(features, (rows, columns))  # equal, and vectorised by OpenVINO
