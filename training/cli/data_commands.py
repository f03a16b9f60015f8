"""The commands that look after datasets: doctor, export-tiles."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.cli.options import Commands
from training.data import datasets
from training.data.doctor import describe, examine, write_picture
from training.data.export import export_tiles
from training.data.pairs import PairError


def add(commands: Commands) -> None:
    """Add the commands."""
    names = sorted(datasets.DATASETS)
    doctor = commands.add_parser(
        "doctor",
        help="say what a dataset's folder holds and lacks",
        epilog="The exit code is 1 where something is wrong; that images are absent is not.",
    )
    doctor.add_argument("dataset", choices=names)
    doctor.add_argument("root", type=Path, help="the dataset's folder")
    doctor.add_argument("--picture", type=Path, help="write a pair here: street, projected, aerial")
    doctor.set_defaults(run=_doctor)

    export = commands.add_parser("export-tiles", help="write a folder that `skyfix ingest` takes")
    export.add_argument("dataset", choices=names)
    export.add_argument("root", type=Path, help="the dataset's folder")
    export.add_argument("out", type=Path, help="folder to make")
    export.add_argument("--split", default="all", help="whose gallery; all by default")
    export.set_defaults(run=_export)


def _doctor(arguments: argparse.Namespace) -> None:
    findings = examine(arguments.dataset, arguments.root)
    for line in describe(findings):
        print(line)
    if not findings.usable:
        raise PairError(f"nothing of {arguments.dataset} at {arguments.root} is usable")
    if arguments.picture:
        write_picture(findings.sample.sound[0], arguments.picture)
        print(f"picture of {findings.sample.sound[0].id}: {arguments.picture}")
    if findings.trouble:
        raise PairError(f"{arguments.dataset} at {arguments.root}: {findings.trouble}")


def _export(arguments: argparse.Namespace) -> None:
    count = export_tiles(arguments.dataset, arguments.root, arguments.split, arguments.out)
    print(f"{count} tiles in {arguments.out}")
