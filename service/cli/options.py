"""What several commands share: the shape of a command, and options with one meaning."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from service.settings import Settings, variable

POSES = "panoramas with poses.csv (file, latitude, longitude)"
OTHERS = (
    f"Folder of {POSES} from elsewhere, to calibrate against. May be repeated. Default: search "
    "the region's own panoramas again, without the tiles that show their positions."
)


class Command(NamedTuple):
    """One command. The docstring of `run` is its help text."""

    run: Callable[[argparse.Namespace, Settings], None]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def add_setting(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """An option that overrides a setting's variable, with the setting's own description."""
    field = Settings.model_fields[name]
    default = f" Default: {field.default}." if field.default_factory is None else ""
    parser.add_argument(
        f"--{name}", help=f"{field.description}{default} Overrides {variable(name)}.", **options
    )


def add_folders(parser: argparse.ArgumentParser, option: str, help_text: str) -> None:
    """An option that takes a folder and may be repeated."""
    parser.add_argument(
        option, type=Path, action="append", default=[], metavar="FOLDER", help=help_text
    )


def count(text: str) -> int:
    """A whole number from 0 on, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value
