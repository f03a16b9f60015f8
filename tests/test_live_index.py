"""The live index follows CURRENT, drops no request, and keeps the last good version."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
from index_samples import ENCODER, random_units, write_version

from service.index import engine_choice
from service.index.gpu import Gpu
from service.index.ivf_pq import IVF_FILE
from service.index.live_index import LiveIndex
from service.index.manifest import TILES, VECTORS, Content, Manifest, VersionCorrupt
from service.index.search import TileIndex
from service.index.versions import EncoderMismatch, IndexMissing, Versions

FIRST, SECOND = "000001-20260101T000000Z", "000002-20260102T000000Z"


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    write_version(tmp_path / "index", 40, 8, name=FIRST)
    versions = Versions(tmp_path)
    versions.activate(FIRST)
    return versions


def live(tmp_path: Path) -> LiveIndex:
    return LiveIndex(tmp_path, ENCODER)


def wait_for(index: LiveIndex, version: str) -> None:
    deadline = time.monotonic() + 10.0
    while index.get().version != version:
        assert time.monotonic() < deadline
        index.follow()
        time.sleep(0.01)


class Faulty(LiveIndex):
    """Raises its faults, one for each opening: errors that the code does not expect."""

    faults: tuple[Exception, ...] = ()

    def _open(self, name: str) -> TileIndex:
        if self.faults:
            fault, *left = self.faults
            self.faults = tuple(left)
            raise fault
        return super()._open(name)


class SmallGpu(Gpu):
    """Holds 50 vectors, in the memory of the CPU."""

    def _clone(self) -> faiss.Index:
        if len(self._flat.vectors) > 50:
            raise RuntimeError("cudaMalloc error out of memory")
        return faiss.clone_index(self._flat.index)


def blind_version(index_folder: Path, how: str) -> None:
    """Write SECOND with right digests, but with vectors without direction or wrong codes."""
    if how != "codes":
        vectors = np.full((60, 8), {"nan": np.nan, "zero": 0.0}[how], np.float32)
        write_version(index_folder, 60, 8, name=SECOND, vectors=vectors)
        return
    vectors = random_units(1000, 8, seed=7)
    folder = write_version(index_folder, 1000, 8, name=SECOND, vectors=vectors)
    codes = faiss.IndexFlatIP(8)  # a valid engine file that needs no training
    codes.add(-vectors)
    faiss.write_index(codes, str(folder / IVF_FILE))
    manifest = Manifest.read(folder)
    files = {name: Content.of(folder / name) for name in (*manifest.files, IVF_FILE)}
    dataclasses.replace(manifest, files=files, engine={"kind": "ivfpq"}).write(folder)


def test_a_new_version_goes_live_and_the_old_version_stays_usable(
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


def test_an_index_is_missing_until_the_first_build(tmp_path: Path) -> None:
    index = live(tmp_path)
    with pytest.raises(IndexMissing):
        index.get()
    write_version(tmp_path / "index", 40, 8, name=FIRST)
    Versions(tmp_path).activate(FIRST)
    assert index.get().version == FIRST


@pytest.mark.parametrize("fault", ["truncated", "nowhere"])
def test_a_bad_version_is_refused_and_logged_and_the_last_good_version_stays(
    fault: str, versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = live(tmp_path)
    index.get()
    folder = write_version(tmp_path / "index", 60, 8, name=SECOND)
    if fault == "truncated":
        (folder / VECTORS).write_bytes(b"short")
    name = "000007-20260102T000000Z" if fault == "nowhere" else SECOND
    versions.pointer.write_text(name)
    with caplog.at_level(logging.ERROR):
        index.follow()
    assert f"{name} is not used, {FIRST} stays live" in caplog.text
    assert index.get().version == FIRST


def test_a_version_of_another_encoder_is_left_to_the_caller(
    versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = live(tmp_path)
    opened = index.get()
    write_version(tmp_path / "index", 60, 8, name=SECOND, encoder="bb" * 32)
    versions.activate(SECOND)
    assert index.follow() == SECOND
    assert (index.get(), index.trouble(), caplog.text) == (opened, None, "")


def test_a_refused_version_is_tried_again(versions: Versions, tmp_path: Path) -> None:
    index = LiveIndex(tmp_path, ENCODER, retry_every_s=0.05)
    index.get()
    folder = write_version(tmp_path / "index", 60, 8, name=SECOND)
    (folder / VECTORS).rename(tmp_path / "late")
    versions.pointer.write_text(SECOND)
    index.follow()
    assert SECOND in (index.trouble() or "")
    (tmp_path / "late").rename(folder / VECTORS)
    wait_for(index, SECOND)
    assert index.trouble() is None


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("nan", "are not finite"),
        ("zero", "do not find themselves"),
        ("codes", "do not find themselves"),
    ],
)
def test_a_version_that_fails_its_canary_is_refused(
    how: str, why: str, versions: Versions, tmp_path: Path
) -> None:
    running = live(tmp_path)
    running.get()
    blind_version(tmp_path / "index", how)
    versions.pointer.write_text(SECOND)
    running.follow()
    for index in (running, live(tmp_path)):  # also a server that starts now
        assert index.get().version == FIRST
        assert SECOND in (index.trouble() or "")
        assert why in (index.trouble() or "")


@pytest.mark.parametrize("fault", [RuntimeError("CUDA out of memory"), MemoryError(), OSError(5)])
def test_any_error_is_logged_and_tried_again(
    fault: Exception, versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = Faulty(tmp_path, ENCODER, retry_every_s=0.05)
    index.get()
    write_version(tmp_path / "index", 60, 8, name=SECOND)
    versions.activate(SECOND)
    index.faults = (fault, fault)
    index.follow()
    assert f"{type(fault).__name__}, see the service's log" in (index.trouble() or "")
    assert f"{SECOND} is not used, {FIRST} stays live: {fault!r}" in caplog.text
    wait_for(index, SECOND)
    assert index.trouble() is None


def test_any_error_at_the_start_leaves_the_last_good_version(
    versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_version(tmp_path / "index", 60, 8, name=SECOND)
    versions.activate(SECOND)
    index = Faulty(tmp_path, ENCODER)
    index.faults = (RuntimeError("nobody thought of it"),)
    assert index.get().version == FIRST
    assert f"index version {SECOND} is not used: RuntimeError" in (index.trouble() or "")
    assert "nobody thought of it" in caplog.text


def test_a_gpu_that_is_full_keeps_the_last_good_version(
    versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "Gpu", SmallGpu)
    index = LiveIndex(tmp_path, ENCODER, "cuda")
    opened = index.get()
    write_version(tmp_path / "index", 60, 8, name=SECOND)
    versions.activate(SECOND)
    index.follow()
    assert "the GPU cannot search 60 vectors: cudaMalloc error" in (index.trouble() or "")
    assert index.get() is opened
    fresh = LiveIndex(tmp_path, ENCODER, "cuda")  # a server that starts now
    assert fresh.get().version == FIRST
    assert "SKYFIX_DEVICE=cpu" in (fresh.trouble() or "")
    versions.activate(FIRST)
    index.follow()
    assert index.get() is opened
    assert index.trouble() is None


@pytest.mark.parametrize("how", ["folder", "loop"])
def test_a_pointer_that_cannot_be_read_keeps_the_last_good_version(
    how: str, versions: Versions, tmp_path: Path
) -> None:
    running = LiveIndex(tmp_path, ENCODER, retry_every_s=0.05)
    opened = running.get()
    versions.pointer.unlink()
    if how == "folder":
        versions.pointer.mkdir()
    else:
        versions.pointer.symlink_to(versions.pointer)
    assert running.get() is opened
    running.follow()
    assert "CURRENT cannot be read" in (running.trouble() or "")
    assert live(tmp_path).get().version == FIRST  # a server that starts now
    versions.pointer.rename(tmp_path / "away")
    versions.activate(FIRST)
    deadline = time.monotonic() + 10.0
    while running.trouble():
        running.follow()
        assert running.get() is opened  # and not opened again: a GPU may not hold it twice
        assert time.monotonic() < deadline


def test_an_index_of_another_encoder_is_refused_by_fingerprint(
    versions: Versions, tmp_path: Path
) -> None:
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


@pytest.mark.parametrize("name", [VECTORS, TILES])
def test_a_truncated_file_is_never_read(
    name: str, versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading the lost pages would end the process, and this test with it."""
    folder = write_version(tmp_path / "index", 4000, 8, name=SECOND)
    versions.activate(SECOND)
    index = live(tmp_path)
    opened = index.get()
    assert opened.version == SECOND
    for thread in threading.enumerate():
        if thread.name == "index-check":  # the check would notice first, with another message
            thread.join()
    os.truncate(folder / name, 4096)
    with pytest.raises(VersionCorrupt, match=f"{name} was cut to 4096 bytes"):
        opened.search(random_units(1, 8, 0), 5)
    assert index.get().version == FIRST
    assert f"{SECOND} is dropped: index version {SECOND}: {name} was cut" in caplog.text
    assert "is dropped" in (index.trouble() or "")


