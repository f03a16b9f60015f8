"""A checkpoint with random weights, to measure speed: `python -m benchmarks.untrained RECIPE OUT`.

An encoder's speed does not depend on its training. --set changes the recipe's fields, such as
encoder.network.trunk=convnext_tiny.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from model.checkpoint import Checkpoint
from training import recipes


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=recipes.RECIPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    config = recipes.find(arguments.recipe, arguments.set).encoder
    torch.manual_seed(0)
    Checkpoint(config, config.build().state_dict()).save(arguments.out)


if __name__ == "__main__":
    main()
