"""Commands that answer: locate on the command line, serve over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path

from model.panorama import PROJECTIONS
from service.api.query import LocateQuery
from service.cli.options import Argument, arg, command, setting
from service.locate.hints import UNKNOWN, Heading, HintError, Hints
from service.settings import Settings


def _heading(text: str) -> Heading:
    if text == UNKNOWN:
        return UNKNOWN
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give degrees, or {UNKNOWN}") from None


def _hint(name: str) -> Argument:
    """A query parameter of POST /localize as an option."""
    field = LocateQuery.model_fields[name]
    texts = dict.fromkeys(("near", "bbox", "projection"), str)
    kind = {"top_k": int, "heading_deg": _heading, **texts}.get(name, float)
    option = "--" + name.replace("_", "-")
    choices = PROJECTIONS if name == "projection" else None
    return arg(option, type=kind, default=field.default, choices=choices, help=field.description)


@command(
    arg("image", type=Path, help="Panorama: a JPEG, PNG or other image file."),
    arg("--json", action="store_true", help="Print the JSON of POST /localize."),
    *(_hint(name) for name in LocateQuery.model_fields if name != "explain"),
)
def _locate(arguments: argparse.Namespace, settings: Settings) -> None:
    """Locate one panorama with the live version of the index. Write negative coordinates with an \
equals sign: --near=-33.8,151.2."""
    from service.api.schemas import FixSchema
    from service.cli.wiring import open_localizer

    hints = Hints.of(arguments)
    data = _read(arguments.image)
    fix = open_localizer(settings).locate(data, hints, arguments.top_k)
    if arguments.json:
        print(FixSchema.model_validate(fix).model_dump_json(indent=2))
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


@command(
    setting("host"),
    setting("port", type=int),
    arg("--print-settings", action="store_true", help="Print all settings and stop."),
)
def _serve(arguments: argparse.Namespace, settings: Settings) -> None:
    """Answer POST /localize and the other routes over HTTP."""
    if arguments.print_settings:
        for name, value in settings.shown().items():
            print(f"{name}={value}")
        return
    from service.cli.serve import serve

    serve(settings)


COMMANDS = {"locate": _locate, "serve": _serve}
