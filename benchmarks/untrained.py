"""Fresh weights of a recipe, for speed alone: `python -m benchmarks.untrained RECIPE OUT`.

The speed of an encoder does not depend on what it has learned; --set changes the recipe's fields,
such as encoder.network.trunk=convnext_tiny.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from model.checkpoint import Checkpoint
from training import recipes


def main() -> None:
    """Parse arguments, write the checkpoint."""
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
