"""`skyfix`: imagery in, index versions, answers; _COMMANDS below lists the commands.

Parses arguments, calls one function, prints. Results go to standard output, progress and logs to
standard error. Exit codes: 0 done, 1 a problem (one line says which), 2 wrong usage;
`serve` also 3 where it cannot listen (uvicorn's) and 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from model.errors import SkyfixError
from model.malloc import keep_freed_memory
from service.cli import index_commands
from service.cli.progress import progress_bar
from service.locate.hints import HintError, Hints
from service.settings import Settings, variable


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = command_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    # It tells each variant that it was not built in, which reads like the cause of what fails next.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    # It tells what is raised anyway: that the whole Earth is not in a raster's projection, say.
    logging.getLogger("rasterio._env").setLevel(logging.WARNING)
    keep_freed_memory()
    try:
        arguments.run(arguments, _settings(arguments))
    except SkyfixError as error:
        print(f"skyfix: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("skyfix: interrupted", file=sys.stderr)
        return 130
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """The environment's settings, overridden by whatever the command line gives."""
    environ = dict(os.environ)
    for name in Settings.model_fields:
        given = getattr(arguments, name, None)
        if given is not None:
            environ[variable(name)] = str(given)
    return Settings.from_env(environ)


def command_parser() -> argparse.ArgumentParser:
    """All commands and their options; the documentation lists them from here."""
    parser = argparse.ArgumentParser(prog="skyfix", description="Find where panoramas were taken.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", type=Path, help="data folder (SKYFIX_HOME, ./skyfix-data)")
    common.add_argument("--weights", type=Path, help="checkpoint (SKYFIX_WEIGHTS, the demo's)")
    common.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(SKYFIX_DEVICE, auto)")
    common.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, add in _COMMANDS.items():
        add(commands.add_parser(name, parents=[common], help=add.__doc__, description=add.__doc__))
    return parser


def _add_ingest(parser: argparse.ArgumentParser) -> None:
    """put imagery into the catalogue: a GeoTIFF, or a folder of tiles with a CSV"""
    parser.add_argument("path", type=Path)
    parser.add_argument("--name", help="of the source; ingesting it again replaces it")
    parser.add_argument("--size-m", type=float, help="tile width on the ground (the encoder's)")
    parser.add_argument(
        "--stride-m", type=float, help="between tile centres (as before, or size / 4)"
    )
    parser.add_argument("--licence", help="of the imagery, kept with every version")
    parser.add_argument("--attribution", help="whom to name when the imagery is shown")
    parser.set_defaults(run=_ingest)


def _ingest(arguments: argparse.Namespace, settings: Settings) -> None:
    from model.checkpoint import Checkpoint
    from service.index.catalogue import Catalogue
    from service.ingest import ingest

    size_m = arguments.size_m
    if size_m is None:
        size_m = Checkpoint.load(settings.weights).config.aerial_footprint_m
    with Catalogue.of(settings.home) as catalogue, progress_bar("cutting tiles") as progress:
        report = ingest(
            catalogue,
            arguments.path,
            size_m=size_m,
            stride_m=arguments.stride_m,
            name=arguments.name,
            licence=arguments.licence,
            attribution=arguments.attribution,
            progress=progress,
        )
    print(
        f"{report.source}: {report.tiles} tiles of {size_m:g} m ({report.added} added, "
        f"{report.updated} updated, {report.removed} removed, {report.skipped_empty} skipped "
        f"as empty) in {report.seconds:.1f} s"
    )


def _add_versions(parser: argparse.ArgumentParser) -> None:
    """list the index versions, oldest first; * marks the live one"""
    parser.set_defaults(run=_versions)


def _versions(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.index.versions import Versions

    versions = Versions(settings.home)
    current = versions.current()
    for name in versions.names():
        print("*" if name == current else " ", name)


def _add_activate(parser: argparse.ArgumentParser) -> None:
    """verify a version and make it the live one; running servers follow"""
    parser.add_argument("version")
    parser.set_defaults(run=_activate)


def _activate(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.index.versions import Versions

    Versions(settings.home).activate(arguments.version)
    print(arguments.version)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    """check a version's files (the live one's by default), and the catalogue"""
    parser.add_argument("version", nargs="?")
    parser.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.index.catalogue import Catalogue
    from service.index.versions import Versions

    versions = Versions(settings.home)
    report = versions.verify(arguments.version or versions.require_current())
    print(f"{report.version}: {report.tiles} tiles, {report.bytes} bytes, whole")
    with Catalogue.of(settings.home, create=False) as catalogue:
        catalogue.verify()
        print(f"{catalogue.path.name}: whole")


def _add_locate(parser: argparse.ArgumentParser) -> None:
    """match one panorama to the live index"""
    parser.add_argument("image", type=Path)
    parser.add_argument("--json", action="store_true", help="the same document as POST /localize")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--heading-deg", type=float, help="of the centre column, from north")
    parser.add_argument("--north", type=float, help="(0.5 - heading / 360) mod 1, instead")
    parser.add_argument("--vertical-fov-deg", type=float)
    parser.add_argument("--horizontal-fov-deg", type=float)
    parser.add_argument("--horizon", type=float, help="row as a fraction of the height, from top")
    parser.add_argument("--near", help="latitude,longitude (write --near=-33.8,151.2)")
    parser.add_argument("--radius-m", type=float)
    parser.add_argument("--bbox", help="west,south,east,north (write --bbox=...)")
    parser.set_defaults(run=_locate)


def _locate(arguments: argparse.Namespace, settings: Settings) -> None:
    from service.api.schemas import FixSchema
    from service.cli.wiring import open_localizer

    hints = Hints.of(arguments)
    data = _read(arguments.image)
    fix = open_localizer(settings).locate(data, hints, arguments.top_k)
    if arguments.json:
        print(FixSchema.of(fix).model_dump_json(indent=2))
        return
    for match in fix.matches:
        print(
            f"{match.rank:3d}  {match.latitude:.6f},{match.longitude:.6f}  "
            f"distance {match.distance:.4f}  heading {match.heading_deg:5.1f}  {match.tile_id}"
        )
    if fix.note:
        print(fix.note)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HintError(f"{path} cannot be read: {error.strerror}") from error


def _add_serve(parser: argparse.ArgumentParser) -> None:
    """answer POST /localize over HTTP"""
    parser.add_argument("--host", help="(SKYFIX_HOST, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="(SKYFIX_PORT, 8000)")
    parser.add_argument("--print-settings", action="store_true", help="show them and stop")
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace, settings: Settings) -> None:
    if arguments.print_settings:
        for name, value in settings.shown().items():
            print(f"{name}={value}")
        return
    from service.cli.serve import serve

    serve(settings)


_COMMANDS = {
    "ingest": _add_ingest,
    "sources": index_commands.add_sources,
    "remove": index_commands.add_remove,
    "build": index_commands.add_build,
    "calibrate": index_commands.add_calibrate,
    "evaluate": index_commands.add_evaluate,
    "versions": _add_versions,
    "activate": _add_activate,
    "verify": _add_verify,
    "prune": index_commands.add_prune,
    "locate": _add_locate,
    "serve": _add_serve,
}
