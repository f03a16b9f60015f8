from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_samples import tiny, write_pairs
from PIL import Image

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from training.data.arrays import read_arrays
from training.data.datasets import load
from training.evaluate.encoded_pairs import EncodedPairs, encode_pairs
from training.studies import figures
from training.studies.figures import FigureError, back_projected, mask_differences

LARGER = "encoder.preprocessing.input_size=64"  # a mask of 2 x 2 before it is upsampled
CONFIG = tiny(LARGER).encoder
RIGHT, WRONG = (26, 152, 80), (215, 48, 39)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = write_pairs(tmp_path_factory.mktemp("pairs"), 6)
    return read_arrays(load("folder", folder, "all"), CONFIG, 2.0)


def checkpoint(*overrides):
    torch.manual_seed(0)
    config = tiny(LARGER, *overrides).encoder
    return Checkpoint(config, config.build().state_dict())


def colours(path):
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def test_each_figure_is_drawn(arrays, tmp_path):
    made = checkpoint()
    encoded = encode_pairs(Encoder(made), arrays)
    figures.attention(made, arrays, [0, 3], tmp_path / "a.png")
    figures.plane(encoded, tmp_path / "b.png")
    figures.retrieval(encoded, CONFIG.preprocessing, arrays, [0, 1, 2], tmp_path / "c.png")
    log = [[{"1": 0.1}, {"1": 0.4}], [{"1": 0.2}, {"1": 0.3}]]
    figures.curves({"with": log, "without": log[:1]}, tmp_path / "d.png")
    for name in "abcd":
        assert len(colours(tmp_path / f"{name}.png")) > 20


def test_a_pairs_masks_are_the_means_and_their_differences(arrays):
    """The service's own explanation of the street is the oracle."""
    made = checkpoint()
    means, differences = mask_differences(made, arrays)
    _, mask = Encoder(made).explain_strip(arrays.strips[4], float(arrays.norths[4]))
    np.testing.assert_allclose(means[0] + differences[4, 0], mask, atol=1e-5)
    np.testing.assert_allclose(differences.sum(0), 0.0, atol=1e-5)
    assert differences.std() > 0


def test_pairs_that_look_alike_differ_in_no_mask(arrays):
    alike = replace(
        arrays, **{name: getattr(arrays, name)[[2, 2]] for name in ("strips", "norths", "chips")}
    )
    _, differences = mask_differences(checkpoint(), alike)
    assert not differences.any()


def test_a_network_without_attention_has_no_heat_map(arrays, tmp_path):
    plain = checkpoint("encoder.network.attention=false")
    with pytest.raises(FigureError, match="needs a network with attention"):
        figures.attention(plain, arrays, [0], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_the_right_tile_is_framed_in_green_and_the_others_in_red(arrays, tmp_path):
    """Each right tile has the descriptor of its query."""
    descriptors = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    encoded = EncodedPairs(descriptors, descriptors, np.arange(6), np.arange(6), arrays.positions)
    figures.retrieval(encoded, CONFIG.preprocessing, arrays, [0], tmp_path / "right.png")
    assert {RIGHT, WRONG} <= colours(tmp_path / "right.png")


def test_a_right_tile_outside_the_best_is_still_shown(tmp_path, arrays):
    """The right tile is the last of seven."""
    descriptors = np.eye(7, dtype=np.float32)
    encoded = EncodedPairs(-descriptors, descriptors, np.arange(7), np.arange(7), np.zeros((7, 3)))
    seven = replace(arrays, **{n: getattr(arrays, n)[[*range(6), 0]] for n in ("strips", "chips")})
    figures.retrieval(encoded, CONFIG.preprocessing, seven, [0], tmp_path / "last.png")
    assert {RIGHT, WRONG} <= colours(tmp_path / "last.png")


@pytest.mark.parametrize("projection", ["ground", "polar", "none"])
def test_a_projected_strip_returns_to_its_columns(projection):
    """A mask that is the projection of a bright sector is bright in that sector only."""
    chosen = tiny(f"encoder.preprocessing.projection={projection}").encoder.preprocessing
    strip = np.zeros((24, 128, 3), np.uint8)
    strip[:, 40:60] = 255
    pixels = torch.from_numpy(strip).permute(2, 0, 1)[None].float() / 255.0
    mask = chosen.project(pixels, 0.3)[0, 0].numpy()
    back = back_projected(mask, strip, 0.3, chosen)
    inside, outside = back[:, 44:56], np.delete(back, range(34, 66), axis=1)
    assert np.nanmean(inside) > 0.9
    assert np.nanmax(outside) < 0.3
