"""skyfix-train: make towns, train weights, measure them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import torch

from model.device import choose_device
from model.errors import SkyfixError
from model.freed_memory import keep_freed_memory
from training.cli import adapt, data, evaluate, options, studies, train, weights_commands


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = command_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # it logs what it also raises
    keep_freed_memory()
    try:
        if "device" in arguments:
            arguments.device = choose_device(arguments.device, "--device cuda")
        arguments.run(arguments)
    except (SkyfixError, OSError) as error:  # OSError: a folder that cannot be written, a full disk
        print(f"skyfix-train: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]
        print(f"skyfix-train: {first_line}: choose a smaller batch or network", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("skyfix-train: stopped; the same command resumes a training run", file=sys.stderr)
        return 130
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """Torch has an error class for GPU memory only; for main memory it raises RuntimeError."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def command_parser() -> argparse.ArgumentParser:
    """All commands and their options; the documentation lists them from here."""
    parser = argparse.ArgumentParser(prog="skyfix-train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    dataset = options.dataset_options()
    data.add_synth(commands)
    train.add_train(commands, dataset)
    adapt.add_adapt(commands)
    weights_commands.add_turn(commands)
    weights_commands.add_mean(commands)
    evaluate.add_evaluate(commands, dataset)
    studies.add_ablate(commands, dataset)
    studies.add_figures(commands, dataset)
    data.add_doctor(commands)
    data.add_export_tiles(commands)
    return parser
