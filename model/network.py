"""The Siamese network: two branches that share no weights, each from a square image to a unit
descriptor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attention import MultiScaleAttention
from model.trunks import build_trunk, map_shapes


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network.

    Attributes:
        trunk: one of `trunks.TRUNKS`.
        neck: channels of the last map of the small trunk and of efficientnet_lite0.
        attention: False builds the plain encoder (the paper's ablation "w/o MSAE").
        group_channels: width of each of the attention's three kernel groups.
        dimension: length of a descriptor, D.
        half: the branches read the upper half of a view only: what lies ahead of it. Each of four
            quarter turns then tells of another half of the ground, in half the time. A camera that
            saw one direction is compared by the halves that it saw.
    """

    trunk: str = "small"
    neck: int = 32
    attention: bool = True
    group_channels: int = 16
    dimension: int = 256
    half: bool = False


class Branch(nn.Module):
    """Trunk, multi-scale attention, one fully connected layer, L2 norm (fig. 2 and 4)."""

    def __init__(self, config: NetworkConfig, input_size: int, *, pretrained: bool = False) -> None:
        super().__init__()
        self.reads_half = config.half
        self.trunk = build_trunk(config.trunk, pretrained=pretrained, neck=config.neck)
        *maps, features = map_shapes(self.trunk, (input_size // (1 + config.half), input_size))
        self.attention: MultiScaleAttention | None = None
        if config.attention:
            self.attention = MultiScaleAttention(
                sum(shape[0] for shape in maps), config.group_channels
            )
        self.feature_channels = features[0]
        self.head = nn.Linear(features.numel(), config.dimension)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, S, S) to descriptors (N, D) of length 1."""
        return self.encode_maps(self.maps(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The trunk's maps and features of normalised images, or of their upper halves."""
        if self.reads_half:
            images = images[:, :, : images.shape[2] // 2]
        maps: list[Tensor] = self.trunk(images)
        return maps

    def encode_maps(self, trunk_maps: Sequence[Tensor]) -> Tensor:
        """The trunk's maps and features, each (N, C_i, H_i, W_i), to descriptors (N, D)."""
        return self.encode_features(trunk_maps[-1], self._mask(trunk_maps))

    def encode_features(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Features (N, C, H, W), re-weighted by a mask (N, 1, H, W) if any, to (N, D)."""
        if mask is not None:
            features = features * mask
        # In float32 whatever autocast does before: the loss reads small differences of distances.
        return functional.normalize(self.head(features.flatten(1)).float(), dim=1)

    def attention_mask(self, images: Tensor) -> Tensor | None:
        """The mask (N, 1, H, W) for normalised images; None for the plain encoder.

        Four half views show each point twice: the mask is their mean.
        """
        if not self.reads_half:
            return self._mask(self.maps(images))
        turned = [self._mask(self.maps(images.rot90(k, (2, 3)))) for k in range(4)]
        halves = [mask for mask in turned if mask is not None]
        whole = [
            functional.pad(mask, (0, 0, 0, mask.shape[2])).rot90(-k, (2, 3))
            for k, mask in enumerate(halves)
        ]
        return torch.stack(whole).sum(0) / 2.0 if whole else None

    def _mask(self, trunk_maps: Sequence[Tensor]) -> Tensor | None:
        *maps, features = trunk_maps
        return None if self.attention is None else self.attention(maps, features.shape[-2:])


class SiameseNetwork(nn.Module):
    """A street branch and an aerial branch of the same shape, without shared weights."""

    def __init__(self, config: NetworkConfig, input_size: int, *, pretrained: bool = False) -> None:
        super().__init__()
        self.street = Branch(config, input_size, pretrained=pretrained)
        self.aerial = Branch(config, input_size, pretrained=pretrained)

    def forward(self, street: Tensor, aerial: Tensor) -> tuple[Tensor, Tensor]:
        """Two normalised batches (N, 3, S, S) to their descriptors, each (N, D)."""
        return self.street(street), self.aerial(aerial)
