"""The command that makes weights for a region: adapt."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path

from training.adapt.adaptation import Request, adapt
from training.cli import options
from training.cli.options import Commands

SHIPPED = "skyfix-modern.safetensors"


def add_adapt(commands: Commands) -> None:
    """Add `adapt`."""
    command = commands.add_parser(
        "adapt", help="make weights for a region from its imagery and photographs"
    )
    add = command.add_argument
    add("aerial", type=Path, nargs="+", help="georeferenced imagery of the region")
    help_text = "folder of street images with a poses.csv, or with positions in their EXIF"
    add("--photographs", type=Path, required=True, metavar="FOLDER", help=help_text)
    help_text = "folder of the result; the same command resumes a killed run"
    add("--out", type=Path, required=True, metavar="RUN", help=help_text)
    add("--weights", type=Path, help="the checkpoint to start from (the shipped skyfix-modern)")
    add("--minutes", type=options.minutes, default=60.0, help="most minutes of training (60)")
    help_text = "change a field of the recipe; repeatable"
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help=help_text)
    help_text = "seed of the split, of the training and of the interval (0)"
    add("--seed", type=int, default=0, help=help_text)
    options.add_device(command)
    command.set_defaults(run=_adapt)


def _adapt(arguments: argparse.Namespace) -> None:
    request = Request(
        arguments.aerial,
        arguments.photographs,
        arguments.out,
        arguments.weights or _shipped(),
        arguments.minutes,
        arguments.set,
        arguments.seed,
        arguments.device,
    )
    made = adapt(request)
    print("\n".join(made.comparison.lines(request.seed)))
    calibration = f" --validation {made.held_out}" if made.calibrates else ""
    print(f"\nskyfix build --weights {made.weights}{calibration}")
    print(f"skyfix serve --weights {made.weights}")


def _shipped() -> Path:
    return Path(str(resources.files("model") / "weights" / SHIPPED))
