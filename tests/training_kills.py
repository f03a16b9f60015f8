"""A training run for tests/test_training_kill.py to kill: `training_kills.py PAIRS OUT`."""

import sys
from pathlib import Path

import torch
from pair_samples import tiny

from training.data.arrays import Arrays, read_arrays
from training.data.datasets import load
from training.recipes import Recipe
from training.run.loop import train

# Every part with a state: queue, average, order, seen descriptors, warm-up, every augmentation.
RECIPE: Recipe = tiny(
    "batch_size=2",
    "epochs=4",
    "queue_length=6",
    "queue_hardest=2",
    "queue_start_epoch=1",
    "sampling=hard",
    "sampling_group=2",
    "sampling_visual_epoch=1",
    "ema=0.9",
    "warmup_steps=3",
)


def read(folder: Path) -> Arrays:
    return read_arrays(load("folder", folder, "all"), RECIPE.encoder, RECIPE.offset_m)


def main() -> None:
    torch.set_num_threads(1)
    folder, out = map(Path, sys.argv[1:])
    arrays = read(folder)
    train(RECIPE, arrays, out, validation=arrays, save_every_s=0.0)


if __name__ == "__main__":
    main()
