"""The commands that make a checkpoint from others: turn, mean."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from model.checkpoint import TURNS, Checkpoint, CheckpointError
from training.averaging import mean
from training.cli.options import Commands


def add_turn(commands: Commands) -> None:
    """Add `turn`."""
    command = commands.add_parser("turn", help="make weights encode several quarter turns")
    add = command.add_argument
    add("weights", type=Path, help="the checkpoint to start from")
    add("--turns", type=int, default=4, choices=TURNS, help="views encoded of each image (4)")
    add("--out", type=Path, required=True, help="the checkpoint to write")
    command.set_defaults(run=_turn)


def add_mean(commands: Commands) -> None:
    """Add `mean`."""
    command = commands.add_parser("mean", help="average the weights of runs with the same start")
    add = command.add_argument
    add("weights", type=Path, nargs="+", help="the checkpoints")
    add("--out", type=Path, required=True, help="the checkpoint to write")
    command.set_defaults(run=_mean)


def _turn(arguments: argparse.Namespace) -> None:
    """See `EncoderConfig.turns`."""
    before = Checkpoint.load(arguments.weights)
    Checkpoint(
        dataclasses.replace(before.config, turns=arguments.turns),
        before.tensors,
        {**before.provenance_of_new_weights, "turned_from": before.fingerprint},
    ).save(arguments.out)
    print(arguments.out)


def _mean(arguments: argparse.Namespace) -> None:
    checkpoints = [Checkpoint.load(path) for path in arguments.weights]
    first = checkpoints[0]
    for path, other in zip(arguments.weights, checkpoints, strict=True):
        if other.config != first.config:
            raise CheckpointError(
                f"{path} is another encoder than {arguments.weights[0]}: only weights of one "
                "configuration have a mean (`skyfix-train turn` changes the number of views)"
            )
    tensors = mean([checkpoint.tensors for checkpoint in checkpoints])
    fingerprints = [checkpoint.fingerprint for checkpoint in checkpoints]
    provenance = {**first.provenance_of_new_weights, "mean_of": fingerprints}
    Checkpoint(first.config, tensors, provenance).save(arguments.out)
    print(arguments.out)
