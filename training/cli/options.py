"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import argparse
import errno
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from training.data import datasets

# argparse returns a private class, which is generic to type checkers only.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

MAX_SEED = 2**63 - 1  # torch's


def seeds(text: str) -> Sequence[int]:
    """ "3" or a range such as "0-2"."""
    first, _, last = text.partition("-")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} holds no seed: give the lower seed first")
    if found[-1] > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{found[-1]}: a seed is at most {MAX_SEED}")
    return found


def count(text: str) -> int:
    """A whole number, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: it must be 1 or more")
    return number


def minutes(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: it must be above 0")
    return number


def angles(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(map(float, text.split(",")))


def dataset_options() -> argparse.ArgumentParser:
    """A parent parser for commands that read a dataset and use a device."""
    parent = argparse.ArgumentParser(add_help=False)
    kinds = sorted(datasets.DATASETS)
    help_text = "kind of dataset (town); folder: images listed in pairs.csv"
    parent.add_argument("--dataset", choices=kinds, default="town", help=help_text)
    add_device(parent)
    return parent


def add_device(command: argparse.ArgumentParser) -> None:
    """`--device`."""
    devices, help_text = ("auto", "cpu", "cuda"), "auto: a GPU if there is one (auto)"
    command.add_argument("--device", choices=devices, default="auto", help=help_text)


def add_training_options(command: argparse.ArgumentParser, *, recipes: str) -> None:
    """Options of the commands that train; `recipes` says in words which recipes `--set` changes."""
    add = command.add_argument
    add("--split", help="split to train on (the dataset's training split)")
    add("--validation-split", help="split to measure with (the dataset's held-out split)")
    add_cache(command)
    help_text = f"change a field of {recipes}; repeatable"
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help=help_text)


def add_cache(command: argparse.ArgumentParser) -> None:
    """`--cache`; see `arrays.read_arrays`."""
    help_text = "folder for pairs that do not fit in memory (--out)"
    command.add_argument("--cache", type=Path, help=help_text)


def seed_folders(out: Path, run_seeds: Sequence[int]) -> list[tuple[int, Path]]:
    """Each seed's result folder: `out` itself for a single seed.

    Raises:
        NotADirectoryError: a file is in the way.
    """
    folders = [out / f"{seed}" if len(run_seeds) > 1 else out for seed in run_seeds]
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "--out is a file", str(folder))
    return list(zip(run_seeds, folders, strict=True))
