"""skyfix-train: make towns, train weights, measure them."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.encoder import Encoder
from model.errors import SkyfixError
from training import datasets, recipes
from training.loop import train
from training.pairs import Arrays, Pair, read_arrays
from training.progress import bar
from training.protocols import evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        arguments.run(arguments)
    except (SkyfixError, OSError) as error:  # OSError: a folder that cannot be written, a full disk
        print(f"skyfix-train: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skyfix-train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    synth = commands.add_parser("synth", help="make procedural towns")
    synth.add_argument("out", type=Path, help="folder; several seeds get a folder each inside it")
    synth.add_argument(
        "--seed", type=_seeds, default=[0], help="a seed, or a range such as 100-139"
    )
    synth.add_argument("--panoramas", type=int, default=500)
    synth.add_argument("--size-m", type=float, default=800.0, help="side of the town")
    synth.add_argument("--width", type=int, default=1024, help="of a panorama in pixels")
    synth.add_argument("--spacing-m", type=float, default=10.0, help="between panoramas, at least")
    synth.add_argument("--workers", type=int, default=2)
    synth.set_defaults(run=_synth)

    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--dataset", choices=sorted(datasets.DATASETS), default="town")
    data.add_argument("--device", choices=("cpu", "cuda"), default="cpu")

    training = commands.add_parser("train", parents=[data], help="train a recipe")
    training.add_argument("recipe", help=", ".join(recipes.RECIPES))
    training.add_argument("root", type=Path, help="the dataset's folder")
    training.add_argument("--out", type=Path, required=True, help="folder for weights and log")
    training.add_argument("--split", help='"train" by default, "all" for towns')
    training.add_argument("--validation", type=Path, help="a dataset folder measured every epoch")
    training.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    training.add_argument("--seed", type=int, default=0)
    training.set_defaults(run=_train)

    measure = commands.add_parser("evaluate", parents=[data], help="measure a checkpoint")
    measure.add_argument("root", type=Path, nargs="+", help="dataset folders, averaged")
    measure.add_argument("--weights", type=Path, required=True)
    measure.add_argument("--split", help='"val" by default, "all" for towns')
    measure.add_argument("--stride-m", type=float, help="also judge on a grid of tiles, in metres")
    measure.add_argument("--json", action="store_true", help="one JSON document on standard output")
    measure.set_defaults(run=_evaluate)
    return parser


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _synth(arguments: argparse.Namespace) -> None:
    # The renderer compiles on import; the other commands must not wait for it.
    from training.town import TownSpec, write_town

    if len(arguments.seed) > 1:
        arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seed:
        folder = arguments.out / f"{seed}" if len(arguments.seed) > 1 else arguments.out
        write_town(
            folder,
            TownSpec(seed=seed, size_m=arguments.size_m),
            arguments.panoramas,
            pano_size=(arguments.width // 2, arguments.width),
            workers=arguments.workers,
            min_spacing_m=arguments.spacing_m,
        )


def _train(arguments: argparse.Namespace) -> None:
    recipe = recipes.find(arguments.recipe, arguments.set)
    print(json.dumps(recipes.describe(recipe), indent=1), file=sys.stderr)
    split = arguments.split or ("all" if arguments.dataset == "town" else "train")
    pairs = datasets.load(arguments.dataset, arguments.root, split)
    arrays = _read(pairs, recipe, recipe.offset_m)
    validation = None
    if arguments.validation:
        held_out = datasets.load(arguments.dataset, arguments.validation, split)
        validation = _read(held_out, recipe, 0.0)
    provenance = {
        "data": f"{arguments.dataset}, {len(pairs)} pairs",
        "seed": arguments.seed,
        "started": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    checkpoint = train(
        recipe,
        arrays,
        arguments.out,
        validation=validation,
        seed=arguments.seed,
        device=arguments.device,
        provenance=provenance,
    )
    print(checkpoint)


def _read(pairs: Sequence[Pair], recipe: recipes.Recipe, offset_m: float) -> Arrays:
    with bar("reading pairs", len(pairs)) as advance:
        return read_arrays(pairs, recipe.encoder, offset_m, advance=advance)


def _evaluate(arguments: argparse.Namespace) -> None:
    encoder = Encoder.load(arguments.weights, arguments.device)
    split = arguments.split or ("all" if arguments.dataset == "town" else "val")
    reports = []
    for root in arguments.root:
        pairs = datasets.load(arguments.dataset, root, split)
        reports.append(evaluate(encoder, pairs, stride_m=arguments.stride_m))
    document = {
        "encoder": encoder.fingerprint,
        "dataset": arguments.dataset,
        "mean": _mean(reports),
        "each": dict(zip(map(str, arguments.root), reports, strict=True)),
    }
    if arguments.json:
        print(json.dumps(document, indent=1))
        return
    for protocol, figures in document["mean"].items():
        line = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{protocol:8} {line}")


def _mean(reports: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    return {
        protocol: {
            name: float(np.mean([report[protocol][name] for report in reports]))
            for name in reports[0][protocol]
        }
        for protocol in reports[0]
    }


if __name__ == "__main__":
    sys.exit(main())
