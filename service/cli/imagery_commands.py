"""Commands about the imagery in the catalogue: ingest, sources, remove."""

from __future__ import annotations

import argparse
from pathlib import Path

from service.cli.options import arg, command
from service.cli.progress import progress_bar
from service.settings import Settings


def _bands(text: str) -> tuple[int, ...]:
    """Band numbers for argparse: 3,2,1 for red, green and blue, or 1 for grey."""
    numbers = tuple(int(part) for part in text.split(","))
    if len(numbers) not in (1, 3) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not one or three band numbers from 1 on")
    return numbers


@command(
    arg("path", type=Path, help="Raster, or folder of rasters, map tiles, or images with a CSV."),
    arg("--name", help="Name of the source; the same name replaces it. Default: the file's name."),
    arg("--size-m", type=float, help="Width of a tile in metres. Default: the checkpoint's."),
    arg("--stride-m", type=float, help="Metres between tiles. Default: as before, or width / 4."),
    arg(
        "--bands", type=_bands, help="Bands of red, green, blue, such as 3,2,1. Default: as stated."
    ),
    arg("--nodata", type=float, help="Value that stands for no imagery. Default: as stated."),
    arg("--crs", help="CRS of rasters that state none, or a wrong one, such as EPSG:32633."),
    arg("--scheme", choices=("xyz", "tms"), help="Row 0 of map tiles: north (xyz), south (tms)."),
    arg("--licence", help="Licence of the imagery. Every version of the index states it."),
    arg("--attribution", help="Credit to show beside the imagery."),
)
def _ingest(arguments: argparse.Namespace, settings: Settings) -> None:
    """Cut imagery into tiles and add them to the catalogue."""
    from model.checkpoint import Checkpoint
    from service.imagery.reading import Reading
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
            reading=Reading(
                bands=arguments.bands,
                nodata=arguments.nodata,
                crs=arguments.crs,
                scheme=arguments.scheme,
            ),
            progress=progress,
            say=print,
        )
    print(
        f"{report.source}: {report.tiles} tiles of {size_m:g} m ({report.added} added, "
        f"{report.updated} updated, {report.removed} removed, {report.skipped_empty} skipped "
        f"as empty) in {report.seconds:.1f} s"
    )


@command()
def _sources(arguments: argparse.Namespace, settings: Settings) -> None:
    """List the sources in the catalogue with their tiles, licence and attribution."""
    from service.index.catalogue import Catalogue

    with Catalogue.of(settings.home) as catalogue:
        counts = catalogue.tiles_by_source()
        for source in catalogue.sources():
            credit = ", ".join(filter(None, (source.licence, source.attribution))) or "no licence"
            read = f", read as {source.reading}" if source.reading else ""
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
