"""skyfix-train: make towns, train weights, measure them."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import logging
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import TURNS, Checkpoint, CheckpointError
from model.device import choose_device
from model.errors import SkyfixError
from model.freed_memory import keep_freed_memory
from training import distributed as processes
from training import recipes
from training.cli import data_commands, options, study_commands
from training.cli.options import Commands
from training.data import datasets
from training.data.pairs import SKIP_SHARE, Arrays, Pair, read_arrays
from training.progress import bar
from training.run.loop import check, train
from training.run.tensorboard_log import events

SEVERAL = "folder; several seeds get a folder each inside it"

log = logging.getLogger(__name__)


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
        if not _is_of_memory(error):
            raise
        said = str(error).partition("\n")[0]
        print(f"skyfix-train: {said}: choose a smaller batch or network", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("skyfix-train: stopped; a training run goes on by the same command", file=sys.stderr)
        return 130
    return 0


def _is_of_memory(error: Exception) -> bool:
    """Torch has a class of its own for a GPU's alone."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def command_parser() -> argparse.ArgumentParser:
    """All commands and their options; the documentation lists them from here."""
    parser = argparse.ArgumentParser(prog="skyfix-train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    data = options.of_data()
    _add_synth(commands)
    _add_train(commands, data)
    _add_turn(commands)
    _add_mean(commands)
    study_commands.add(commands, data)
    data_commands.add(commands)
    return parser


def _add_synth(commands: Commands) -> None:
    synth = commands.add_parser("synth", help="make procedural towns")
    synth.add_argument("out", type=Path, help=SEVERAL)
    synth.add_argument(
        "--seed", type=options.seeds, default=[0], help="a seed, or a range such as 100-139"
    )
    synth.add_argument("--panoramas", type=options.count, default=500, help="of each town (500)")
    synth.add_argument("--size-m", type=float, default=800.0, help="side of the town")
    synth.add_argument("--width", type=int, default=1024, help="of a panorama in pixels")
    synth.add_argument("--spacing-m", type=float, default=10.0, help="between panoramas, at least")
    synth.add_argument(
        "--varied", action="store_true", help="climates, materials and cameras far apart"
    )
    synth.add_argument("--workers", type=options.count, default=2, help="threads that draw (2)")
    synth.set_defaults(run=_synth)


def _add_train(commands: Commands, data: argparse.ArgumentParser) -> None:
    training = commands.add_parser("train", parents=[data], help="train a recipe")
    training.add_argument("recipe", help=", ".join(recipes.RECIPES))
    training.add_argument("root", type=Path, help="the dataset's folder")
    training.add_argument("--out", type=Path, required=True, help=SEVERAL)
    training.add_argument("--split", help="to train on; the dataset's own by default")
    training.add_argument("--validation", type=Path, help="a dataset folder measured every epoch")
    training.add_argument("--validation-split", help="what is held out of --split by default")
    options.add_cache(training)
    options.add_overrides(training, "the")
    training.add_argument(
        "--seed", type=options.seeds, default=[0], help="a seed, or a range such as 0-2"
    )
    training.add_argument(
        "--workers",
        type=options.count,
        default=2,
        help="threads that read, and augment where the pictures are not on a GPU",
    )
    training.add_argument("--init", type=Path, help="a checkpoint to begin with")
    training.add_argument("--tensorboard", action="store_true", help="events beside the log")
    training.set_defaults(run=_train)


def _add_turn(commands: Commands) -> None:
    turning = commands.add_parser("turn", help="have weights describe several turned views")
    turning.add_argument("weights", type=Path, help="the checkpoint to begin with")
    turning.add_argument("--turns", type=int, default=4, choices=TURNS, help="views of each (4)")
    turning.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    turning.set_defaults(run=_turn)


def _add_mean(commands: Commands) -> None:
    meaning = commands.add_parser("mean", help="average the weights of runs with one beginning")
    meaning.add_argument("weights", type=Path, nargs="+", help="the checkpoints")
    meaning.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    meaning.set_defaults(run=_mean)


def _synth(arguments: argparse.Namespace) -> None:
    # The renderer compiles on import; the other commands must not wait for it.
    from training.town import TownSpec, write_town

    for seed, folder in _folders(arguments):
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_town(
            folder,
            TownSpec(seed=seed, size_m=arguments.size_m, varied=arguments.varied),
            arguments.panoramas,
            pano_size=(arguments.width // 2, arguments.width),
            workers=arguments.workers,
            min_spacing_m=arguments.spacing_m,
        )


def _folders(arguments: argparse.Namespace) -> list[tuple[int, Path]]:
    """Where the results of each seed go. Raises NotADirectoryError: a file is there."""
    several = len(arguments.seed) > 1
    outs = [arguments.out / f"{one}" if several else arguments.out for one in arguments.seed]
    for out in outs:
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "--out is a file", str(out))
    return list(zip(arguments.seed, outs, strict=True))


def _train(arguments: argparse.Namespace) -> None:
    with processes.joined(arguments.device) as device:
        _train_on(device, arguments)


def _train_on(device: str, arguments: argparse.Namespace) -> None:
    recipe = recipes.find(arguments.recipe, arguments.set)
    print(json.dumps(recipes.describe(recipe), indent=1), file=sys.stderr)
    split, other = datasets.default_splits(arguments.dataset, arguments.split)
    pairs = datasets.load(arguments.dataset, arguments.root, split)
    held_out: Sequence[Pair] = ()
    if arguments.validation:
        other = arguments.validation_split or other
        held_out = datasets.load(arguments.dataset, arguments.validation, other)
        datasets.warn_of_overlap(pairs, held_out)
    if device == "cpu":
        _tell_of_slow(recipe.precision)
    init = Checkpoint.load(arguments.init) if arguments.init else None
    check(recipe, len(pairs), init)
    folders = _folders(arguments)
    arrays = _read(pairs, recipe, recipe.offset_m, arguments, SKIP_SHARE)
    validation = _read(held_out, recipe, 0.0, arguments) if held_out else None
    provenance = {
        "init": None if init is None else init.fingerprint,
        "data": f"{arguments.dataset}, {len(arrays)} pairs",
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    for seed, out in folders:
        with events(out, wanted=arguments.tensorboard) as on_epoch:
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
        if processes.is_first():
            print(checkpoint)


def _tell_of_slow(precision: str) -> None:
    if precision == "bf16" and not torch.cpu.get_capabilities().get("amx_bf16"):
        log.warning("this processor has no AMX: --set precision=fp32 is likely faster on it")
    if precision == "fp16":
        log.warning("fp16 takes many times as long on a processor: use --set precision=fp32")


def _turn(arguments: argparse.Namespace) -> None:
    """See `EncoderConfig.turns`. Distances change, so a calibration is left behind."""
    before = Checkpoint.load(arguments.weights)
    Checkpoint(
        dataclasses.replace(before.config, turns=arguments.turns),
        before.tensors,
        {**_uncalibrated(before), "turned_from": before.fingerprint},
    ).save(arguments.out)
    print(arguments.out)


def _mean(arguments: argparse.Namespace) -> None:
    """Fine-tuned weights averaged with those they came from keep what both can (Wortsman et al.
    2022, "Robust fine-tuning" and "Model soups"). Their calibrations are left behind."""
    each = [Checkpoint.load(path) for path in arguments.weights]
    first = each[0]
    for path, other in zip(arguments.weights, each, strict=True):
        if other.config != first.config:
            raise CheckpointError(
                f"{path} is another encoder than {arguments.weights[0]}: only weights of one "
                "configuration have a mean (`skyfix-train turn` changes how many views there are)"
            )
    tensors = {
        # What batch norm counts has no mean (its statistics' mean is not that of the mean's maps).
        name: torch.stack([other.tensors[name].double() for other in each]).mean(0).to(one.dtype)
        if one.is_floating_point()
        else one
        for name, one in first.tensors.items()
    }
    provenance = {**_uncalibrated(first), "mean_of": [one.fingerprint for one in each]}
    Checkpoint(first.config, tensors, provenance).save(arguments.out)
    print(arguments.out)


def _uncalibrated(checkpoint: Checkpoint) -> dict[str, Any]:
    """Its provenance for weights whose distances are others."""
    return {name: one for name, one in checkpoint.provenance.items() if name != "calibration"}


def _read(
    pairs: Sequence[Pair],
    recipe: recipes.Recipe,
    offset_m: float,
    arguments: argparse.Namespace,
    skip_share: float = 0.0,
) -> Arrays:
    with bar("reading pairs", len(pairs)) as advance:
        return read_arrays(
            pairs,
            recipe.encoder,
            offset_m,
            workers=arguments.workers,
            advance=advance,
            skip_share=skip_share,
            cache=arguments.cache or arguments.out,
        )
