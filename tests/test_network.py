from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from model.network import NetworkConfig, SiameseNetwork

SMALL = NetworkConfig(neck=8, group_channels=4, dimension=16)


def images(count=3, size=32, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SiameseNetwork(SMALL, 32).eval().requires_grad_(False)


@pytest.mark.parametrize("attention", [True, False])
def test_descriptors_are_unit_rows_of_the_stated_length(attention):
    street, aerial = SiameseNetwork(replace(SMALL, attention=attention), 32)(images(), images())
    assert street.shape == aerial.shape == (3, 16)
    torch.testing.assert_close(street.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(aerial.norm(dim=1), torch.ones(3))


def test_the_network_without_its_mask_is_the_plain_encoder(network):
    plain = SiameseNetwork(replace(SMALL, attention=False), 32).eval()
    weights = network.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    features = network.street.trunk(images())[-1]
    ones = torch.ones(3, 1, *features.shape[-2:])
    expected = plain.street(images())
    assert torch.equal(network.street.encode_features(features, ones), expected)
    assert torch.equal(network.street.encode_features(features, None), expected)
    assert not torch.equal(network.street(images()), expected)
    assert plain.street.attention_mask(images()) is None


def test_the_mask_weighs_the_features_before_the_one_fully_connected_layer(network):
    features = network.aerial.trunk(images())[-1]
    mask = network.aerial.attention_mask(images())
    assert mask.shape == (3, 1, 2, 2)
    flat = (features * mask).reshape(3, -1)
    expected = functional.normalize(flat @ network.aerial.head.weight.T + network.aerial.head.bias)
    torch.testing.assert_close(network.aerial(images()), expected)


def test_half_views_leave_the_lower_half_out():
    torch.manual_seed(0)
    halves = SiameseNetwork(replace(SMALL, half=True), 32).eval()
    below = images()
    below[:, :, 16:] = images(seed=1)[:, :, 16:]
    assert torch.equal(halves.street(images()), halves.street(below))
    assert not torch.equal(halves.street(images()), halves.street(below.flip(2)))


def test_the_mask_of_half_views_turns_with_the_view():
    torch.manual_seed(0)
    halves = SiameseNetwork(replace(SMALL, half=True), 64).eval()
    views = images(size=64)
    mask = halves.street.attention_mask(views)
    assert mask.shape == (3, 1, 4, 4)
    turned = halves.street.attention_mask(views.rot90(1, (2, 3)))
    torch.testing.assert_close(turned, mask.rot90(1, (2, 3)))
    assert mask.std() > 0


def test_the_branches_share_no_weights(network):
    street, aerial = (list(branch.parameters()) for branch in (network.street, network.aerial))
    assert not {parameter.data_ptr() for parameter in street} & {
        parameter.data_ptr() for parameter in aerial
    }
    learning = SiameseNetwork(SMALL, 32)
    learning.street(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in learning.street.parameters())
    assert all(parameter.grad is None for parameter in learning.aerial.parameters())


@pytest.mark.parametrize("mode", [True, False])
def test_a_descriptor_does_not_depend_on_the_rest_of_its_batch(network, mode):
    network.train(mode)
    others, same = images(4, seed=1), images(4, seed=2)
    others[2] = same[2]
    assert torch.equal(network.street(others)[2], network.street(same)[2])
    alone = network.street(same[2:3])[0]
    assert functional.cosine_similarity(alone, network.street(same)[2], dim=0) >= 0.9999
    network.eval()


def test_the_paper_s_network_has_the_paper_s_sizes():
    """VGG16 at 288: 512 x 9 x 9 features; the mask reads 256 + 512 + 512 channels."""
    with torch.device("meta"):
        config = NetworkConfig(trunk="vgg16", group_channels=32, dimension=1024)
        network = SiameseNetwork(config, 288)
        street, aerial = network(torch.empty(2, 3, 288, 288), torch.empty(2, 3, 288, 288))
        mask = network.street.attention_mask(torch.empty(2, 3, 288, 288))
    trunk = 14_714_688
    attention = sum(1280 * 32 * p * p + 32 for p in (3, 5, 7)) + 3 * 32
    head = 512 * 9 * 9 * 1024 + 1024
    assert sum(parameter.numel() for parameter in network.parameters()) == 2 * (
        trunk + attention + head
    )
    assert street.shape == aerial.shape == (2, 1024)
    assert mask.shape == (2, 1, 9, 9)
