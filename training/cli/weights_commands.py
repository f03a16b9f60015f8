"""The commands that make a checkpoint from others: turn, mean."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import TURNS, Checkpoint, CheckpointError
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
        {**_without_calibration(before), "turned_from": before.fingerprint},
    ).save(arguments.out)
    print(arguments.out)


def _mean(arguments: argparse.Namespace) -> None:
    """Averaging fine-tuned weights with their start keeps what both have learnt (Wortsman et al.
    2022, "Robust fine-tuning" and "Model soups")."""
    checkpoints = [Checkpoint.load(path) for path in arguments.weights]
    first = checkpoints[0]
    for path, other in zip(arguments.weights, checkpoints, strict=True):
        if other.config != first.config:
            raise CheckpointError(
                f"{path} is another encoder than {arguments.weights[0]}: only weights of one "
                "configuration have a mean (`skyfix-train turn` changes the number of views)"
            )
    tensors = {
        # Batch norm's counters have no mean: keep the first checkpoint's.
        name: torch.stack([other.tensors[name].double() for other in checkpoints])
        .mean(0)
        .to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.tensors.items()
    }
    fingerprints = [checkpoint.fingerprint for checkpoint in checkpoints]
    provenance = {**_without_calibration(first), "mean_of": fingerprints}
    Checkpoint(first.config, tensors, provenance).save(arguments.out)
    print(arguments.out)


def _without_calibration(checkpoint: Checkpoint) -> dict[str, Any]:
    """The provenance for weights that give other distances, to which no calibration applies."""
    return {name: value for name, value in checkpoint.provenance.items() if name != "calibration"}
