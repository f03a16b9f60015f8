"""The commands that make and check datasets: synth, doctor, export-tiles."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.cli import options
from training.cli.options import Commands
from training.data import datasets
from training.data.doctor import examine, report_lines, write_picture
from training.data.export import export_tiles
from training.data.pairs import PairError


def add_synth(commands: Commands) -> None:
    """Add `synth`."""
    command = commands.add_parser("synth", help="make procedural towns")
    add = command.add_argument
    add("out", type=Path, help="folder to make; several seeds get a folder each inside it")
    add("--seed", type=options.seeds, default=[0], help="a seed, or a range such as 100-139 (0)")
    add("--panoramas", type=options.count, default=500, help="panoramas of each town (500)")
    add("--size-m", type=float, default=800.0, help="side of each town in metres (800)")
    add("--width", type=int, default=1024, help="width of a panorama in pixels (1024)")
    add("--spacing-m", type=float, default=10.0, help="least distance of panoramas in metres (10)")
    add("--varied", action="store_true", help="vary climates, materials and cameras widely")
    add("--workers", type=options.count, default=2, help="drawing threads (2)")
    _add_drives(command)
    command.set_defaults(run=_synth)


def _add_drives(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--drives", type=options.count, help="drives of each town, a folder of frames each (none)")
    add("--frames", type=options.count, default=40, help="frames of a drive (40)")
    step = command.add_mutually_exclusive_group().add_argument
    step("--step-m", type=float, default=12.0, help="metres between a drive's frames (12)")
    step("--step-s", type=float, help="seconds between a drive's frames; they stay where it stops")
    help_text = "horizontal field of view of a drive's frames in degrees (360)"
    add("--fov-deg", type=float, default=360.0, help=help_text)
    kinds = ("equirectangular", "rectilinear")
    help_text = "projection of a drive's frames (equirectangular)"
    add("--projection", choices=kinds, default=kinds[0], help=help_text)
    help_text = "degrees from a drive's direction to its camera's heading (random for each drive)"
    add("--mount-deg", type=float, help=help_text)
    add("--no-heading", action="store_true", help="leave the heading out of a drive's frames")


def add_doctor(commands: Commands) -> None:
    """Add `doctor`."""
    command = commands.add_parser(
        "doctor",
        help="report what a dataset's folder holds and lacks",
        epilog="The exit code is 1 if something is wrong. Absent images are not an error.",
    )
    _add_dataset(command)
    command.add_argument(
        "--picture", type=Path, help="image file to write: a pair's street, projection and aerial"
    )
    command.set_defaults(run=_doctor)


def add_export_tiles(commands: Commands) -> None:
    """Add `export-tiles`."""
    command = commands.add_parser(
        "export-tiles", help="write a dataset's tiles as a folder for `skyfix ingest`"
    )
    _add_dataset(command)
    add = command.add_argument
    add("out", type=Path, help="folder to make")
    add("--split", default="all", help="split whose gallery is exported (all)")
    command.set_defaults(run=_export_tiles)


def _add_dataset(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("dataset", choices=sorted(datasets.DATASETS))
    add("root", type=Path, help="the dataset's folder")


def _synth(arguments: argparse.Namespace) -> None:
    # The renderer compiles on import; the other commands must not wait for it.
    from training.town import Camera, DrivePlan, TownSpec, write_town

    given, drives = arguments, None
    if given.drives:
        camera = Camera(given.fov_deg, given.projection, not given.no_heading)
        step = given.step_m, given.step_s
        drives = DrivePlan(given.drives, given.frames, *step, given.mount_deg, camera)
    for seed, folder in options.seed_folders(arguments.out, arguments.seed):
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_town(
            folder,
            TownSpec(seed=seed, size_m=arguments.size_m, varied=arguments.varied),
            arguments.panoramas,
            pano_size=(arguments.width // 2, arguments.width),
            workers=arguments.workers,
            min_spacing_m=arguments.spacing_m,
            drives=drives,
        )


def _doctor(arguments: argparse.Namespace) -> None:
    findings = examine(arguments.dataset, arguments.root)
    for line in report_lines(findings):
        print(line)
    if not findings.usable:
        raise PairError(f"no pair of {arguments.dataset} at {arguments.root} can be read")
    if arguments.picture:
        pair = findings.sample.sound[0]
        write_picture(pair, arguments.picture)
        print(f"picture of {pair.id}: {arguments.picture}")
    if findings.trouble:
        raise PairError(f"{arguments.dataset} at {arguments.root}: {findings.trouble}")


def _export_tiles(arguments: argparse.Namespace) -> None:
    count = export_tiles(arguments.dataset, arguments.root, arguments.split, arguments.out)
    print(f"{count} tiles in {arguments.out}")