def cut(folder: Path) -> bytes:
    """Cut a version's vectors short. Returns the whole file."""
    whole = (folder / VECTORS).read_bytes()
    os.truncate(folder / VECTORS, 4096)
    return whole


@pytest.mark.parametrize("how", ["followed", "activated"])
def test_a_dropped_version_is_used_again_once_its_files_are_back(
    how: str, versions: Versions, tmp_path: Path
) -> None:
    folder = write_version(tmp_path / "index", 4000, 8, name=SECOND)
    versions.activate(SECOND)
    index = live(tmp_path)
    assert index.get().version == SECOND
    whole = cut(folder)
    assert index.get().version == FIRST
    (folder / VECTORS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # as long, but not the same
    index.follow()
    with pytest.raises(VersionCorrupt, match=r"content of vectors\.faiss has changed"):
        index.activate(index.open(SECOND))
    index.follow()
    assert index.get().version == FIRST
    (folder / VECTORS).write_bytes(whole)
    if how == "followed":
        index.follow()
    else:
        index.activate(index.open(SECOND))
    assert (index.get().version, index.trouble()) == (SECOND, None)


def test_a_dropped_version_is_replaced_by_the_version_in_current(
    versions: Versions, tmp_path: Path
) -> None:
    third = "000003-20260103T000000Z"
    folder = write_version(tmp_path / "index", 4000, 8, name=third)
    write_version(tmp_path / "index", 50, 8, name=SECOND)
    versions.activate(third)
    index = LiveIndex(tmp_path, ENCODER)
    assert index.get().version == third
    versions.activate(FIRST)
    cut(folder)
    assert (index.get().version, index.trouble()) == (FIRST, None)


def test_a_replaced_or_deleted_file_keeps_its_content_for_readers(
    versions: Versions, tmp_path: Path
) -> None:
    opened = live(tmp_path).get()
    before = opened.search(random_units(3, 8, 0), 5)
    path = versions.path(FIRST) / VECTORS
    path.unlink()
    assert np.array_equal(opened.search(random_units(3, 8, 0), 5)[1], before[1])
    path.write_bytes(b"short")
    assert np.array_equal(opened.search(random_units(3, 8, 0), 5)[1], before[1])


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
    running.follow()
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
        if thread.name == "index-check":  # the check would notice first, with another message
            thread.join()
    shutil.rmtree(versions.path(FIRST))
    assert "its folder is gone" in (index.trouble() or "")
    index.check(opened)  # as if the files had gone while they were being read
    versions.pointer.unlink()
    index.follow()
    assert f"{FIRST} stays live" in (index.trouble() or "")
    assert f"{FIRST} stays live" in caplog.text
    assert index.get() is opened
