"""The command that trains a recipe: train."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from model.checkpoint import Checkpoint
from training import distributed, recipes
from training.cli import options
from training.cli.options import Commands
from training.data import datasets
from training.data.arrays import SKIP_SHARE, read_arrays
from training.data.pairs import Pair
from training.run.loop import train
from training.run.start import check
from training.run.tensorboard_log import tensorboard_log

log = logging.getLogger(__name__)


def add_train(commands: Commands, dataset: argparse.ArgumentParser) -> None:
    """Add `train`; `dataset` holds the options that name a dataset and a device."""
    command = commands.add_parser("train", parents=[dataset], help="train a recipe")
    add = command.add_argument
    add("recipe", help=", ".join(recipes.RECIPES))
    add("root", type=Path, help="the dataset's folder")
    add(
        "--out",
        type=Path,
        required=True,
        help="folder of the run; several seeds get a folder each inside it",
    )
    add("--validation", type=Path, help="dataset folder to measure every epoch")
    options.add_training_options(command, recipes="the recipe")
    add("--seed", type=options.seeds, default=[0], help="a seed, or a range such as 0-2 (0)")
    add(
        "--workers",
        type=options.count,
        default=2,
        help="threads that read pairs, and augment them if the images are not on a GPU (2)",
    )
    add("--init", type=Path, help="a checkpoint to start from")
    add("--tensorboard", action="store_true", help="write TensorBoard events into the run's folder")
    command.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    with distributed.process_group(arguments.device) as device:
        _train_on(device, arguments)


def _train_on(device: str, arguments: argparse.Namespace) -> None:
    recipe = recipes.find(arguments.recipe, arguments.set)
    print(json.dumps(recipe.as_dict(), indent=1), file=sys.stderr)
    pairs, held_out = _load(arguments)
    if device == "cpu":
        _warn_of_slow_precision(recipe.precision)
    init = Checkpoint.load(arguments.init) if arguments.init else None
    check(recipe, len(pairs), init)
    folders = options.seed_folders(arguments.out, arguments.seed)
    read = partial(read_arrays, workers=arguments.workers, cache=arguments.cache or arguments.out)
    arrays = read(pairs, recipe.encoder, recipe.offset_m, skip_share=SKIP_SHARE)
    validation = read(held_out, recipe.encoder, 0.0) if held_out else None
    provenance = {
        "init": None if init is None else init.fingerprint,
        "data": f"{arguments.dataset}, {len(arrays)} pairs",
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    for seed, out in folders:
        with tensorboard_log(out, wanted=arguments.tensorboard) as on_epoch:
            checkpoint = train(
                recipe,
                arrays,
                out,
                validation=validation,
                seed=seed,
                device=device,
                provenance=provenance | {"seed": seed, "started": time.strftime("%Y-%m-%d")},
                workers=arguments.workers,
                init=init,
                on_epoch=on_epoch,
            )
        if distributed.is_first():
            print(checkpoint)


def _load(arguments: argparse.Namespace) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """The pairs to train on, and those to measure with (empty without --validation)."""
    split, other = datasets.default_splits(arguments.dataset, arguments.split)
    pairs = datasets.load(arguments.dataset, arguments.root, split)
    if not arguments.validation:
        return pairs, ()
    held_out = datasets.load(
        arguments.dataset, arguments.validation, arguments.validation_split or other
    )
    datasets.warn_of_overlap(pairs, held_out)
    return pairs, held_out


def _warn_of_slow_precision(precision: str) -> None:
    if precision == "bf16" and not torch.cpu.get_capabilities().get("amx_bf16"):
        log.warning("this processor has no AMX: --set precision=fp32 is likely faster")
    if precision == "fp16":
        log.warning("fp16 takes many times as long on a CPU: use --set precision=fp32")
