"""Commands that answer: locate on the command line, serve over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path

from model.panorama import PROJECTIONS
from service.api.query import LocateQuery
from service.cli.options import Argument, arg, command, setting
from service.cli.survey import is_survey, run_survey, table
from service.locate.hints import UNKNOWN, Heading, HintError, Hints
from service.settings import Settings

PATHS = (
    "Image files, folders (with all folders below) or a CSV with a column `file` and, as wished, "
    "`time` (ISO 8601) and hints by the names of the API. Several images are a survey."
)
OUT = (
    "Table of a survey: .csv, .jsonl, .geojson, .gpx or .kml. A killed command goes on where it "
    "was when given again. Default: CSV on standard output."
)
COPIES = (
    "Write places into copies of the images in this folder: EXIF's GPS and a panorama's GPano "
    "heading. Pixels and all other metadata stay."
)
IN_PLACE = "Write places into the images. Each original stays as NAME_original."
MIN_CONFIDENCE = "Write positions of at least this confidence into images. 0: all. Default: 0.5."


def _share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    share = float(text)
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 to 1")
    return share


DRIVE = (
    "Locate the images of each folder together, as frames that one camera took on its way. Their "
    "times order them, else their names."
)


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
    arg("path", type=Path, nargs="+", help=PATHS),
    arg("--json", action="store_true", help="Print the JSON of POST /localize, for one image."),
    arg("--out", type=table, metavar="FILE", help=OUT),
    arg("--overwrite", action="store_true", help="Replace files that exist."),
    arg("--drive", action="store_true", help=DRIVE),
    arg("--write-metadata", type=Path, metavar="FOLDER", help=COPIES),
    arg("--in-place", action="store_true", help=IN_PLACE),
    arg("--min-confidence", type=_share, default=0.5, metavar="P", help=MIN_CONFIDENCE),
    arg("--dry-run", action="store_true", help="Say what would be written into images."),
    *(_hint(name) for name in LocateQuery.model_fields if name != "explain"),
)
def _locate(arguments: argparse.Namespace, settings: Settings) -> None:
    """Locate an image, or all images of a survey, with the live version of the index. Write \
negative coordinates with an equals sign: --near=-33.8,151.2. A survey is a table: its columns are \
file, latitude, longitude, radius_m, confidence, in_index, heading_deg, tile_id, time, \
index_version, metadata, problem and drive. Its exit code is 3 when images have a problem."""
    from service.api.schemas import FixSchema
    from service.cli.wiring import open_localizer

    hints = Hints.of(arguments)
    if is_survey(arguments):
        run_survey(arguments, settings, hints)
        return
    data = _read(arguments.path[0])
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
