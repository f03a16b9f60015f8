"""Outcomes written down one by one, so that a killed survey goes on where it was."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from service.survey.images import SurveyError, SurveyImage
from service.survey.outcome import Outcome


class Journal:
    """A file of JSON lines beside a survey's output; None stands for none.

    An outcome counts for the same file content (by size and time of change), hints and index
    version. Only images without a problem are remembered: a problem may have been mended.
    """

    def __init__(self, index_version: str, file: TextIO | None = None) -> None:
        self._version = index_version
        self._file = file
        self._known = dict(_outcomes(file)) if file else {}

    @classmethod
    @contextmanager
    def of(cls, output: Path | None, index_version: str) -> Iterator[Journal]:
        """The journal of an output file, which it leaves when the block fails.

        Raises:
            SurveyError: another run holds the journal, or its folder refuses it.
        """
        if output is None:
            yield cls(index_version)
            return
        path = journal_path(output)
        try:
            file = path.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise SurveyError(
                f"{path} cannot be written: {error.strerror}: name a file elsewhere"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SurveyError(f"another run writes {output}: wait until it ends") from error
            yield cls(index_version, file)
        path.unlink()

    def recall(self, image: SurveyImage) -> Outcome | None:
        """The outcome of the image as the file is now."""
        outcome = self._known.get(self._key(image))
        return outcome and outcome._replace(file=image.file)

    def add(self, image: SurveyImage, outcome: Outcome) -> None:
        """Write an outcome down. Raises SurveyError: the disk refuses."""
        if self._file is None or outcome.problem is not None:
            return
        try:
            # The newline goes first: it ends a line that a kill cut short.
            self._file.write("\n" + json.dumps([self._key(image), *outcome]))
            self._file.flush()
        except OSError as error:
            with suppress(OSError):  # or the end of the block would write the rest again
                self._file.close()
            raise SurveyError(
                f"{self._file.name} cannot be written: {error.strerror}. Make room: the same "
                "command goes on from here"
            ) from error

    def _key(self, image: SurveyImage) -> str:
        try:
            stat = image.path.stat()
            state = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            state = (-1, -1)
        whole = (str(image.path.absolute()), *state, self._version, image.hints, image.time)
        return hashlib.sha256(repr(whole).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def journal_path(output: Path) -> Path:
    """The journal of an output file."""
    return output.with_name(f"{output.name}.journal")


def _outcomes(file: TextIO) -> Iterator[tuple[str, Outcome]]:
    file.seek(0)
    for line in file:
        try:
            key, *values = json.loads(line)
            yield key, Outcome(*values)
        except (ValueError, TypeError):
            continue  # an empty line, or one that a kill cut short
