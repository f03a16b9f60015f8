"""Commands about the imagery in the catalogue: ingest, sources, remove."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from service.cli.options import arg, command
from service.cli.progress import progress_bar
from service.settings import Settings

if TYPE_CHECKING:
    from service.imagery.area import Area
    from service.index.catalogue import Catalogue
    from service.ingest import IngestReport
    from service.remote.fetch import Fetch


def _rate(text: str) -> float:
    """Requests a second, for argparse."""
    rate = float(text)
    if not 0.0 < rate <= 100.0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to 100")
    return rate


def _header(text: str) -> tuple[str, str]:
    """Name and value of an HTTP header, for argparse."""
    name, colon, value = text.partition(":")
    if not (name.strip() and colon and text.isprintable()):
        raise argparse.ArgumentTypeError("a header is NAME: VALUE")
    return name.strip(), value.strip()


def _bands(text: str) -> tuple[int, ...]:
    """Band numbers for argparse: 3,2,1 for red, green and blue, or 1 for grey."""
    numbers = tuple(int(part) for part in text.split(","))
    if len(numbers) not in (1, 3) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not one or three band numbers from 1 on")
    return numbers


@command(
    arg("path", help="Raster, folder of rasters, map tiles or images with a CSV, or a URL."),
    arg("--name", help="Name of the source; the same name replaces it. Default: the file's name."),
    arg("--size-m", type=float, help="Width of a tile in metres. Default: the checkpoint's."),
    arg("--stride-m", type=float, help="Metres between tiles. Default: as before, or width / 4."),
    arg(
        "--bands", type=_bands, help="Bands of red, green, blue, such as 3,2,1. Default: as stated."
    ),
    arg("--nodata", type=float, help="Value without imagery; nan: none. Default: as stated."),
    arg("--crs", help="CRS of rasters that state none, or a wrong one, such as EPSG:32633."),
    arg("--scheme", choices=("xyz", "tms"), help="Row 0 of map tiles: north (xyz), south (tms)."),
    arg("--bbox", metavar="W,S,E,N", help="Tiles in this box alone. Degrees; --bbox=-9.2,38.6,…"),
    arg("--area", type=Path, metavar="FILE", help="Tiles in the polygons of this GeoJSON alone."),
    arg("--zoom", type=int, help="Zoom of map tiles at a URL. Default: as fine as tiles need."),
    arg("--layer", help="Layer of a WMS or WMTS."),
    arg("--asset", help="Asset of STAC items. Default: the visual one."),
    arg("--rate", type=_rate, default=4.0, help="Requests a second to a URL. Default: 4."),
    arg(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="HTTP header for the URL's host, such as a key. Nothing stores it. May be repeated.",
    ),
    arg("--max-requests", type=int, default=20_000, help="More are refused. Default: 20000."),
    arg("--licence", help="Licence of the imagery. Every version of the index states it."),
    arg("--attribution", help="Credit to show beside the imagery."),
)
def _ingest(arguments: argparse.Namespace, settings: Settings) -> None:
    """Cut imagery into tiles and add them to the catalogue. Imagery at a URL is copied first; the \
