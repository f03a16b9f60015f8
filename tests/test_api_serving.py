"""Weights and index change together, or not at all; nothing that runs is dropped."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeEncoder, panorama_of
from serving import publish

from service.api.serving import Serving, WeightsMissing, answer
from service.hints import Hints
from service.index.live import LiveIndex
from service.localizer import Localizer

OLD, NEW = "fa" * 32, "0b" * 32
NORTH = Hints(heading_deg=0.0)


@pytest.fixture
def open_localizer(tmp_path: Path) -> Callable[[str], Localizer]:
    def opened(fingerprint: str) -> Localizer:
        if fingerprint not in (OLD, NEW):
            raise WeightsMissing(fingerprint)
        encoder = FakeEncoder(fingerprint=fingerprint)
        return Localizer(encoder, LiveIndex(tmp_path, fingerprint, look_every_s=0.0), rolls=4)

    return opened


@pytest.fixture
def serving(tmp_path: Path, open_localizer: Callable[[str], Localizer]) -> Serving:
    publish(tmp_path, "town", range(3), FakeEncoder())
    made = Serving(open_localizer(OLD), open_localizer)
    made.localizer.locate(panorama_of(1))
    made.follow()
    assert made.localizer.encoder.fingerprint == OLD
    return made


def test_an_index_of_other_weights_goes_live_with_them(tmp_path: Path, serving: Serving) -> None:
    before = serving.localizer
    running = before, before.prepare(panorama_of(1), NORTH, 1)
    version = publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=NEW))
    serving.follow()
    after = serving.localizer
    fresh = after, after.prepare(panorama_of(5), NORTH, 1)
    old, new = answer([running, fresh])
    assert (old.encoder, old.matches[0].tile_id) == (OLD, "t1")
    assert (new.encoder, new.index_version, new.matches[0].tile_id) == (NEW, version, "t5")
    assert old.index_version != version
    back, forth = answer([fresh, running])
    assert (back.encoder, forth.encoder) == (NEW, OLD)


def test_without_the_weights_the_old_pair_stays(
    tmp_path: Path, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = "77" * 32
    publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=unknown))
    serving.follow()
    assert serving.localizer.encoder.fingerprint == OLD
    assert serving.localizer.locate(panorama_of(1), NORTH, 1).matches[0].tile_id == "t1"
    assert unknown in caplog.text
    with pytest.raises(WeightsMissing):
        serving.check(unknown)
    with pytest.raises(WeightsMissing, match="cannot change"):
        Serving(serving.localizer).check(NEW)


def test_weights_that_arrive_late_are_tried_again(
    tmp_path: Path, open_localizer: Callable[[str], Localizer]
) -> None:
    publish(tmp_path, "town", range(3), FakeEncoder())
    there: set[str] = {OLD}

    def opened(fingerprint: str) -> Localizer:
        return open_localizer(fingerprint if fingerprint in there else "missing")

    serving = Serving(open_localizer(OLD), opened, retry_every_s=0.0)
    publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=NEW))
    serving.follow()
    assert "missing" in (serving.trouble() or "")
    there.add(NEW)
    serving.follow()
    assert (serving.localizer.encoder.fingerprint, serving.trouble()) == (NEW, None)


def test_trouble_lasts_until_a_retry_succeeds_whatever_fails(
    tmp_path: Path, serving: Serving
) -> None:
    during: list[str | None] = []

    def reopen(fingerprint: str) -> Localizer:
        during.append(broken.trouble())
        raise MemoryError(fingerprint)

    broken = Serving(serving.localizer, reopen, retry_every_s=0.0)
    version = publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=NEW))
    broken.follow()
    refused = broken.trouble()
    assert version in (refused or "")
    broken.follow()
    assert (during[1:], broken.trouble()) == ([refused], refused)
