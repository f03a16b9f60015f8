"""Locates drives: the images of a folder are the frames of a drive, or of several after pauses."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from model.errors import SkyfixError
from service.locate.drive_path import Frame
from service.locate.drive_times import Taken, locate_by_time
from service.locate.localizer import Localizer, Query, some_rows
from service.survey.images import SurveyError, SurveyImage
from service.survey.journal import Journal
from service.survey.locating import Finish, read_file
from service.survey.outcome import Outcome

if TYPE_CHECKING:
    from service.index.search import TileIndex

Prepared = tuple[SurveyImage, Query | SkyfixError]
Report = Callable[[int, int], None]


class Shot(NamedTuple):
    """An image of a drive: its candidates, or the problem that it has."""

    image: SurveyImage
    taken: Taken | None
    frame: Frame | None = None
    problem: str | None = None


def survey_drives(
    localizer: Localizer,
    images: Sequence[SurveyImage],
    journal: Journal | None = None,
    finish: Finish | None = None,
    progress: Report = lambda done, expected: None,
    *,
    decode_threads: int = 2,
    max_batch: int = 8,
) -> Iterator[Outcome]:
    """Outcomes of the images, folder by folder, in the order of each folder's first image.

    A drive's frames are in the order of their times where all state one, else in the images' order.

    Args:
        journal: knows the outcomes of an earlier run. A drive counts as a whole.
        finish, decode_threads, max_batch: see `locate_images`.

    Raises:
        IndexMissing, EncoderMismatch, VersionCorrupt: from the live index.
        SurveyError: the journal's disk refuses.
    """
    journal = journal or Journal("")
    index, done, number = localizer.live.get(), 0, 1
    progress(0, len(images))
    folders: dict[Path, list[SurveyImage]] = {}
    for image in images:
        folders.setdefault(image.path.parent, []).append(image)
    for folder in folders.values():
        known = [journal.recall(image) for image in folder]
        outcomes = [outcome for outcome in known if outcome is not None]
        if len(outcomes) < len(folder):
            shots = []
            prepared = _prepared(localizer, index, folder, decode_threads)
            for shot in _shots(localizer, index, prepared, max_batch):
                shots.append(shot)
                progress(done + len(shots), len(images))
            outcomes = list(_located(index, shots, number))
            if finish is not None:
                outcomes = [
                    _finished(finish, image, outcome)
                    for image, outcome in zip(folder, outcomes, strict=True)
                ]
            for image, outcome in zip(folder, outcomes, strict=True):
                journal.add(image, outcome)
        done += len(folder)
        progress(done, len(images))
        number = max([number, *(1 + outcome.drive for outcome in outcomes if outcome.drive)])
        yield from outcomes


def _finished(finish: Finish, image: SurveyImage, outcome: Outcome) -> Outcome:
    """Reads the file once more: a drive's files are too many to be kept."""
    if outcome.problem is not None:
        return outcome
    try:
        return finish(image, read_file(image), outcome)
    except SurveyError as error:
        return outcome._replace(problem=str(error))


def _prepared(
    localizer: Localizer, index: TileIndex, images: Sequence[SurveyImage], threads: int
) -> Iterator[Prepared]:
    """The images decoded in their order, a few ahead of the encoder."""
    waiting: deque[Future[Prepared]] = deque()
    with ThreadPoolExecutor(threads, "drive") as pool:
        for image in images:
            waiting.append(pool.submit(_prepare, localizer, index, image))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        for ready in waiting:
            yield ready.result()


def _prepare(localizer: Localizer, index: TileIndex, image: SurveyImage) -> Prepared:
    try:
        if image.problem is not None:
            raise SurveyError(image.problem)
        some_rows(index, image.hints)
        return image, localizer.prepare(read_file(image), image.hints, top_k=1)
    except SkyfixError as error:
        return image, error


def _shots(
    localizer: Localizer, index: TileIndex, prepared: Iterator[Prepared], max_batch: int
) -> Iterator[Shot]:
    """Of a frame that is encoded only its candidates are kept."""
    while batch := list(itertools.islice(prepared, max_batch)):
        queries = [query for _, query in batch if isinstance(query, Query)]
        frames = iter(localizer.frames(index, queries) if queries else ())
        for image, query in batch:
            if isinstance(query, Query):
                time = image.time or query.time
                yield Shot(image, Taken.at(time) if time else None, next(frames))
            else:
                yield Shot(image, None, problem=str(query))


def _located(index: TileIndex, shots: Sequence[Shot], first: int) -> Iterator[Outcome]:
    """Outcomes in the order of the images. The drives are numbered from `first`."""
    found = locate_by_time(index, [shot.frame for shot in shots], [shot.taken for shot in shots])
    for shot, place in zip(shots, found.places, strict=True):
        file, time = shot.image.file, shot.taken.text if shot.taken else None
        if place is None:
            yield Outcome(file, time=time, problem=shot.problem)
        else:
            yield Outcome.of_drive(file, place.frame, first + place.drive, time, index.version)
