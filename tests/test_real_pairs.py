"""Training on real images. The tests are skipped where the images are absent."""

import numpy as np
import pytest
import torch
from pair_samples import NOT_AUGMENTED
from PIL import Image
from torch.nn.functional import avg_pool2d

from model.encoder import Encoder
from model.panorama_metadata import read_panorama
from model.preprocessing import to_tensor
from training.data.arrays import read_arrays
from training.data.datasets import load
from training.evaluate.encoded_pairs import measure_centre
from training.recipes import find
from training.run.loop import train

# One batch of all twelve, not augmented: every seed tried reached a loss near 0 in six epochs.
OVERFIT = (
    "batch_size=12",
    "epochs=8",
    "learning_rate=3e-4",
    "warmup_steps=5",
    "precision=fp32",
    "queue_length=0",
    *NOT_AUGMENTED,
)


def test_twelve_real_pairs_can_be_overfitted(real, tmp_path):
    """The overfit shows only that real files pass through every part."""
    recipe = find("msae-demo", OVERFIT)
    pairs = load("cvusa", real / "cvusa", "all")
    arrays = read_arrays(pairs, recipe.encoder, recipe.offset_m)
    encoder = Encoder.load(train(recipe, arrays, tmp_path))
    metrics = measure_centre(encoder, arrays)
    assert (metrics["1"], metrics["N"]) == (1.0, 12)
    assert metrics["median_m"] == 0


def test_real_files_state_no_geometry_and_are_not_guessed_at(real):
    for path in sorted((real / "cvusa" / "streetview" / "panos").iterdir()):
        assert read_panorama(path.read_bytes()).geometry.north is None


def test_real_strips_and_chips_have_the_stated_sizes(real):
    config = find("msae-vgg16").encoder
    arrays = read_arrays(load("cvusa", real / "cvusa", "val"), config, 0.0)
    assert arrays.strips.shape[1:] == (224, 1232, 3)
    assert arrays.chips.shape[1:] == (288, 288, 3)
    pair = load("cvusa", real / "cvusa", "val")[0]
    whole = np.asarray(Image.open(pair.street))
    if whole.shape[:2] == (224, 1232):
        assert (arrays.strips[0] == whole).all()
    assert pair.position is not None
    assert arrays.norths == pytest.approx(0.5)


def test_real_ground_lies_along_the_aerial_s_roads_when_north_is_up(real):
    """Blurred brightness agrees at the stated north, not a quarter turn off.

    Half a turn is left out: roads look alike in both directions.
    """
    config = find("msae-demo").encoder
    arrays = read_arrays(load("cvusa", real / "cvusa", "all"), config, 0.0)
    offsets = torch.arange(128) - 63.5
    away = torch.hypot(*torch.meshgrid(offsets, offsets, indexing="ij"))
    ring = (away > 12) & (away < 60)  # beyond the car, within the ground

    def agreement(turn):
        views = config.preprocessing.project(to_tensor(arrays.strips), 0.5 + turn)
        blurred = [
            avg_pool2d(images.mean(1), 9, 1, 4)[:, ring]
            for images in (views, to_tensor(arrays.chips))
        ]
        return np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*blurred, strict=True)])

    upright, left, right = (agreement(turn) for turn in (0.0, 0.25, 0.75))
    assert upright > max(left, right) + 0.05
