"""The commands that reproduce the paper's tables and figures: ablate, figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from training.cli import options
from training.cli.options import Commands
from training.data import datasets
from training.data.arrays import SKIP_SHARE, read_arrays
from training.evaluate.encoded_pairs import encode_pairs
from training.studies import ablation, ablation_table, figures, misses


def add_ablate(commands: Commands, dataset: argparse.ArgumentParser) -> None:
    """Add `ablate`; `dataset` holds the options that name a dataset and a device."""
    command = commands.add_parser(
        "ablate", parents=[dataset], help="reproduce table 2 and figure 7 of the paper"
    )
    add = command.add_argument
    add("root", type=Path, help="dataset folder to train on")
    add(
        "--validation",
        type=Path,
        nargs="+",
        required=True,
        help="dataset folders to measure with; results are averaged",
    )
    add("--out", type=Path, required=True, help="folder for runs, table.md, table.json, curve.png")
    add("--seeds", type=options.seeds, default=[0, 1, 2], help="training seeds (0-2)")
    add("--budget-minutes", type=float, help="training time of each run (the recipe's epochs)")
    add("--modern", action="store_true", help="add a row: the method of skyfix-modern")
    options.add_training_options(command, recipes="every row's recipe")
    command.set_defaults(run=_ablate)


def add_figures(commands: Commands, dataset: argparse.ArgumentParser) -> None:
    """Add `figures`; `dataset` holds the options that name a dataset and a device."""
    command = commands.add_parser(
        "figures", parents=[dataset], help="draw figures 6, 8 and 9 of the paper"
    )
    add = command.add_argument
    add("root", type=Path, help="a dataset folder")
    add("--weights", type=Path, required=True, help="the checkpoint")
    add("--out", type=Path, required=True, help="folder for the figures")
    add("--split", help="split to draw (the dataset's held-out split)")
    add("--pairs", type=options.count, default=300, help="most pairs to search and draw (300)")
    add("--rows", type=options.count, default=5, help="rows of figures 6 and 9 (5)")
    add(
        "--missed",
        action="store_true",
        help="count streets that do not find their tile first; figures 6 and 9 show the worst",
    )
    options.add_cache(command)
    command.set_defaults(run=_figures)


def _ablate(arguments: argparse.Namespace) -> None:
    split, other = datasets.default_splits(arguments.dataset, arguments.split)
    other = arguments.validation_split or other
    study = ablation.Study(
        ablation.table_2(arguments.set, modern=arguments.modern),
        arguments.seeds,
        arguments.budget_minutes,
        device=arguments.device,
    )
    validation = {
        str(root): datasets.load(arguments.dataset, root, other) for root in arguments.validation
    }
    pairs = datasets.load(arguments.dataset, arguments.root, split)
    datasets.warn_of_overlap(pairs, [pair for held_out in validation.values() for pair in held_out])
    table = ablation.ablate(study, pairs, validation, arguments.out, arguments.cache)
    markdown = ablation_table.markdown(table)
    (arguments.out / "table.json").write_text(json.dumps(table, indent=1))
    (arguments.out / "table.md").write_text(markdown)
    figures.curves(ablation.histories(study, arguments.out), arguments.out / "curve.png")
    print(markdown, end="")


def _figures(arguments: argparse.Namespace) -> None:
    checkpoint = Checkpoint.load(arguments.weights)
    encoder = Encoder(checkpoint, arguments.device)
    split = arguments.split or datasets.default_splits(arguments.dataset)[1]
    pairs = datasets.load(arguments.dataset, arguments.root, split)[: arguments.pairs]
    figures.check_plane(len(pairs))  # before any figure is written
    cache = arguments.cache or arguments.out
    arrays = read_arrays(pairs, encoder.config, 0.0, skip_share=SKIP_SHARE, cache=cache)
    encoded, out = encode_pairs(encoder, arrays), arguments.out
    rows: Sequence[int] = range(0, len(arrays), max(1, len(arrays) // arguments.rows))
    if arguments.missed:
        missed = misses.missed(encoded)
        print(misses.summary(missed, len(arrays)))
        rows = [miss.row for miss in missed]
    rows = rows[: arguments.rows]
    if rows and encoder.config.network.attention:
        print(figures.attention(checkpoint, arrays, rows, out / "attention.png"))
    print(figures.plane(encoded, out / "descriptors.png"))
    if rows:
        preprocessing = encoder.config.preprocessing
        print(figures.retrieval(encoded, preprocessing, arrays, rows, out / "retrieval.png"))
