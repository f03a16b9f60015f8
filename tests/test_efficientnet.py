"""EfficientNet-Lite0 against its published definition, batch norms unfolded."""

from importlib import util
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from model.efficientnet import PACKAGE
from model.errors import PretrainedError
from model.trunks import build_trunk, map_shapes

# Tan and Le 2019, table 1: kernel, stride, expansion and channels of each block to stride 16.
BLOCKS = [(3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40)]
BLOCKS += [(3, 2, 6, 80)] + [(3, 1, 6, 80)] * 2 + [(5, 1, 6, 112)] * 3


def same(x, weight, stride, groups):
    """TensorFlow's "SAME": as many outputs as strides fit, an odd zero at the far end."""
    spare = [
        max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0) for side in x.shape[-2:]
    ]
    (top, left) = (padding // 2 for padding in spare)
    x = functional.pad(x, (left, spare[1] - left, top, spare[0] - top))
    return functional.conv2d(x, weight, stride=stride, groups=groups)


def published(state, x):
    """The maps after blocks 3, 5 and 11, straight from the published tensors."""

    def layer(x, conv, norm, stride=1, *, depthwise=False):
        weight = state[f"{conv}.weight"]
        x = same(x, weight, stride, len(weight) if depthwise else 1)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), eps=1e-3)

    x = functional.relu6(layer(x, "_conv_stem", "_bn0", 2))
    maps = []
    for number, (_, stride, expansion, channels) in enumerate(BLOCKS):
        at = f"_blocks.{number}"
        hidden = x
        if expansion > 1:
            hidden = functional.relu6(layer(x, f"{at}._expand_conv", f"{at}._bn0"))
        hidden = layer(hidden, f"{at}._depthwise_conv", f"{at}._bn1", stride, depthwise=True)
        hidden = layer(functional.relu6(hidden), f"{at}._project_conv", f"{at}._bn2")
        x = x + hidden if stride == 1 and channels == x.shape[1] else hidden
        maps.append(x)
    return [maps[2], maps[4], maps[10]]


def test_maps_and_size():
    trunk = build_trunk("efficientnet_lite0", neck=24)
    shapes = [tuple(shape) for shape in map_shapes(trunk, (128, 128))]
    assert shapes == [(24, 32, 32), (40, 16, 16), (112, 8, 8), (24, 8, 8)]
    weights, inner = (27 + 1) * 32, 32
    for kernel, _, expansion, outer in BLOCKS:
        wide = expansion * inner
        weights += (inner + 1) * wide * (expansion > 1)
        weights += (kernel**2 + 1) * wide + (wide + 1) * outer
        inner = outer
    assert sum(parameter.numel() for parameter in trunk.parameters()) == weights + (112 + 1) * 24


@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
def test_the_published_weights_give_the_published_features(size):
    spec = util.find_spec(PACKAGE)
    if spec is None:
        pytest.skip(f"{PACKAGE} is not installed")
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    state = torch.load(file, weights_only=True)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        *maps, _ = build_trunk("efficientnet_lite0", pretrained=True)(images)
        expected = published(state, images)
    for found, published_map in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, published_map, rtol=1e-4, atol=1e-4)


def test_pretrained_without_the_package_is_refused(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(PretrainedError, match=rf"pip install {PACKAGE}.*--set pretrained=false"):
        build_trunk("efficientnet_lite0", pretrained=True)
