"""Weights and index change together or not at all; no running request is dropped."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from api_harness import publish
from fakes import FakeEncoder, panorama_of
from numpy.typing import NDArray

from model.images import Rgb
from model.panorama import Panorama
from service.api.app import create_app
from service.index.catalogue import Catalogue
from service.index.live_index import LiveIndex
from service.index.manifest import VECTORS
from service.index.versions import EncoderMismatch, IndexUnwritable, Versions
from service.locate.hints import Hints
from service.locate.localizer import Localizer
from service.runtime.live_localizer import (
    LiveLocalizer,
    Prepared,
    VersionRefused,
    WeightsMissing,
    answer,
)
from service.settings import Settings

OLD, NEW = "fa" * 32, "0b" * 32
NORTH = Hints(heading_deg=0.0)


@pytest.fixture
def open_localizer(tmp_path: Path) -> Callable[[str], Localizer]:
    def opened(fingerprint: str) -> Localizer:
        if fingerprint not in (OLD, NEW):
            raise WeightsMissing(fingerprint)
        encoder = FakeEncoder(fingerprint=fingerprint)
        return Localizer(encoder, LiveIndex(tmp_path, fingerprint), rolls=4)

    return opened


@pytest.fixture
def live(tmp_path: Path, open_localizer: Callable[[str], Localizer]) -> LiveLocalizer:
    publish(tmp_path, "town", range(3), FakeEncoder())
    made = LiveLocalizer(open_localizer(OLD), open_localizer)
    made.localizer.locate(panorama_of(1))
    made.follow()
    assert made.localizer.encoder.fingerprint == OLD
    return made


def test_an_index_of_other_weights_goes_live_with_them(tmp_path: Path, live: LiveLocalizer) -> None:
    before = live.localizer
    running = Prepared(before, before.prepare(panorama_of(1), NORTH, 1))
    version = publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=NEW))
    live.follow()
    after = live.localizer
    fresh = Prepared(after, after.prepare(panorama_of(5), NORTH, 1))
    old, new = answer([running, fresh])
    assert (old.encoder, old.matches[0].tile_id) == (OLD, "t1")
    assert (new.encoder, new.index_version, new.matches[0].tile_id) == (NEW, version, "t5")
    assert old.index_version != version
    back, forth = answer([fresh, running])
    assert (back.encoder, forth.encoder) == (NEW, OLD)


def test_a_version_goes_live_before_a_request(tmp_path: Path) -> None:
    first = publish(tmp_path, "town", range(3), FakeEncoder())
    index = LiveIndex(tmp_path, OLD)
    live = LiveLocalizer(Localizer(FakeEncoder(), index), follow_every_s=0.02)
    assert index.get().version == first
    second = publish(tmp_path, "suburb", range(5, 7), FakeEncoder())
    live.start()
    try:
        until = time.monotonic() + 20.0
        while index.get().version != second:
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        live.stop()


def test_a_server_that_starts_on_an_index_of_other_weights_opens_them(
    tmp_path: Path, open_localizer: Callable[[str], Localizer]
) -> None:
    version = publish(tmp_path, "town", range(3), FakeEncoder(fingerprint=NEW))
    live = LiveLocalizer(open_localizer(OLD), open_localizer)
    with pytest.raises(EncoderMismatch):
        live.index.get()
    live.follow()
    assert (live.localizer.encoder.fingerprint, live.index.get().version) == (NEW, version)


def test_without_any_weights_of_the_index_the_reason_stays(
    tmp_path: Path, open_localizer: Callable[[str], Localizer], caplog: pytest.LogCaptureFixture
) -> None:
    unknown = "77" * 32
    version = publish(tmp_path, "town", range(3), FakeEncoder(fingerprint=unknown))
    live = LiveLocalizer(open_localizer(OLD), open_localizer)
    for _ in range(3):
        live.follow()
        with pytest.raises(EncoderMismatch):
            live.index.get()
    assert f"index version {version} is not used: {unknown}" in (live.trouble() or "")
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


def test_without_the_weights_the_old_pair_stays(
    tmp_path: Path, live: LiveLocalizer, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = "77" * 32
    publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=unknown))
    live.follow()
    assert live.localizer.encoder.fingerprint == OLD
    assert live.localizer.locate(panorama_of(1), NORTH, 1).matches[0].tile_id == "t1"
    assert unknown in caplog.text
    assert "ERROR" in caplog.text


def test_other_weights_go_live_with_the_named_version_or_not_at_all(
    tmp_path: Path, live: LiveLocalizer
) -> None:
    """Another whole version of the new weights is no reason to change."""
    before = Versions(tmp_path).current()
    for region, seeds in (("suburb", range(5, 7)), ("village", range(7, 9))):
        version = publish(tmp_path, region, seeds, FakeEncoder(fingerprint=NEW))
    os.truncate(tmp_path / "index" / version / VECTORS, 10)
    live.follow()
    assert live.localizer.locate(panorama_of(1), NORTH, 1).index_version == before
    trouble = live.trouble() or ""
    assert f"{version} is not used, {before} stays live: " in trouble
    assert f"index version {version}: vectors.faiss has 10 bytes" in trouble


@pytest.mark.parametrize("made_by", [OLD, NEW])
def test_an_activated_version_answers_at_once_and_is_opened_once(
    made_by: str, tmp_path: Path, open_localizer: Callable[[str], Localizer]
) -> None:
    first = publish(tmp_path, "town", range(3), FakeEncoder())
    opened: list[str] = []

    def reopen(fingerprint: str) -> Localizer:
        opened.append(fingerprint)
        return open_localizer(fingerprint)

    live = LiveLocalizer(open_localizer(OLD), reopen)
    live.localizer.locate(panorama_of(1))
    second = publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=made_by))
    Versions(tmp_path).activate(first)
    before = live.localizer
    assert live.activate(second).version == second
    index = live.index.get()
    assert (index.version, Versions(tmp_path).current()) == (second, second)
    after = live.localizer
    fix = after.locate(panorama_of(5), NORTH, 1)
    assert (fix.encoder, fix.index_version, fix.matches[0].tile_id) == (made_by, second, "t5")
    assert (
        before.locate(panorama_of(1), NORTH, 1).matches[0].tile_id == "t1"
    )  # the old pair keeps its index
    live.follow()
    assert (live.localizer, live.index.get(), live.trouble()) == (after, index, None)
    assert opened == ([] if made_by == OLD else [NEW])


@pytest.mark.parametrize("fault", ["weights", "encoder", "vectors", "pointer"])
def test_a_failed_activation_changes_nothing(
    fault: str, tmp_path: Path, open_localizer: Callable[[str], Localizer]
) -> None:
    first = publish(tmp_path, "town", range(3), FakeEncoder())

    class Broken(FakeEncoder):
        def encode_strips(self, *_: object) -> NDArray[np.float32]:
            raise MemoryError

    def reopen(fingerprint: str) -> Localizer:
        fresh = open_localizer(OLD if fault == "weights" else fingerprint)
        if fault == "encoder":
            fresh.encoder = Broken(fingerprint=fingerprint)
        return fresh

    live = LiveLocalizer(open_localizer(OLD), reopen)
    live.localizer.locate(panorama_of(1))
    second = publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=NEW))
    versions = Versions(tmp_path)
    versions.activate(first)
    live.follow()
    if fault == "vectors":
        vectors = versions.path(second) / "vectors.faiss"
        vectors.write_bytes(vectors.read_bytes()[:-1] + b"\0")
    if fault == "pointer":
        (versions.folder / ".pointer").unlink()
        (versions.folder / ".pointer").mkdir()
    before = live.localizer
    expected = {
        "weights": EncoderMismatch,
        "encoder": MemoryError,
        "vectors": VersionRefused,
        "pointer": IndexUnwritable,
    }
    with pytest.raises(expected[fault]):
        live.activate(second)
    live.follow()
    assert (live.localizer, live.trouble(), versions.current()) == (before, None, first)
    assert before.locate(panorama_of(1), NORTH, 1).index_version == first


def test_without_weights_nothing_is_activated(tmp_path: Path, live: LiveLocalizer) -> None:
    unknown = "77" * 32
    version = publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=unknown))
    with pytest.raises(VersionRefused):
        live.activate(version)
    with pytest.raises(VersionRefused, match="cannot change"):
        LiveLocalizer(live.localizer).activate(version)


def test_an_empty_current_is_logged_once(
    tmp_path: Path, live: LiveLocalizer, caplog: pytest.LogCaptureFixture
) -> None:
    Versions(tmp_path).pointer.write_text("")
    live.follow()
    live.follow()
    assert "CURRENT is empty: run `skyfix activate`" in (live.trouble() or "")
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert live.localizer.locate(panorama_of(1), NORTH, 1).matches[0].tile_id == "t1"


def test_weights_that_arrive_late_are_tried_again(
    tmp_path: Path, open_localizer: Callable[[str], Localizer]
) -> None:
    publish(tmp_path, "town", range(3), FakeEncoder())
    there: set[str] = {OLD}

    def opened(fingerprint: str) -> Localizer:
        return open_localizer(fingerprint if fingerprint in there else "missing")

    index = LiveIndex(tmp_path, OLD, retry_every_s=0.0)
    live = LiveLocalizer(Localizer(FakeEncoder(), index, rolls=4), opened)
    publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=NEW))
    live.follow()
    assert "missing" in (live.trouble() or "")
    there.add(NEW)
    live.follow()
    assert (live.localizer.encoder.fingerprint, live.trouble()) == (NEW, None)


def test_trouble_lasts_until_a_retry_succeeds(tmp_path: Path, live: LiveLocalizer) -> None:
    during: list[str | None] = []

    def reopen(fingerprint: str) -> Localizer:
        during.append(broken.trouble())
        raise MemoryError(fingerprint)

    index = LiveIndex(tmp_path, OLD, retry_every_s=0.0)
    broken = LiveLocalizer(Localizer(FakeEncoder(), index, rolls=4), reopen)
    broken.localizer.locate(panorama_of(1))
    version = publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint=NEW))
    broken.follow()
    refused = broken.trouble()
    assert version in (refused or "")
    broken.follow()
    assert (during[1:], broken.trouble()) == ([refused], refused)


class SlowEncoder(FakeEncoder):
    """Slow enough that panoramas are always being decoded and encoded, and some wait.

    An encoder of OLD cannot search the index of NEW, and reads its strips upside down.
    """

    at_once = 2

    def __init__(self, fingerprint: str) -> None:
        super().__init__({OLD: 32, NEW: 40}[fingerprint], fingerprint)
        self._order = {OLD: 1, NEW: -1}[fingerprint]

    def read_street(self, panorama: Panorama) -> Rgb:
        time.sleep(0.005)
        return super().read_street(panorama)[:: self._order]

    def encode_strips(self, strips: Sequence[Rgb], norths: Sequence[float]) -> NDArray[np.float32]:
        time.sleep(0.02)
        return super().encode_strips([strip[:: self._order] for strip in strips], norths)


@pytest.mark.anyio
async def test_under_load_every_answer_is_of_one_pair(tmp_path: Path) -> None:
    """Two pairs of weights and index without a tile in common alternate under twenty clients."""
    tiles = {NEW: [5, 6], OLD: [1, 2, 3]}
    versions = {}
    for made_by, seeds in tiles.items():
        versions[made_by] = publish(tmp_path, made_by, seeds, SlowEncoder(made_by))
        with Catalogue.of(tmp_path) as catalogue:  # the version keeps its tiles
            catalogue.remove_source(made_by)

    def opened(made_by: str) -> Localizer:
        return Localizer(SlowEncoder(made_by), LiveIndex(tmp_path, made_by))

    app = create_app(opened(OLD), Settings(home=tmp_path, max_stretch=1000.0), opened)
    answered: Counter[str] = Counter()
    ended = asyncio.Event()

    async def ask(client: httpx.AsyncClient, seed: int) -> None:
        files = {"panorama": panorama_of(seed)}
        while not ended.is_set():
            got = await client.post("/localize?heading_deg=0", files=files)
            assert got.status_code == 200, got.text
            fix = got.json()
            own = [f"t{number}" for number in tiles[fix["encoder"]]]
            assert fix["index_version"] == versions[fix["encoder"]]
            assert sorted(match["tile_id"] for match in fix["matches"]) == own
            if f"t{seed}" in own:
                assert fix["matches"][0]["tile_id"] == f"t{seed}"
                assert fix["matches"][0]["distance"] < 1e-5
            answered[fix["encoder"]] += 1
            await asyncio.sleep(
                0.004 * seed
            )  # else all clients would ask at once, between two batches

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://skyfix") as client,
        asyncio.TaskGroup() as clients,
    ):
        for seed in (1, 2, 3, 5, 6) * 4:
            clients.create_task(ask(client, seed))
        for made_by in (OLD, NEW) * 4:
            await asyncio.to_thread(Versions(tmp_path).activate, versions[made_by])
            await asyncio.to_thread(app.state.live.follow)
            enough = answered[made_by] + 20
            while answered[made_by] < enough:
                await asyncio.sleep(0.01)
        ended.set()
