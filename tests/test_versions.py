"""Damage is found wherever it is, and the pointer only ever moves to a whole version."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from index_samples import flat_file, random_units, write_version

from service.index.manifest import (
    TILES,
    VECTORS,
    VECTORS_OF_FORMAT_1,
    Content,
    Manifest,
    VersionCorrupt,
)
from service.index.search import TileIndex
from service.index.versions import (
    IndexMissing,
    IndexUnreadable,
    IndexUnwritable,
    Versions,
    VersionUnknown,
)

FIRST, SECOND = "000001-20260101T000000Z", "000002-20260102T000000Z"


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    for name in (FIRST, SECOND):
        write_version(tmp_path / "index", 40, 8, name=name)
    versions = Versions(tmp_path)
    versions.activate(SECOND)
    return versions


def test_names_pointer_and_manifest(versions: Versions) -> None:
    (versions.folder / ".new-000009-20260101T000000Z").mkdir()
    assert versions.names() == [FIRST, SECOND]
    assert versions.current() == SECOND
    assert versions.manifest(FIRST).count == 40
    assert versions.verify(FIRST).tiles == 40


def test_before_the_first_build(tmp_path: Path) -> None:
    empty = Versions(tmp_path / "nowhere")
    assert (empty.names(), empty.current()) == ([], None)
    with pytest.raises(IndexMissing, match="skyfix build"):
        empty.require_current()


def test_names_sort_by_age_whatever_the_clock_says(versions: Versions) -> None:
    assert versions.next_name(datetime(1999, 1, 1, tzinfo=UTC)) == "000003-19990101T000000Z"


@pytest.mark.parametrize("file", [VECTORS, TILES, "manifest.json"])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.999])
def test_a_flipped_bit_is_found(versions: Versions, file: str, where: float) -> None:
    path = versions.path(FIRST) / file
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 2))] ^= 4
    path.write_bytes(data)
    with pytest.raises(VersionCorrupt, match=FIRST):
        versions.activate(FIRST)
    assert versions.current() == SECOND


@pytest.mark.parametrize("file", [VECTORS, TILES, "manifest.json"])
def test_a_short_or_missing_file_is_found_at_once(versions: Versions, file: str) -> None:
    path = versions.path(FIRST) / file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(VersionCorrupt):
        TileIndex.open(versions.path(FIRST))
    path.unlink()
    with pytest.raises(VersionCorrupt):
        TileIndex.open(versions.path(FIRST))


def test_vectors_that_fail_the_canary_are_reported(versions: Versions) -> None:
    folder = versions.path(FIRST)
    flat_file(folder / VECTORS, np.full((40, 8), np.nan, np.float32))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    files = {file: Content.of(folder / file) for file in (VECTORS, TILES)}
    kept = {k: v for k, v in manifest.items() if k not in ("files", "sha256")}
    Manifest(**kept, files=files).write(folder)
    with pytest.raises(VersionCorrupt, match="not finite"):
        versions.verify(FIRST)


def test_a_version_of_format_1_is_still_searched(tmp_path: Path) -> None:
    """Format 1 held the vectors in numpy's format."""
    folder = write_version(tmp_path / "index", 40, 8, name=FIRST)
    (folder / VECTORS).unlink()
    np.save(folder / VECTORS_OF_FORMAT_1, random_units(40, 8, seed=0))
    files = {file: Content.of(folder / file) for file in (VECTORS_OF_FORMAT_1, TILES)}
    dataclasses.replace(Manifest.read(folder), files=files, format=1).write(folder)
    assert Versions(tmp_path).activate(FIRST).tiles == 40
    index = TileIndex.open(folder)
    assert (index.search(index.vectors, 1)[1][:, 0] == np.arange(40)).all()


def test_an_unknown_format_is_refused_with_the_remedy(versions: Versions) -> None:
    dataclasses.replace(versions.manifest(FIRST), format=3).write(versions.path(FIRST))
    with pytest.raises(
        VersionCorrupt, match=r"has format 3, .* reads \(1, 2\): run `skyfix build`"
    ):
        versions.verify(FIRST)


def test_another_number_of_vectors_is_named(versions: Versions) -> None:
    folder = versions.path(FIRST)
    flat_file(folder / VECTORS, random_units(39, 8, seed=0))
    files = {file: Content.of(folder / file) for file in (VECTORS, TILES)}
    dataclasses.replace(versions.manifest(FIRST), files=files).write(folder)
    with pytest.raises(VersionCorrupt, match=r"holds \(39, 8\) vectors and 40 tiles, .* \(40, 8\)"):
        versions.verify(FIRST)


def test_a_pointer_that_cannot_be_read_is_named(versions: Versions) -> None:
    versions.pointer.unlink()
    versions.pointer.mkdir()
    for read in (versions.current, versions.require_current, lambda: versions.prune(keep=0)):
        with pytest.raises(IndexUnreadable, match=r"CURRENT cannot be read: .*skyfix activate"):
            read()
    assert versions.names() == [FIRST, SECOND]


def test_an_empty_pointer_is_named(versions: Versions) -> None:
    versions.pointer.write_text("\n")
    with pytest.raises(IndexUnreadable, match=rf"CURRENT is empty: run .*activate.*{SECOND}"):
        versions.require_current()
    versions.activate(SECOND)
    assert versions.require_current() == SECOND


@pytest.mark.parametrize("refuses", ["CURRENT", ".pointer", ".lock"])
def test_a_path_that_cannot_be_written_is_named_and_nothing_changes(
    versions: Versions, refuses: str
) -> None:
    path = versions.folder / refuses
    path.unlink(missing_ok=True)
    path.mkdir()  # nothing can be written there, not even by root
    if refuses != ".lock":
        with pytest.raises(
            IndexUnwritable, match=rf"CURRENT: {FIRST} .* live: .*{refuses}.*free space"
        ):
            versions.activate(FIRST)
    if refuses != "CURRENT":
        assert versions.current() == SECOND
        with pytest.raises(IndexUnwritable, match=rf"{versions.folder}: .*{refuses}.*free space"):
            versions.prune(keep=0)
    assert versions.names() == [FIRST, SECOND]


@pytest.mark.parametrize("name", ["000009-20260101T000000Z", "../index", "", ".lock"])
def test_unknown_versions_are_named(versions: Versions, name: str) -> None:
    with pytest.raises(VersionUnknown, match=f"there are .*{SECOND}"):
        versions.activate(name)
    assert versions.current() == SECOND


def test_prune_keeps_the_newest_and_the_live_one(versions: Versions, tmp_path: Path) -> None:
    for number in (3, 4):
        write_version(tmp_path / "index", 10, 8, name=f"00000{number}-20260103T000000Z")
    assert versions.prune(keep=1) == [FIRST, "000003-20260103T000000Z"]
    assert versions.names() == [SECOND, "000004-20260103T000000Z"]
    left = versions.pointer.with_name(".CURRENT.99.tmp")  # its writer was killed
    left.write_text("half")
    assert versions.prune(keep=9) == []
    assert not left.exists()


def test_prune_keeps_the_version_that_servers_fall_back_to(versions: Versions) -> None:
    versions.pointer.write_text("000007-20260102T000000Z")
    assert versions.prune(keep=0) == [FIRST]
    assert versions.names() == [SECOND]
