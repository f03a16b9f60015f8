"""A survey: many images located in one run, each once, also when the run was killed before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from service.locate.localizer import Localizer
from service.survey.images import SurveyImage
from service.survey.journal import Journal
from service.survey.locating import Finish, locate_images
from service.survey.outcome import Outcome


def survey(
    localizer: Localizer,
    images: Sequence[SurveyImage],
    journal: Journal | None = None,
    finish: Finish | None = None,
    progress: Callable[[int, int], None] = lambda done, expected: None,
    *,
    decode_threads: int = 2,
    max_batch: int = 8,
) -> Iterator[Outcome]:
    """Outcomes in the order of the images, which differ from each other.

    Args:
        journal: knows the outcomes of an earlier run, and gets each new one at once.
        finish, decode_threads, max_batch: see `locate_images`.

    Raises:
        SurveyError: the journal's disk refuses. Else see `locate_images`.
    """
    journal = journal or Journal("")
    ready = {image: known for image in images if (known := journal.recall(image))}
    rest = [image for image in images if image not in ready]
    expected = deque(images)
    progress(len(images) - len(rest), len(images))
    located = locate_images(
        localizer, rest, finish, decode_threads=decode_threads, max_batch=max_batch
    )
    for done, (image, outcome) in enumerate(located, len(images) - len(rest) + 1):
        journal.add(image, outcome)
        ready[image] = outcome
        progress(done, len(images))
        while expected and expected[0] in ready:
            yield ready.pop(expected.popleft())
    yield from (ready[image] for image in expected)
