"""Commands that need panoramas with known positions: calibrate, evaluate."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.options import OTHERS, POSES, arg, command, folders
from service.cli.progress import progress_bar
from service.settings import Settings

if TYPE_CHECKING:
    from service.locate.known_drives import DriveReport
    from service.locate.known_panoramas import Report

INSIDE = f"Folder of {POSES} of this region."
ELSEWHERE = (
    f'Folder of {POSES} from elsewhere, to measure "not in this index". Default: search the '
    "region's own panoramas again, without the tiles that show their positions."
)

DRIVES = "FOLDER is a drive, or a folder of drives: locate the frames of each drive together."


@command(
    arg("folder", type=Path, nargs="+", help=INSIDE),
    folders("--other", OTHERS),
    arg("--out", type=Path, required=True, help="Checkpoint to write."),
)
def _calibrate(arguments: argparse.Namespace, settings: Settings) -> None:
    """Calibrate with the live version and write the result into a copy of the checkpoint."""
    from model.checkpoint import Checkpoint
    from service.cli.wiring import open_localizer
    from service.locate.known_panoramas import calibrate

    localizer = open_localizer(settings)
    with progress_bar("calibrating") as progress:
        calibration = calibrate(
            localizer.live.get(), localizer, arguments.folder, arguments.other, progress
        )
    checkpoint = Checkpoint.load(settings.weights)
    provenance = {**checkpoint.provenance, "calibration": calibration.as_dict()}
    dataclasses.replace(checkpoint, provenance=provenance).save(arguments.out)
    print(f"{arguments.out}: calibrated by {calibration.source}")


@command(
    arg("folder", type=Path, help=INSIDE),
    arg("--other", type=Path, metavar="FOLDER", help=ELSEWHERE),
    arg("--heading-unknown", action="store_true", help="Ignore the headings in the panoramas."),
    arg("--drive", action="store_true", help=DRIVES),
    arg("--json", action="store_true", help="Print one JSON document."),
)
def _evaluate(arguments: argparse.Namespace, settings: Settings) -> None:
    """Locate panoramas with the live version and measure the errors and the confidence."""
    from service.cli.wiring import open_localizer
    from service.locate.known_panoramas import evaluate

    if arguments.drive:
        _evaluate_drives(arguments, settings)
        return
    with progress_bar("locating panoramas") as progress:
        report = evaluate(
            open_localizer(settings),
            arguments.folder,
            arguments.other,
            progress,
            heading_known=not arguments.heading_unknown,
        )
    heading = f"index {report.index_version}, calibration: {report.calibration}"
    _print(arguments, report, heading, {**report.inside, **report.certainty})


def _evaluate_drives(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.cli.wiring import open_localizer
    from service.locate.known_drives import evaluate_drives
    from service.locate.known_panoramas import ValidationError

    if arguments.other:
        raise ValidationError("--other measures single panoramas: leave it out beside --drive")
    with progress_bar("locating drives") as progress:
        report = evaluate_drives(
            open_localizer(settings),
            arguments.folder,
            progress,
            heading_known=not arguments.heading_unknown,
        )
    _print(arguments, report, f"index {report.index_version}", report.figures)


def _print(
    arguments: argparse.Namespace,
    report: Report | DriveReport,
    heading: str,
    figures: Mapping[str, float | None],
) -> None:
    if arguments.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
        return
    print(heading)
    for name, value in figures.items():
        print(f"{name:24} {'-' if value is None else format(value, '.4g')}")


COMMANDS = {"calibrate": _calibrate, "evaluate": _evaluate}
