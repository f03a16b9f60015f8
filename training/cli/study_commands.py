"""The commands that measure: evaluate, ablate, figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.backend import exact_backends
from model.checkpoint import Checkpoint
from model.encoder import Encoder
from training.cli import options
from training.cli.options import Commands
from training.data import datasets
from training.data.pairs import SKIP_SHARE, Pair, Reference, read_arrays
from training.evaluate import figures, report
from training.evaluate.protocols import PROTOCOLS, Options, Search, describe, evaluate
from training.progress import bar
from training.studies import ablation, misses

Galleries = tuple[Sequence[Pair], Sequence[Reference]]  # queries; tiles of vigor's own gallery


def add(commands: Commands, data: argparse.ArgumentParser) -> None:
    """Add the commands; `data` holds the options that name a data set and a device."""
    _add_evaluate(commands, data)
    _add_ablate(commands, data)
    _add_figures(commands, data)


def _add_evaluate(commands: Commands, data: argparse.ArgumentParser) -> None:
    defaults = Options()
    measure = commands.add_parser("evaluate", parents=[data], help="measure checkpoints")
    measure.add_argument("root", type=Path, nargs="+", help="dataset folders, averaged")
    measure.add_argument("--weights", type=Path, required=True, nargs="+", help="averaged too")
    measure.add_argument("--split", help="what the dataset holds out by default")
    measure.add_argument(
        "--protocol",
        type=lambda text: text.split(","),
        help=f"one or more of {','.join(PROTOCOLS)}; centre by default",
    )
    measure.add_argument(
        "--stride-m", type=float, help="between tiles of grid and hard (16); alone: adds grid"
    )
    measure.add_argument("--rolls", type=int, default=defaults.rolls, help="headings tried")
    measure.add_argument(
        "--fov",
        type=options.angles,
        default=defaults.fov_deg,
        help="angles seen, such as 70,90,180",
    )
    measure.add_argument("--near-m", type=float, default=defaults.near_m, help="of near, metres")
    measure.add_argument("--seed", type=int, default=defaults.seed, help="of what fov leaves")
    form = measure.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document on standard output")
    form.add_argument("--markdown", action="store_true", help="a table on standard output")
    measure.set_defaults(run=_evaluate)


def _add_ablate(commands: Commands, data: argparse.ArgumentParser) -> None:
    study = commands.add_parser("ablate", parents=[data], help="table 2 and figure 7 of the paper")
    study.add_argument("root", type=Path, help="the training data")
    study.add_argument("--validation", type=Path, nargs="+", required=True, help="averaged")
    study.add_argument("--out", type=Path, required=True, help="runs, table.md, table.json, curve")
    study.add_argument("--seeds", type=options.seeds, default=[0, 1, 2], help="such as 0-2")
    study.add_argument(
        "--budget-minutes", type=float, help="of training for each run; else the recipe's epochs"
    )
    options.add_overrides(study, "every row's")
    study.add_argument(
        "--modern", action="store_true", help="a further row: skyfix-modern's method"
    )
    study.add_argument("--split", help="to train on; the dataset's own by default")
    study.add_argument("--validation-split", help="what is held out of --split by default")
    options.add_cache(study)
    study.set_defaults(run=_ablate)


def _add_figures(commands: Commands, data: argparse.ArgumentParser) -> None:
    draw = commands.add_parser("figures", parents=[data], help="figures 6, 8 and 9 of the paper")
    draw.add_argument("root", type=Path, help="a dataset folder")
    draw.add_argument("--weights", type=Path, required=True, help="the checkpoint")
    draw.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    draw.add_argument("--split", help="what the dataset holds out by default")
    draw.add_argument(
        "--pairs", type=options.count, default=300, help="that are searched and drawn, at most"
    )
    draw.add_argument("--rows", type=options.count, default=5, help="of figures 6 and 9")
    draw.add_argument(
        "--missed",
        action="store_true",
        help="count what is not found first; of figures 6 and 9 what lost by most",
    )
    options.add_cache(draw)
    draw.set_defaults(run=_figures)


def _evaluate(arguments: argparse.Namespace) -> None:
    stride_m = Options().stride_m if arguments.stride_m is None else arguments.stride_m
    chosen = Options(
        stride_m, arguments.rolls, arguments.fov, arguments.near_m, seed=arguments.seed
    )
    protocols = arguments.protocol or ["centre", *["grid"] * (arguments.stride_m is not None)]
    words = {name: describe(name, chosen) for name in protocols}
    # All that can be wrong with what was given comes before the first measurement.
    encoders = [Encoder.load(path, arguments.device) for path in arguments.weights]
    places = {str(root): _galleries(root, protocols, arguments) for root in arguments.root}
    each = [
        {"weights": str(path), **_measured(encoder, places, protocols, chosen)}
        for path, encoder in zip(arguments.weights, encoders, strict=True)
    ]
    document = {
        "dataset": arguments.dataset,
        "split": _split(arguments),
        "queries": each[0]["queries"],
        "options": asdict(chosen),
        "protocols": words,
    }
    if len(each) == 1:
        document |= each[0]
    else:
        means = [one["mean"] for one in each]
        document |= {"mean": report.mean(means), "deviation": report.deviation(means)}
        document["checkpoints"] = each
    if arguments.json:
        print(json.dumps(document, indent=1))
    elif arguments.markdown:
        print(report.markdown(document), end="")
    else:
        print("\n".join(report.lines(document)))


def _split(arguments: argparse.Namespace) -> str:
    split: str = arguments.split or datasets.default_splits(arguments.dataset)[1]
    return split


def _galleries(root: Path, protocols: Sequence[str], arguments: argparse.Namespace) -> Galleries:
    pairs = datasets.load(arguments.dataset, root, _split(arguments))
    if "vigor" not in protocols:
        return pairs, ()
    return pairs, datasets.load_references(arguments.dataset, root, _split(arguments))


def _measured(
    encoder: Encoder, places: Mapping[str, Galleries], protocols: Sequence[str], chosen: Options
) -> dict[str, Any]:
    """One checkpoint on every root."""
    encoder.accelerate(exact_backends(encoder.device))
    reports = {
        root: evaluate(encoder, pairs, protocols, references=references, options=chosen)
        for root, (pairs, references) in places.items()
    }
    return {
        "encoder": encoder.fingerprint,
        "mean": report.mean(list(reports.values())),
        "each": reports,
        "queries": {root: len(pairs) for root, (pairs, _) in places.items()},
    }


def _ablate(arguments: argparse.Namespace) -> None:
    train, held_out = datasets.default_splits(arguments.dataset, arguments.split)
    held_out = arguments.validation_split or held_out
    study = ablation.Study(
        ablation.table_2(arguments.set, modern=arguments.modern),
        arguments.seeds,
        arguments.budget_minutes,
        device=arguments.device,
    )
    validation = {
        str(root): datasets.load(arguments.dataset, root, held_out) for root in arguments.validation
    }
    pairs = datasets.load(arguments.dataset, arguments.root, train)
    datasets.warn_of_overlap(pairs, [pair for one in validation.values() for pair in one])
    table = ablation.ablate(study, pairs, validation, arguments.out, arguments.cache)
    (arguments.out / "table.json").write_text(json.dumps(table, indent=1))
    (arguments.out / "table.md").write_text(ablation.markdown(table))
    figures.curves(ablation.histories(study, arguments.out), arguments.out / "curve.png")
    print(ablation.markdown(table), end="")


def _figures(arguments: argparse.Namespace) -> None:
    checkpoint = Checkpoint.load(arguments.weights)
    encoder = Encoder(checkpoint, arguments.device)
    pairs = datasets.load(arguments.dataset, arguments.root, _split(arguments))
    pairs = pairs[: arguments.pairs]
    figures.check_plane(len(pairs))  # before any picture is written
    with bar("reading pairs", len(pairs)) as advance:
        arrays = read_arrays(
            pairs,
            encoder.config,
            0.0,
            advance=advance,
            skip_share=SKIP_SHARE,
            cache=arguments.cache or arguments.out,
        )
    search, out = Search.of(encoder, arrays), arguments.out
    rows: Sequence[int] = range(0, len(arrays), max(1, len(arrays) // arguments.rows))
    if arguments.missed:
        lost = misses.missed(search)
        print(misses.told(lost, len(arrays)))
        rows = [miss.row for miss in lost]
    rows = rows[: arguments.rows]
    if rows and encoder.config.network.attention:
        print(figures.attention(checkpoint, arrays, rows, out / "attention.png"))
    print(figures.plane(search, out / "descriptors.png"))
    if rows:
        preprocessing = encoder.config.preprocessing
        print(figures.retrieval(search, preprocessing, arrays, rows, out / "retrieval.png"))
