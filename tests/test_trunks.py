import pytest
import torch

from model.errors import PretrainedError
from model.trunks import (
    BATCH_NORM_TRUNKS,
    TRUNKS,
    build_trunk,
    freeze,
    map_shapes,
)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_small_trunk_s_maps_and_size():
    trunk = build_trunk("small", neck=24)
    shapes = [tuple(shape) for shape in map_shapes(trunk, (128, 128))]
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (24, 8, 8)]

    def residual(inner, outer):
        skip = inner * outer if inner != outer else 0
        return 9 * outer * (inner + outer) + skip + 4 * outer

    blocks = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    stem, neck = 48 * 64 + 2 * 64, 256 * 24 + 24
    assert count(trunk) == stem + sum(residual(*block) for block in blocks) + neck


def test_vgg16_is_torchvision_s_without_its_classifier():
    with torch.device("meta"):
        trunk = build_trunk("vgg16")
        shapes = [tuple(shape) for shape in map_shapes(trunk, (288, 288))]
    assert shapes == [(256, 72, 72), (512, 36, 36), (512, 18, 18), (512, 9, 9)]
    layers = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    layers += [(256, 512), *[(512, 512)] * 5]
    assert count(trunk) == sum(9 * inner * outer + outer for inner, outer in layers) == 14_714_688


@pytest.mark.parametrize(
    "name", [name for name in TRUNKS if name not in ("small", "efficientnet_lite0")]
)
def test_every_torchvision_trunk_has_maps_and_features(name):
    with torch.device("meta"):
        *maps, features = map_shapes(build_trunk(name), (64, 64))
    assert len(maps) == 3
    assert features[1] == features[2] == 2


@pytest.mark.parametrize(
    "probe", [lambda trunk: map_shapes(trunk, (32, 32)), lambda trunk: freeze(trunk, 1)]
)
def test_map_shapes_leave_batch_norms_unchanged(probe):
    trunk = build_trunk("resnet18").train()
    norm = trunk.body.bn1
    before = norm.running_mean.clone(), norm.running_var.clone()
    probe(trunk)
    assert trunk.training
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])


@pytest.mark.parametrize("name", ["small", "efficientnet_lite0", "convnext_tiny"])
def test_frozen_maps_do_not_change_while_the_rest_learns(name):
    trunk = build_trunk(name).eval()
    images = torch.rand(2, 3, 64, 64)
    before = [feature_map.detach() for feature_map in trunk(images)]
    freeze(trunk, 2)
    learning = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    sum(feature_map.square().sum() for feature_map in trunk(images)).backward()
    assert learning
    assert all(parameter.grad is not None for parameter in learning)
    with torch.no_grad():
        for parameter in learning:
            parameter += 0.1
    after = trunk(images)
    for old, new in zip(before[:2], after[:2], strict=True):
        assert torch.equal(old, new)
    assert all((old != new).any() for old, new in zip(before[2:], after[2:], strict=True))


def test_nothing_is_frozen_by_default():
    trunk = build_trunk("small")
    freeze(trunk, 0)
    assert all(parameter.requires_grad for parameter in trunk.parameters())


def test_an_unknown_trunk_is_refused_by_name():
    known = "small, efficientnet_lite0, vgg16"
    with pytest.raises(ValueError, match=f"'vgg99' is unknown; known: {known}"):
        build_trunk("vgg99")


def test_the_trunks_with_batch_norm_are_named():
    with torch.device("meta"):
        trunks = {name: build_trunk(name).modules() for name in TRUNKS}
    found = {
        name
        for name, modules in trunks.items()
        if any(isinstance(layer, torch.nn.BatchNorm2d) for layer in modules)
    }
    assert found == set(BATCH_NORM_TRUNKS)


def test_unreachable_pretrained_weights_are_refused(tmp_path, monkeypatch):
    """A file where torch's cache should be: nothing can be downloaded, whatever the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    (tmp_path / "nothing").touch()
    with pytest.raises(PretrainedError, match=r"of resnet18 .* --set pretrained=false"):
        build_trunk("resnet18", pretrained=True)
    with pytest.raises(PretrainedError, match=r"of small.* --set pretrained=false"):
        build_trunk("small", pretrained=True)
