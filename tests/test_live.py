"""The live index follows CURRENT, drops nobody, and keeps the last good version."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from index_samples import ENCODER, random_units, write_version

from service.index.live import LiveIndex
from service.index.manifest import VECTORS, VersionCorrupt
from service.index.versions import EncoderMismatch, IndexMissing, Versions

FIRST, SECOND = "000001-20260101T000000Z", "000002-20260102T000000Z"


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    write_version(tmp_path / "index", 40, 8, name=FIRST)
    versions = Versions(tmp_path)
    versions.activate(FIRST)
    return versions


def live(tmp_path: Path) -> LiveIndex:
    return LiveIndex(tmp_path, ENCODER, look_every_s=0.0)


def wait_for(index: LiveIndex, version: str) -> None:
    deadline = time.monotonic() + 10.0
    while index.get().version != version:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_new_version_is_picked_up_and_the_old_one_stays_usable(
    versions: Versions, tmp_path: Path
) -> None:
    index = live(tmp_path)
    old = index.get()
    write_version(tmp_path / "index", 60, 8, name=SECOND)
    versions.activate(SECOND)
    wait_for(index, SECOND)
    versions.prune(keep=1)
    assert versions.names() == [SECOND]
    assert old.search(random_units(1, 8, seed=5), 50)[1].shape == (1, 40)
    assert index.get().search(random_units(1, 8, seed=5), 50)[1].shape == (1, 50)


def test_without_an_index_it_says_so_and_finds_the_first_build(tmp_path: Path) -> None:
    index = live(tmp_path)
    with pytest.raises(IndexMissing):
        index.get()
    write_version(tmp_path / "index", 40, 8, name=FIRST)
    Versions(tmp_path).activate(FIRST)
    assert index.get().version == FIRST


@pytest.mark.parametrize("fault", ["truncated", "encoder", "nowhere"])
def test_a_bad_version_is_refused_loudly_and_the_last_good_one_stays(
    fault: str, versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = live(tmp_path)
    index.get()
    made_by = "bb" * 32 if fault == "encoder" else ENCODER
    folder = write_version(tmp_path / "index", 60, 8, name=SECOND, encoder=made_by)
    if fault == "truncated":
        np.save(folder / VECTORS, np.zeros((3, 8), np.float32))
    name = "000007-20260102T000000Z" if fault == "nowhere" else SECOND
    versions.pointer.write_text(name)
    with caplog.at_level(logging.ERROR):
        index.refresh()
    assert f"{name} is not used, {FIRST} stays live" in caplog.text
    assert index.get().version == FIRST


def test_a_refused_version_is_tried_again(versions: Versions, tmp_path: Path) -> None:
    index = LiveIndex(tmp_path, ENCODER, look_every_s=0.0, retry_every_s=0.05)
    index.get()
    folder = write_version(tmp_path / "index", 60, 8, name=SECOND)
    (folder / VECTORS).rename(tmp_path / "late")
    versions.pointer.write_text(SECOND)
    index.refresh()
    assert SECOND in (index.trouble() or "")
    (tmp_path / "late").rename(folder / VECTORS)
    wait_for(index, SECOND)
    assert index.trouble() is None


def test_an_index_of_another_encoder_is_refused_by_name(versions: Versions, tmp_path: Path) -> None:
    with pytest.raises(EncoderMismatch, match=f"{FIRST} was built by encoder fafafa.*cccccc"):
        LiveIndex(tmp_path, "cc" * 32).get()


def test_damage_found_in_the_background_drops_the_version(
    versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_version(tmp_path / "index", 60, 8, name=SECOND)
    versions.activate(SECOND)
    data = bytearray((folder / VECTORS).read_bytes())
    data[-2] ^= 1
    (folder / VECTORS).write_bytes(data)
    index = live(tmp_path)
    assert index.get().version in (FIRST, SECOND)
    wait_for(index, FIRST)
    assert f"{SECOND} is dropped" in caplog.text


@pytest.mark.parametrize("others", [0, 1])
def test_a_server_starts_on_the_last_good_version(
    others: int, versions: Versions, tmp_path: Path
) -> None:
    folder = write_version(tmp_path / "index", 60, 8, name=SECOND)
    versions.activate(SECOND)
    (folder / VECTORS).unlink()
    if others:
        assert live(tmp_path).get().version == FIRST
    else:
        shutil.rmtree(versions.path(FIRST))
        with pytest.raises(VersionCorrupt):
            live(tmp_path).get()


@pytest.mark.parametrize("content", ["", "nonsense", "../../etc", "\x00\xff", FIRST[:-1]])
def test_a_damaged_pointer_keeps_the_last_good_version(
    content: str, versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = live(tmp_path)
    running.get()
    versions.pointer.write_text(content)
    running.refresh()
    assert running.get().version == FIRST
    assert live(tmp_path).get().version == FIRST  # a server that starts now
    assert "is not used" in caplog.text


def test_a_deleted_index_stays_usable_and_is_reported(
    versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = live(tmp_path)
    opened = index.get()
    assert index.trouble() is None
    for thread in threading.enumerate():
        if thread.name == "index-check":  # it would notice first, and say it in its own words
            thread.join()
    shutil.rmtree(versions.path(FIRST))
    assert "its folder is gone" in (index.trouble() or "")
    index.check(opened)  # as if the files had gone while they were being read
    versions.pointer.unlink()
    index.refresh()
    assert f"{FIRST} stays live" in (index.trouble() or "")
    assert f"{FIRST} stays live" in caplog.text
    assert index.get() is opened
