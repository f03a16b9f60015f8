"""Convolutional trunks as lists of feature maps, coarse last.

A trunk returns its intermediate maps, which the multi-scale attention reads, followed by the
features that it re-weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from model.efficientnet import EfficientNetLite0
from model.errors import RANDOM, PretrainedError

# Names of the maps inside torchvision's models. The attention re-weights the last map.
# VGG16: relu3_3, relu4_3, relu5_3 (1,280 channels), then pool5. With relu5_3 as features, the
# fully connected layer alone would hold 170 M weights a branch.
_TORCHVISION_MAPS = {
    "vgg16": ("features.15", "features.22", "features.29", "features.30"),
    "resnet18": ("layer2", "layer3", "layer4", "layer4"),
    "resnet50": ("layer2", "layer3", "layer4", "layer4"),
    "convnext_tiny": ("features.3", "features.5", "features.7", "features.7"),
    "convnext_small": ("features.3", "features.5", "features.7", "features.7"),
    "convnext_base": ("features.3", "features.5", "features.7", "features.7"),
}
TRUNKS = ("small", "efficientnet_lite0", *_TORCHVISION_MAPS)
# Their descriptors depend on the whole batch: chunks and processes would change the training.
BATCH_NORM_TRUNKS = ("resnet18", "resnet50")
# Group norm, not batch norm: a descriptor must not depend on the other images of its batch. So
# accumulated, distributed and single-process training see the same gradients.
NORM_GROUPS = 8


class _Residual(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.skip = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first_norm(self.first(x)))
        hidden = self.second_norm(self.second(hidden))
        return torch.relu(hidden + self.skip(x))


class SmallTrunk(nn.Module):
    """Plain residual convolutions, stride 16: 2.7 M weights, fast on a CPU.

    For (N, 3, S, S): maps of 64 at S/4, 128 at S/8, 256 at S/16, then `neck` channels at S/16.
    """

    def __init__(self, neck: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 4, 4, bias=False), nn.GroupNorm(NORM_GROUPS, 64), nn.ReLU(inplace=True)
        )
        self.quarter = _Residual(64, 64, 1)
        self.eighth = nn.Sequential(_Residual(64, 128, 2), _Residual(128, 128, 1))
        self.sixteenth = nn.Sequential(_Residual(128, 256, 2), _Residual(256, 256, 1))
        self.neck = nn.Sequential(nn.Conv2d(256, neck, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        quarter = self.quarter(self.stem(x))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        return [quarter, eighth, sixteenth, self.neck(sixteenth)]


class TorchvisionTrunk(nn.Module):
    """A torchvision classifier without its head, cut at the maps in `_TORCHVISION_MAPS`."""

    def __init__(self, name: str, *, pretrained: bool) -> None:
        super().__init__()
        self._names = _TORCHVISION_MAPS[name]
        whole = _torchvision_model(name, pretrained=pretrained)
        self.body = create_feature_extractor(whole, list(dict.fromkeys(self._names)))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        return [maps[name] for name in self._names]


def _torchvision_model(name: str, *, pretrained: bool) -> nn.Module:
    try:
        weights = "IMAGENET1K_V1" if pretrained else None
        return getattr(torchvision.models, name)(weights=weights)  # type: ignore[no-any-return]
    except (OSError, RuntimeError) as error:  # out of reach; RuntimeError: another hash
        if not pretrained:
            raise
        raise PretrainedError(
            f"the ImageNet weights of {name} are not available ({error}): put their file into "
            f"{torch.hub.get_dir()}/checkpoints, or use random ones: {RANDOM}"
        ) from error


def build_trunk(name: str, *, pretrained: bool = False, neck: int = 32) -> nn.Module:
    """A trunk by name, one of `TRUNKS`.

    neck: channels of the last map of "small" and "efficientnet_lite0"; others ignore it.

    Raises:
        ValueError: an unknown name.
        PretrainedError: ImageNet weights are asked for and are not available.
    """
    if name == "small":
        if pretrained:
            raise PretrainedError(
                "there are no ImageNet weights of small: choose another encoder.network.trunk, "
                f"or use random ones: {RANDOM}"
            )
        return SmallTrunk(neck)
    if name == "efficientnet_lite0":
        return EfficientNetLite0(neck, pretrained=pretrained)
    if name in _TORCHVISION_MAPS:
        return TorchvisionTrunk(name, pretrained=pretrained)
    raise ValueError(f"trunk {name!r} is unknown; known: {', '.join(TRUNKS)}")


def freeze(trunk: nn.Module, maps: int) -> None:
    """Freeze the weights that decide the trunk's first `maps` maps.

    The statistics of batch norms still move: see `BATCH_NORM_TRUNKS`.
    """
    if not maps:
        return
    last = _probed(trunk, (64, 64))[maps - 1]
    weights = list(trunk.parameters())
    gradients = torch.autograd.grad(last.sum(), weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.requires_grad_(gradient is None)


def map_shapes(trunk: nn.Module, size: tuple[int, int]) -> Sequence[torch.Size]:
    """(C, H, W) of each map for one input of (height, width), found by running the trunk once."""
    with torch.no_grad():
        return [features.shape[1:] for features in _probed(trunk, size)]


def _probed(trunk: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    """The maps of an empty image, in eval mode: batch norms do not count the image."""
    training = trunk.training
    maps: list[Tensor] = trunk.eval()(torch.zeros(1, 3, *size))
    trunk.train(training)
    return maps
