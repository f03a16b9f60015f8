import numpy as np
import pytest
import torch
from torch.nn import functional

from model.attention import MultiScaleAttention


def maps(*shapes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=random) for shape in shapes]


def looped(attention, joined):
    """Eq. 3 for each p, one weight at a time in float64, before the upsampling: (H/2, W/2)."""
    channels, height, width = joined.shape
    groups = []
    for p, group in zip((3, 5, 7), attention.groups, strict=True):
        kernel, c = group.weight.double().numpy(), group.bias.double().numpy()
        out = np.tile(c[:, None, None], (1, height // 2, width // 2))
        for o, y, x in np.ndindex(out.shape):
            for i, v, u in np.ndindex(channels, p, p):
                row, column = 2 * y + v - p // 2, 2 * x + u - p // 2
                if 0 <= row < height and 0 <= column < width:
                    out[o, y, x] += kernel[o, i, v, u] * joined[i, row, column]
        groups.append(np.maximum(out, 0))
    weights = attention.weigh.weight.double().numpy()[0, :, 0, 0]
    sums = (np.concatenate(groups) * weights[:, None, None]).sum(0)
    return 1 / (1 + np.exp(sums.mean() - sums))


@torch.no_grad()
def test_the_mask_is_equation_3_by_explicit_loops():
    torch.manual_seed(0)
    attention = MultiScaleAttention(3, group_channels=2)
    fine, coarse = maps((2, 12, 16), (1, 6, 8))
    pooled = fine.reshape(2, 2, 6, 2, 8, 2).mean((3, 5))  # to the features' size
    mask = attention([fine, coarse], (6, 8))
    for i in range(2):
        small = looped(attention, torch.cat([pooled[i], coarse[i]]).double().numpy())
        expected = functional.interpolate(
            torch.from_numpy(small)[None, None], (6, 8), mode="bilinear"
        )
        torch.testing.assert_close(mask[i].double(), expected[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(9, 9), (8, 8), (2, 2), (1, 1), (5, 7)])
@torch.no_grad()
def test_the_mask_has_the_features_size_and_values_in_0_to_1(size):
    attention = MultiScaleAttention(8, group_channels=4)
    mask = attention([100 * feature_map for feature_map in maps((5, 20, 20), (3, 10, 10))], size)
    assert mask.shape == (2, 1, *size)
    assert 0 <= mask.min() <= mask.max() <= 1


@torch.no_grad()
def test_the_level_of_the_logits_does_not_change_the_mask():
    """Lifting all logits alike, even far beyond a sigmoid's range, changes nothing."""
    attention = MultiScaleAttention(8, group_channels=4)
    features = maps((5, 20, 20), (3, 10, 10))
    before = attention(features, (10, 10))
    attention.weigh.register_forward_hook(lambda module, given, logits: logits + 100)
    torch.testing.assert_close(attention(features, (10, 10)), before, atol=1e-4, rtol=0)
    assert before.std() > 0
