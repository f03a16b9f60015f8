"""What several commands share: the shape of a command, and options with one meaning."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from service.settings import Settings, variable

POSES = "panoramas with poses.csv (file, latitude, longitude)"
OTHERS = (
    f"Folder of {POSES} from elsewhere, to calibrate against. May be repeated. Default: search "
    "the region's own panoramas again, without the tiles that show their positions."
)


class Argument(NamedTuple):
    """Names and options of one call of argparse's `add_argument`."""

    names: tuple[str, ...]
    options: Mapping[str, Any]


Run = Callable[[argparse.Namespace, Settings], None]


class Command(NamedTuple):
    """One command. The docstring of `run` is its help text."""

    run: Run
    arguments: Sequence[Argument]


def command(*arguments: Argument) -> Callable[[Run], Command]:
    """Makes a command of the function below."""
    return lambda run: Command(run, arguments)


def arg(*names: str, **options: Any) -> Argument:
    """See argparse's `add_argument`."""
    return Argument(names, options)


def setting(name: str, **options: Any) -> Argument:
    """An option that overrides a setting's variable, with the setting's own description."""
    field = Settings.model_fields[name]
    default = f" Default: {field.default}." if field.default_factory is None else ""
    text = f"{field.description}{default} Overrides {variable(name)}."
    return arg(f"--{name}", help=text, **options)


def folders(option: str, text: str) -> Argument:
    """An option that takes a folder and may be repeated."""
    return arg(option, type=Path, action="append", default=[], metavar="FOLDER", help=text)


def count(text: str) -> int:
    """A whole number from 0 on, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value
