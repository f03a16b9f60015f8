"""Reading the lists that come with datasets, as scripts and spreadsheets write them.

A fault in a list raises ValueError with file and line; the caller adds the dataset. A bad number
raises ValueError with the value and the allowed range.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from model.file_kind import kind_of, markup_of
from model.geo import LatLon
from training.data.pairs import PairError

log = logging.getLogger(__name__)


def text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    data = path.read_bytes()
    if kind := markup_of(data):
        raise ValueError(f"{path} is {kind}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if kind := kind_of(data):
            raise ValueError(f"{path} is {kind}") from None
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ValueError(
            f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8: save the file as UTF-8"
        ) from error


def rows(path: Path) -> list[tuple[int, list[str]]]:
    """The number of the last line, from 1, and the cells of each row of a CSV.

    Empty lines are left out, and rows of empty cells at the end.
    """
    reader = csv.reader(io.StringIO(text(path), newline=""), skipinitialspace=True)
    try:
        found = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    while found and not any(found[-1][1]):
        found.pop()
    return found


def records(path: Path, required: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """As `rows`, by column name; a row that ends early gets empty cells, an empty row goes."""
    (_, names), *others = rows(path) or [(1, [])]
    if lacking := sorted(set(required) - set(names)):
        raise ValueError(f"{path} lacks the columns {lacking}")
    empty = dict.fromkeys(names, "")
    return [
        (line, empty | dict(zip(names, cells, strict=False)))
        for line, cells in others
        if any(cells)
    ]


def number(name: str, cell: str | float, low: float = -math.inf, high: float = math.inf) -> float:
    """A cell's number, finite and from `low` to `high`."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        allowed = "a finite number" if math.isinf(low) else f"{low:g} to {high:g}"
        raise ValueError(f"{name} is {cell if cell != '' else 'empty'}: it must be {allowed}")
    return value


def position(latitude: str | float, longitude: str | float) -> LatLon:
    """A position from two cells, in degrees."""
    return LatLon(
        number("latitude", latitude, -90.0, 90.0), number("longitude", longitude, -180.0, 180.0)
    )


@contextmanager
def fault_at(where: str) -> Iterator[None]:
    """Raise a bad or absent cell as PairError, with the place in the list."""
    try:
        yield
    except (ValueError, IndexError) as error:
        raise PairError(f"{where}: {error}") from error


@cache
def warn_once(message: str) -> None:
    """Log a message once a process: the splits and galleries share their lists."""
    log.warning(message)
