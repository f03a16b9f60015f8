"""The commands of `skyfix` about what is in the index and how good it is."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.cli.progress import progress_bar
from service.settings import Settings

if TYPE_CHECKING:
    from model.encoder import Encoder
    from service.build import Calibrate
    from service.index.search import TileIndex
    from service.index.stored_calibration import Calibration
    from service.locate.localizer import Localizer

log = logging.getLogger(__name__)


def add_build(parser: argparse.ArgumentParser) -> None:
    """describe the catalogue's tiles and publish them as a new index version"""
    parser.add_argument(
        "--validation",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="panoramas of this region with poses.csv (file, latitude, longitude), to calibrate "
        "radius and confidence; may be repeated",
    )
    _add_others(parser)
    parser.add_argument(
        "--approximate-from",
        type=_count,
        metavar="TILES",
        help="search the likeliest part only from this many tiles on (as before, or 300,000; "
        "0: 300,000 again)",
    )
    parser.add_argument("--milvus", metavar="URI", help="have this Milvus server search")
    parser.set_defaults(run=_build)


def _add_others(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--other",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="panoramas from elsewhere with poses.csv, to calibrate against (without any: the "
        "same panoramas, their places taken out of the index); may be repeated",
    )


def _build(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.build import build
    from service.cli.wiring import open_encoder

    encoder = open_encoder(settings)
    calibrate = _calibrator(arguments.validation, arguments.other, settings, encoder)
    with progress_bar("describing tiles") as progress:
        version = build(
            settings.home,
            encoder,
            progress=progress,
            calibrate=calibrate,
            approximate_from=arguments.approximate_from,
            milvus_uri=arguments.milvus,
        )
    print(
        f"{version.name}: {version.tiles} tiles ({version.encoded} encoded, {version.reused} "
        f"reused) in {version.seconds:.1f} s; it is live"
    )


def _calibrator(
    folders: list[Path], others: list[Path], settings: Settings, encoder: Encoder
) -> Calibrate:
    """By validation panoramas; else as the live version was; else as the weights were."""
    from service.locate.validation import ValidationError, calibrate

    if others and not folders:
        raise ValidationError(
            f"--other {others[0]} says what is elsewhere: also give --validation, panoramas of "
            "this region"
        )

    def measured(index: TileIndex) -> Calibration:
        with progress_bar("calibrating") as progress:
            return calibrate(index, _localizer(settings, encoder), folders, others, progress)

    def inherited(index: TileIndex) -> Calibration:
        known = _live_calibration(settings, encoder) or _weights_calibration(settings)
        if known is None:
            log.warning("nothing is known to calibrate by: answers will state no confidence")
            return index.calibration
        log.info("calibrated by %s", known.source)
        return known.measured_on(index.calibration)

    return measured if folders else inherited


def _localizer(settings: Settings, encoder: Encoder) -> Localizer:
    from service.index.live import LiveIndex
    from service.locate.localizer import Localizer

    return Localizer(encoder, LiveIndex(settings.home, encoder.fingerprint), rolls=settings.rolls)


def _live_calibration(settings: Settings, encoder: Encoder) -> Calibration | None:
    """The live version's, where this encoder made it and panoramas calibrated it."""
    from model.errors import SkyfixError
    from service.index.versions import Versions

    versions = Versions(settings.home)
    try:
        manifest = versions.manifest(versions.require_current())
    except SkyfixError:  # the build itself tells what is wrong with it
        return None
    stored = manifest.calibration
    if stored is None or stored["weights"] is None or manifest.encoder != encoder.fingerprint:
        return None
    return _stored_calibration(stored, f"index version {manifest.version}")


def _weights_calibration(settings: Settings) -> Calibration | None:
    """The one that `skyfix calibrate` put into the checkpoint."""
    from model.checkpoint import Checkpoint

    stored = Checkpoint.load(settings.weights).provenance.get("calibration")
    return None if stored is None else _stored_calibration(stored, str(settings.weights))


def _stored_calibration(stored: Mapping[str, Any], where: str) -> Calibration | None:
    """None, and a warning, for one that another release of Skyfix wrote."""
    from service.index.stored_calibration import Calibration, CalibrationError

    try:
        return Calibration.from_dict(stored)
    except CalibrationError as error:
        log.warning("%s: %s; calibrate again", where, error)
        return None


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    """measure confidence on the live index and put it into a copy of the weights, as a default"""
    parser.add_argument("folder", type=Path, nargs="+", help="panoramas with poses.csv")
    _add_others(parser)
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    parser.set_defaults(run=_calibrate)


def _calibrate(arguments: argparse.Namespace, settings: Settings) -> None:
    from model.checkpoint import Checkpoint
    from service.cli.wiring import open_encoder
    from service.locate.validation import calibrate

    localizer = _localizer(settings, open_encoder(settings))
    with progress_bar("calibrating") as progress:
        found = calibrate(
            localizer.live.get(), localizer, arguments.folder, arguments.other, progress
        )
    checkpoint = Checkpoint.load(settings.weights)
    provenance = {**checkpoint.provenance, "calibration": found.as_dict()}
    dataclasses.replace(checkpoint, provenance=provenance).save(arguments.out)
    print(f"{arguments.out}: calibrated by {found.source}")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """place panoramas with known places by the live index: metres, and how far confidence holds"""
    parser.add_argument("folder", type=Path, help="panoramas of this region with poses.csv")
    parser.add_argument("--other", type=Path, help="a folder of panoramas from elsewhere")
    parser.add_argument(
        "--heading-unknown", action="store_true", help="pass over the headings that they state"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.cli.wiring import open_localizer
    from service.locate.validation import evaluate

    with progress_bar("placing panoramas") as progress:
        report = evaluate(
            open_localizer(settings),
            arguments.folder,
            arguments.other,
            progress,
            heading_known=not arguments.heading_unknown,
        )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
        return
    print(f"index {report.index_version}, calibration: {report.calibration}")
    for name, value in {**report.inside, **report.certainty}.items():
        print(f"{name:24} {'-' if value is None else format(value, '.4g')}")


def add_sources(parser: argparse.ArgumentParser) -> None:
    """list the imagery in the catalogue, with its tiles, licence and attribution"""
    parser.set_defaults(run=_sources)


def _sources(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.index.catalogue import Catalogue

    with Catalogue.of(settings.home) as catalogue:
        counts = catalogue.tiles_by_source()
        for source in catalogue.sources():
            credit = ", ".join(filter(None, (source.licence, source.attribution))) or "no licence"
            print(f"{source.name}: {counts.get(source.name, 0)} tiles of {source.path} ({credit})")


def add_remove(parser: argparse.ArgumentParser) -> None:
    """take a source out of the catalogue; its tiles leave the index with the next build"""
    parser.add_argument("source")
    parser.set_defaults(run=_remove)


def _remove(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.index.catalogue import Catalogue

    with Catalogue.of(settings.home) as catalogue:
        removed = catalogue.remove_source(arguments.source)
    print(f"{arguments.source}: {removed} tiles removed; they are searched until the next build")


def add_prune(parser: argparse.ArgumentParser) -> None:
    """delete all but the newest versions; the live one always stays"""
    parser.add_argument("--keep", type=_count, default=3, help="how many of the newest stay (3)")
    parser.set_defaults(run=_prune)


def _prune(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.index.versions import Versions

    for name in Versions(settings.home).prune(arguments.keep):
        print(f"{name} deleted")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value
