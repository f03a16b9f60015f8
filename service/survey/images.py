"""The images of a survey: files, folders, and tables that list files with hints."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import SkyfixError
from service.locate.hints import NUMBERS, UNKNOWN, HintError, Hints, parse_bbox, parse_near

# What cameras write. A format that cannot be read yet is an image with a problem, not a gap.
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff",
}  # fmt: skip
HINTS = tuple(field.name for field in fields(Hints))
COLUMNS = ("file", "time", *HINTS)


class SurveyError(SkyfixError):
    """A survey cannot begin, or its results cannot be written."""


class SurveyImage(NamedTuple):
    """An image to be located.

    file: the path as the user wrote it, printable.
    copy: path of a copy below the folder of copies.
    time: what a table states; None: EXIF's time counts.
    problem: why the image cannot be located, where this is known before its file is read.
    """

    file: str
    path: Path
    copy: Path
    hints: Hints
    time: datetime | None = None
    problem: str | None = None

    @classmethod
    def at(cls, path: Path, copy: Path, hints: Hints, **more: Any) -> SurveyImage:
        """The image in the file `path`."""
        shown = "".join(c if c.isprintable() else "\ufffd" for c in str(path))
        return cls(shown, path, copy, hints, **more)


def find_images(paths: Sequence[Path], hints: Hints, skip: Path | None = None) -> list[SurveyImage]:
    """The images of files, folders and tables (.csv), each once, in order.

    Hidden files and folders are left out, and the folder `skip`. A table's own hints go before
    `hints`.

    Raises:
        SurveyError: there is no image, or a table cannot be read.
    """
    found: list[SurveyImage] = []
    for path in paths:
        if path.is_dir():
            found += _in_folder(path, hints, skip)
        elif path.suffix.lower() == ".csv":
            found += _in_table(path, hints)
        else:
            found.append(SurveyImage.at(path, Path(path.name), hints))
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise SurveyError(f"no image is in {', '.join(map(str, paths))}: looked for {kinds}")
    return list(dict.fromkeys(found))


def _in_folder(folder: Path, hints: Hints, skip: Path | None) -> Iterator[SurveyImage]:
    closed: list[OSError] = []
    for here, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (skip is None or Path(here, name) != skip)
        )
        for name in sorted(names):
            path = Path(here, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                yield SurveyImage.at(path, path.relative_to(folder), hints)
    for error in closed:
        path, problem = Path(error.filename), f"the folder cannot be read: {error.strerror}"
        yield SurveyImage.at(path, Path(path.name), hints, problem=problem)


def _in_table(table: Path, hints: Hints) -> Iterator[SurveyImage]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns, rows = reader.fieldnames or (), list(reader)
    except OSError as error:
        raise SurveyError(f"{table} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SurveyError(f"{table} is no CSV in UTF-8: {error}") from error
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise SurveyError(
            f"{table} has unknown columns {', '.join(map(repr, unknown))}: known are "
            f"{', '.join(COLUMNS)}"
        )
    if "file" not in columns:
        raise SurveyError(f"{table} needs a column `file`, and commas between its columns")
    for line, row in enumerate(rows, start=2):
        yield _in_row(table, line, row, hints)


def _in_row(table: Path, line: int, row: Mapping[str, str | None], hints: Hints) -> SurveyImage:
    file = Path(row["file"] or "")
    inside = not file.is_absolute() and ".." not in file.parts
    path, copy = table.parent / file, file if inside else Path(file.name)
    try:
        if not file.name:
            raise HintError("the column `file` is empty")
        given = {name: _hint(name, text) for name in HINTS if (text := row.get(name))}
        time = _time(text) if (text := row.get("time")) else None
        return SurveyImage.at(path, copy, replace(hints, **given), time=time)
    except HintError as error:
        return SurveyImage.at(path, copy, hints, problem=f"{table.name}, line {line}: {error}")


def _hint(name: str, text: str) -> Any:
    parse = {"near": parse_near, "bbox": parse_bbox}.get(name)
    if parse is not None:
        return parse(text)
    if name not in NUMBERS or (name == "heading_deg" and text == UNKNOWN):
        return text
    try:
        return float(text)
    except ValueError:
        raise HintError(f"{name}={text!r} is no number") from None


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise HintError(
            f"time={text!r} is not ISO 8601, such as 2026-05-01T10:00:00.5+02:00"
        ) from None
