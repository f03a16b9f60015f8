"""`skyfix locate` of many images: what is asked is checked first, then located and written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from model.atomic_write import write_atomically
from model.errors import SkyfixError
from service.cli.progress import Report, progress_bar
from service.locate.hints import Hints
from service.settings import Settings
from service.survey.formats import FORMATS, csv_line
from service.survey.images import SurveyError, find_images
from service.survey.journal import Journal, journal_path
from service.survey.outcome import Outcome

if TYPE_CHECKING:
    from service.survey.placement import Placement

DEFAULT_TOP_K = 10


class SomeImagesFailed(SkyfixError):
    """The survey ran to its end, but some of its images have a problem."""


def table(text: str) -> Path:
    """A file with the suffix of a format, for argparse."""
    path = Path(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text} does not end in {', '.join(FORMATS)}")
    return path


def is_survey(arguments: argparse.Namespace) -> bool:
    """Whether the arguments ask for more than the answer for an image."""
    (first, *more) = arguments.path
    metadata = arguments.write_metadata or arguments.in_place
    survey = arguments.out or arguments.drive or metadata
    return bool(more or survey or first.suffix.lower() == ".csv" or first.is_dir())


def run_survey(arguments: argparse.Namespace, settings: Settings, hints: Hints) -> None:
    """Locate the images and write their table.

    Raises:
        SurveyError: the survey cannot begin, or its table cannot be written.
        SomeImagesFailed: it is written, and some images have a problem.
    """
    from service.cli.wiring import open_localizer
    from service.survey.drives import survey_drives
    from service.survey.run import survey

    out: Path | None = arguments.out
    _check(arguments)
    placement = _placement(arguments)
    images = find_images(arguments.path, hints, arguments.write_metadata)
    if placement:
        goes_on = out is not None and journal_path(out).exists()
        placement.check(images, replace=arguments.overwrite or goes_on)
    localizer = open_localizer(settings)
    outcomes = []
    run = survey_drives if arguments.drive else survey
    kind = " in drives" if arguments.drive else ""
    with Journal.of(out, f"{localizer.live.get().version} {placement}{kind}") as journal:
        with _progress(None if out else sys.stdout) as (write, progress):
            for outcome in run(
                localizer,
                images,
                journal,
                placement.write if placement else None,
                progress=progress,
                decode_threads=settings.decode_threads,
                max_batch=settings.max_batch,
            ):
                write(outcome)
                outcomes.append(outcome)
        if out is not None:
            _write(out, outcomes)
    _sum_up(outcomes, out)


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what would be found out only after hours."""
    out: Path | None = arguments.out
    if arguments.json or arguments.top_k != DEFAULT_TOP_K:
        raise SurveyError("--json and --top-k are for one image: leave them out, or use --out")
    if out is None:
        return
    if not out.parent.is_dir():
        raise SurveyError(f"{out}: there is no folder {out.parent}: make the folder first")
    if out.is_dir():
        raise SurveyError(f"{out} is a folder: name a file")
    if out.exists() and not (arguments.overwrite or journal_path(out).exists()):
        raise SurveyError(f"{out} exists already: give --overwrite, or name another file")


def _placement(arguments: argparse.Namespace) -> Placement | None:
    """How --write-metadata or --in-place write places."""
    from service.survey.placement import Placement

    copies: Path | None = arguments.write_metadata
    if copies and arguments.in_place:
        raise SurveyError("--write-metadata and --in-place exclude each other: give one of them")
    if copies or arguments.in_place:
        return Placement(copies, arguments.min_confidence, arguments.dry_run)
    if arguments.dry_run:
        raise SurveyError("--dry-run needs --write-metadata or --in-place")
    return None


@contextmanager
def _progress(stdout: TextIO | None) -> Iterator[tuple[Callable[[Outcome], None], Report]]:
    """A function that prints an outcome to `stdout`, and a progress bar unless both would mix."""
    if stdout is None:
        with progress_bar("locating images") as report:
            yield lambda outcome: None, report
        return

    def write(outcome: Sequence[object]) -> None:
        print(csv_line(outcome), end="", file=stdout, flush=True)

    write(Outcome._fields)
    # The bar replaces sys.stdout, but not this stream.
    bar = nullcontext(_no_report) if stdout.isatty() else progress_bar("locating images")
    with bar as report:
        yield write, report


def _no_report(done: int, expected: int) -> None:
    """The rows on the terminal show the progress."""


def _write(out: Path, outcomes: Sequence[Outcome]) -> None:
    try:
        write_atomically(out, FORMATS[out.suffix.lower()](outcomes).encode())
    except OSError as error:
        raise SurveyError(
            f"{out} cannot be written: {error.strerror}. Nothing is lost: give the command again"
        ) from error


def _sum_up(outcomes: Sequence[Outcome], out: Path | None) -> None:
    failed = [outcome for outcome in outcomes if outcome.problem is not None]
    where = f"{out}: " if out else ""
    if failed:
        raise SomeImagesFailed(
            f"{where}{len(failed)} of {len(outcomes)} images have a problem; the first is "
            f"{failed[0].file}: {failed[0].problem}"
        )
    if out:
        print(f"{where}{len(outcomes)} images located")
