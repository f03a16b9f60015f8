"""Options of several commands, and their numbers, which argparse refuses out of bounds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from training.data import datasets

# A private class where argparse returns its sub-parsers, and generic to typing alone.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

MAX_SEED = 2**63 - 1  # torch's


def seeds(text: str) -> Sequence[int]:
    """ "3" or a range such as "0-2"."""
    first, _, last = text.partition("-")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} holds no seed: the first comes first")
    if found[-1] > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{found[-1]}: a seed is at most {MAX_SEED}")
    return found


def count(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: it must be 1 or more")
    return number


def angles(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    return tuple(map(float, text.split(",")))


def of_data() -> argparse.ArgumentParser:
    """A parent for commands that read a dataset and use a device."""
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--dataset",
        choices=sorted(datasets.DATASETS),
        default="town",
        help="what the folder holds (town); folder: pairs.csv",
    )
    data.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is"
    )
    return data


def add_overrides(command: argparse.ArgumentParser, whose: str) -> None:
    """`--set`, of which each one is a field of `whose` recipe."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"a field of {whose} recipe; may be given several times",
    )


def add_cache(command: argparse.ArgumentParser) -> None:
    """`--cache`; see `pairs.read_arrays`."""
    command.add_argument("--cache", type=Path, help="for pairs beyond memory; --out by default")