same command goes on with an unfinished copy."""
    from model.checkpoint import Checkpoint
    from service.imagery.reading import Reading
    from service.index.catalogue import Catalogue
    from service.ingest import ingest
    from service.remote.fetch import is_remote

    size_m = arguments.size_m
    if size_m is None:
        size_m = Checkpoint.load(settings.weights).config.aerial_footprint_m
    area = _area(arguments)
    with Catalogue.of(settings.home) as catalogue:
        path, name, fetch = Path(arguments.path), arguments.name, None
        if is_remote(arguments.path):
            fetch = _fetch(arguments, settings, catalogue, area, size_m)
            path, name = fetch.folder, fetch.name
        with progress_bar("cutting tiles") as progress:
            report = ingest(
                catalogue,
                path,
                size_m=size_m,
                stride_m=arguments.stride_m,
                name=name,
                licence=arguments.licence,
                attribution=arguments.attribution,
                reading=Reading(
                    bands=arguments.bands,
                    nodata=arguments.nodata,
                    crs=arguments.crs,
                    scheme=arguments.scheme,
                    area=area.text() if area else None,
                ),
                progress=progress,
                say=print,
            )
        if fetch:
            fetch.remove_former([source.path for source in catalogue.sources()])
            if not catalogue.source(fetch.name).licence:
                print("the licence of this imagery is unknown: state it with --licence")
    print(_summary(report, size_m))


def _summary(report: IngestReport, size_m: float) -> str:
    outside = f", {report.outside} outside the area" if report.outside else ""
    return (
        f"{report.source}: {report.tiles} tiles of {size_m:g} m ({report.added} added, "
        f"{report.updated} updated, {report.removed} removed, {report.skipped_empty} skipped "
        f"as empty{outside}) in {report.seconds:.1f} s"
    )


def _area(arguments: argparse.Namespace) -> Area | None:
    """The area of --bbox or --area."""
    from service.imagery.area import Area, AreaError
    from service.locate.hints import parse_bbox

    if arguments.bbox and arguments.area:
        raise AreaError("--bbox and --area state the area twice: give one of them")
    if arguments.bbox:
        return Area.of_bounds(parse_bbox(arguments.bbox))
    return Area.of_geojson(arguments.area) if arguments.area else None


def _fetch(
    arguments: argparse.Namespace,
    settings: Settings,
    catalogue: Catalogue,
    area: Area | None,
    size_m: float,
) -> Fetch:
    """Copies the imagery at a URL to the home folder; by default the area of the last ingest."""
    from model.checkpoint import Checkpoint
    from service.imagery.area import Area
    from service.imagery.reading import Reading
    from service.remote.fetch import Fetch, Wanted, name_of

    name = name_of(arguments.path, arguments.name, arguments.layer)
    former = [Reading.stored(s.reading).area for s in catalogue.sources() if s.name == name]
    if area is None and former and former[0]:
        area = Area.of_text(former[0])
    wanted = Wanted(
        address=arguments.path,
        area=area.grown(0.75 * size_m) if area else None,  # by half a tile's diagonal
        pixel_m=size_m / Checkpoint.load(settings.weights).config.preprocessing.input_size,
        zoom=arguments.zoom,
        layer=arguments.layer,
        asset=arguments.asset,
        rate=arguments.rate,
        headers=dict(arguments.header),
        max_requests=arguments.max_requests,
    )
    fetch = Fetch.of(settings.home, wanted, name)
    if not fetch.done:
        print(fetch.summary)
        with progress_bar("fetching") as progress:
            fetch.run(progress)
    return fetch


@command()
def _sources(arguments: argparse.Namespace, settings: Settings) -> None:
    """List the sources in the catalogue with their tiles, licence and attribution."""
    from service.index.catalogue import Catalogue

    with Catalogue.of(settings.home) as catalogue:
        counts = catalogue.tiles_by_source()
        for source in catalogue.sources():
            credit = ", ".join(filter(None, (source.licence, source.attribution))) or "no licence"
            read = f", read as {shorten(source.reading, 200)}" if source.reading else ""
            print(
                f"{source.name}: {counts.get(source.name, 0)} tiles of {source.path} "
                f"({credit}{read})"
            )


@command(arg("source", help="Name of the source, as `skyfix sources` lists it."))
def _remove(arguments: argparse.Namespace, settings: Settings) -> None:
    """Remove a source from the catalogue. The next build removes its tiles from the index."""
    from service.index.catalogue import Catalogue

    with Catalogue.of(settings.home) as catalogue:
        removed = catalogue.remove_source(arguments.source)
    print(f"{arguments.source}: {removed} tiles removed; they are searched until the next build")


COMMANDS = {"ingest": _ingest, "sources": _sources, "remove": _remove}
