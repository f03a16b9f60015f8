"""Commands about the versions of the index: build, versions, activate, verify, prune."""

from __future__ import annotations

import argparse

from service.cli.options import OTHERS, POSES, arg, command, count, folders
from service.cli.progress import progress_bar
from service.settings import Settings

VALIDATION = (
    f"Folder of {POSES} of this region, to calibrate radius and confidence. May be repeated. "
    "Default: the live version's calibration, or the checkpoint's."
)
APPROXIMATE = (
    "Search approximately from this number of tiles on. 0: forget an earlier choice. Default: as "
    "for the live version, else where a search takes 10 ms."
)
MILVUS = "Milvus server that searches. Empty: none. Default: as for the live version."
KEEP = "Number of newest versions to keep. Default: 3."


@command(
    folders("--validation", VALIDATION),
    folders("--other", OTHERS),
    arg("--approximate-from", type=count, metavar="TILES", help=APPROXIMATE),
    arg("--milvus", metavar="URI", help=MILVUS),
)
def _build(arguments: argparse.Namespace, settings: Settings) -> None:
    """Encode the catalogue's tiles and publish them as a new version of the index."""
    from service.build import build
    from service.cli.build_calibration import choose_calibration
    from service.cli.wiring import open_encoder

    encoder = open_encoder(settings)
    calibrate = choose_calibration(arguments.validation, arguments.other, settings, encoder)
    with progress_bar("encoding tiles") as progress:
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


@command()
def _versions(arguments: argparse.Namespace, settings: Settings) -> None:
    """List the versions of the index, oldest first. * marks the live version."""
    from service.index.versions import Versions

    versions = Versions(settings.home)
    live = versions.current()
    for name in versions.names():
        print("*" if name == live else " ", name)


@command(arg("version", help="Name of the version, as `skyfix versions` lists it."))
def _activate(arguments: argparse.Namespace, settings: Settings) -> None:
    """Verify a version and make it live. Running servers follow."""
    from service.index.versions import Versions

    Versions(settings.home).activate(arguments.version)
    print(arguments.version)


@command(arg("version", nargs="?", help="Name of the version. Default: the live one."))
def _verify(arguments: argparse.Namespace, settings: Settings) -> None:
    """Check every byte of a version and of the catalogue."""
    from service.index.catalogue import Catalogue
    from service.index.versions import Versions

    versions = Versions(settings.home)
    report = versions.verify(arguments.version or versions.require_current())
    print(f"{report.version}: {report.tiles} tiles, {report.bytes} bytes, whole")
    with Catalogue.of(settings.home, create=False) as catalogue:
        catalogue.verify()
        print(f"{catalogue.path.name}: whole")


@command(arg("--keep", type=count, default=3, help=KEEP))
def _prune(arguments: argparse.Namespace, settings: Settings) -> None:
    """Delete all versions but the newest. The live version always stays."""
    from service.index.versions import Versions

    for name in Versions(settings.home).prune(arguments.keep):
        print(f"{name} deleted")


COMMANDS = {
    "build": _build,
    "versions": _versions,
    "activate": _activate,
    "verify": _verify,
    "prune": _prune,
}
