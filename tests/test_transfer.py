"""The benchmark of real photographs, on made-up worlds and an untrained network."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_samples import World, tiny
from PIL import Image

from model.checkpoint import Checkpoint
from model.encoder import Encoder


@pytest.fixture
def transfer(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    return importlib.import_module("benchmarks.transfer")


@pytest.fixture
def folder(tmp_path):
    """Four pairs as CVACT's small copies, three distractors and weights."""
    for number in range(4):
        world = World(number)
        place = tmp_path / "real" / "cvact" / "small_copies" / str(number)
        place.mkdir(parents=True)
        Image.fromarray(world.panorama(128, 256)).save(place / "panorama.png")
        Image.fromarray(world.tile(128, 73.1)).save(place / "aerial.png")
    (tmp_path / "others" / "deep").mkdir(parents=True)
    for number in range(3):
        tile = World(100 + number).tile(128, 39.0)
        Image.fromarray(tile).save(tmp_path / "others" / "deep" / f"{number}.png")
    torch.manual_seed(0)
    config = tiny().encoder
    Checkpoint(config, config.build().state_dict()).save(tmp_path / "some.safetensors")
    return tmp_path


def test_distractors_never_improve_a_rank(transfer, folder):
    encoder = Encoder.load(folder / "some.safetensors")
    pairs = transfer.load_sets(folder / "real")["CVACT"]
    others = transfer.find_images(folder / "others", transfer.UC_MERCED_METRES_PER_PIXEL)
    alone, among = (
        transfer.rank_copies(transfer.encode_copies(encoder, pairs, tiles))
        for tiles in ([], others)
    )
    assert alone.shape == (8, 4)
    assert ((among >= alone) & (among <= alone + 3)).all()
    assert (among > alone).any()


def test_weights_are_neither_better_nor_worse_than_themselves(
    transfer, folder, monkeypatch, capsys
):
    weights = ["--weights", str(folder / "some.safetensors")]
    others = ["--distractors", str(folder / "others")]
    monkeypatch.setattr(
        sys, "argv", ["transfer", str(folder / "real"), *weights, *weights, *others]
    )
    transfer.main()
    text = capsys.readouterr().out
    assert text.count("| CVACT | 4 |") == text.count("| all, distractors | 7 |") == 2
    assert text.count("0 pairs better, 0 worse, p = 1") == 2


def test_the_sign_test_counts_each_pair_once(transfer):
    """Five of five pairs by chance: 2 / 2^5; four of five: 2 (1 + 5) / 2^5."""
    before = np.full((8, 6), 4)
    after = before.copy()
    after[:, 5] = 4, 4, 4, 4, 4, 4, 4, 1  # only a copy is better
    after[:, :4], after[0, 4] = 2, 9
    assert transfer.sign_test(before, after) == [(4, 1, 12 / 32), (5, 1, 14 / 64)]
    assert transfer.sign_test(before, before) == [(0, 0, 1.0)] * 2
