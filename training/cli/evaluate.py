"""The command that measures checkpoints: evaluate."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.backend import exact_backends
from model.encoder import Encoder
from training.cli import options
from training.cli.options import Commands
from training.data import datasets
from training.data.pairs import GalleryTile, Pair
from training.evaluate import report
from training.evaluate.protocols import PROTOCOLS, Options, description, evaluate

Queries = tuple[Sequence[Pair], Sequence[GalleryTile]]  # pairs; tiles of vigor's own gallery


def add_evaluate(commands: Commands, dataset: argparse.ArgumentParser) -> None:
    """Add `evaluate`; `dataset` holds the options that name a dataset and a device."""
    defaults = Options()
    command = commands.add_parser("evaluate", parents=[dataset], help="measure checkpoints")
    add = command.add_argument
    add("root", type=Path, nargs="+", help="dataset folders; results are averaged")
    add("--weights", type=Path, required=True, nargs="+", help="checkpoints; results are averaged")
    add("--split", help="split to measure with (the dataset's held-out split)")
    add(
        "--protocol",
        type=lambda text: text.split(","),
        help=f"protocols, separated by commas: {','.join(PROTOCOLS)} (centre)",
    )
    help_text = "metres between tiles of grid and hard (16); without --protocol: also runs grid"
    add("--stride-m", type=float, help=help_text)
    add("--rolls", type=int, default=defaults.rolls, help="headings tried by rolls and hard (36)")
    help_text = "for fov: visible degrees of the panorama, such as 70,90,180"
    add("--fov", type=options.angles, default=defaults.fov_deg, help=help_text)
    help_text = "for near: tiles within so many metres are right (5)"
    add("--near-m", type=float, default=defaults.near_m, help=help_text)
    add("--seed", type=int, default=defaults.seed, help="random seed for fov's visible arc (0)")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--markdown", action="store_true", help="print a table")
    command.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    chosen = Options(
        Options().stride_m if arguments.stride_m is None else arguments.stride_m,
        arguments.rolls,
        arguments.fov,
        arguments.near_m,
        seed=arguments.seed,
    )
    protocols = arguments.protocol or ["centre", *["grid"] * (arguments.stride_m is not None)]
    # Everything that can be wrong with the arguments is checked before the first measurement.
    descriptions = {name: description(name, chosen) for name in protocols}
    encoders = [Encoder.load(path, arguments.device) for path in arguments.weights]
    split = arguments.split or datasets.default_splits(arguments.dataset)[1]
    queries = {
        str(root): _load(arguments.dataset, root, split, with_gallery="vigor" in protocols)
        for root in arguments.root
    }
    checkpoints = [
        {"weights": str(path), **_measure(encoder, queries, protocols, chosen)}
        for path, encoder in zip(arguments.weights, encoders, strict=True)
    ]
    document = {
        "dataset": arguments.dataset,
        "split": split,
        "queries": checkpoints[0]["queries"],
        "options": asdict(chosen),
        "protocols": descriptions,
    }
    if len(checkpoints) == 1:
        document |= checkpoints[0]
    else:
        means = [checkpoint["mean"] for checkpoint in checkpoints]
        document |= {"mean": report.mean(means), "deviation": report.deviation(means)}
        document["checkpoints"] = checkpoints
    if arguments.json:
        print(json.dumps(document, indent=1))
    elif arguments.markdown:
        print(report.markdown(document), end="")
    else:
        print("\n".join(report.lines(document)))


def _load(dataset: str, root: Path, split: str, *, with_gallery: bool) -> Queries:
    pairs = datasets.load(dataset, root, split)
    return pairs, datasets.load_gallery(dataset, root, split) if with_gallery else ()


def _measure(
    encoder: Encoder, queries: Mapping[str, Queries], protocols: Sequence[str], chosen: Options
) -> dict[str, Any]:
    """Results of one checkpoint on every dataset folder."""
    encoder.accelerate(exact_backends(encoder.device))
    reports = {
        root: evaluate(encoder, pairs, protocols, gallery_tiles=gallery_tiles, options=chosen)
        for root, (pairs, gallery_tiles) in queries.items()
    }
    return {
        "encoder": encoder.fingerprint,
        "mean": report.mean(list(reports.values())),
        "each": reports,
        "queries": {root: len(pairs) for root, (pairs, _) in queries.items()},
    }
