"""A build encodes only new tiles, publishes only complete versions, and survives a kill."""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEncoder
from imagery_samples import patchwork, write_folder, write_raster
from numpy.typing import NDArray

from model.images import Rgb
from service import build as build_module
from service.build import EncodingFailed, FootprintMismatch, NothingToBuild, build
from service.imagery.source import SourceMissing
from service.imagery.tile_images import ImageryChanged, tile_image
from service.index.catalogue import Catalogue, CatalogueError
from service.index.live_index import LiveIndex
from service.index.lock import BuildLocked
from service.index.search import TileIndex
from service.index.versions import Versions
from service.ingest import ingest


def add_town(home: Path, path: Path, seed: int = 0) -> int:
    write_raster(path, patchwork(520, 520, seed=seed))
    with Catalogue.of(home) as catalogue:
        return ingest(catalogue, path, size_m=64.0).tiles


def live_vectors(home: Path) -> NDArray[np.float32]:
    versions = Versions(home)
    return np.array(TileIndex.open(versions.path(versions.require_current())).vectors)


class FailingEncoder(FakeEncoder):
    """Fails after `images` images, as a killed process does: without any report."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self._left = images

    def encode_aerials(self, images: Sequence[Rgb]) -> NDArray[np.float32]:
        self._left -= len(images)
        if self._left < 0:
            raise KeyboardInterrupt
        return super().encode_aerials(images)


class UglyEncoder(FakeEncoder):
    """Gives descriptors `factor` times too long."""

    factor = 2.0

    def encode_aerials(self, images: Sequence[Rgb]) -> NDArray[np.float32]:
        return super().encode_aerials(images) * np.float32(self.factor)


def test_a_tiles_picture_finds_the_tile(tmp_path: Path) -> None:
    count = add_town(tmp_path, tmp_path / "town.tif")
    encoder = FakeEncoder()
    version = build(tmp_path, encoder)
    assert (version.tiles, version.encoded, version.reused) == (count, count, 0)
    index = LiveIndex(tmp_path, encoder.fingerprint).get()
    assert index.version == version.name
    with Catalogue.of(tmp_path) as catalogue:
        assert [t.tile_id for t in index.tiles] == [t.tile_id for t in catalogue.tiles()]
        picture = tile_image(catalogue, index.tiles[17].tile_id, encoder.aerial_pixels)
    distances, rows = index.search(encoder.encode_aerials([picture]), 3)
    assert rows[0, 0] == 17
    assert distances[0, 0] < 1e-5


def test_the_manifest_states_the_content(tmp_path: Path) -> None:
    count = add_town(tmp_path, tmp_path / "town.tif")
    manifest = Versions(tmp_path).manifest(build(tmp_path, FakeEncoder()).name)
    assert (manifest.count, manifest.dimension, manifest.encoder) == (count, 32, "fa" * 32)
    assert manifest.sources[0]["name"] == "town"
    assert manifest.sources[0]["tiles"] == count
    assert set(manifest.files) == {"vectors.faiss", "tiles.npy"}
    assert datetime.fromisoformat(manifest.built_at).tzinfo is not None


def test_only_changed_tiles_are_encoded_again(tmp_path: Path) -> None:
    add_town(tmp_path, tmp_path / "town.tif")
    whole = add_town(tmp_path, tmp_path / "city.tif", seed=5) * 2
    build(tmp_path, FakeEncoder())
    before = live_vectors(tmp_path)
    encoder = FakeEncoder()
    assert build(tmp_path, encoder).reused == whole
    assert encoder.calls == 0
    assert (live_vectors(tmp_path) == before).all()
    image = patchwork(520, 520)
    image[:24, :24] = 9
    write_raster(tmp_path / "town.tif", image)
    with Catalogue.of(tmp_path) as catalogue:
        changed = ingest(catalogue, tmp_path / "town.tif", size_m=64.0).updated
    assert 0 < changed < whole / 10
    assert build(tmp_path, encoder).encoded == encoder.calls == changed


def test_a_build_inherits_approximate_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_town(tmp_path, tmp_path / "town.tif")

    def engine(asked: int | None) -> dict[str, Any]:
        name = build(tmp_path, FakeEncoder(), approximate_from=asked).name
        return Versions(tmp_path).manifest(name).engine

    asked = {"kind": "exact", "approximate_from": 12_345}
    assert [engine(None), engine(12_345)] == [{"kind": "exact"}, asked]
    with caplog.at_level(logging.INFO):
        assert engine(None) == asked
    assert "approximate from 12345 tiles on, as for index version 000002-" in caplog.text
    assert [engine(0), engine(None)] == [{"kind": "exact"}] * 2  # 0: the default again


def test_another_encoder_encodes_everything(tmp_path: Path) -> None:
    count = add_town(tmp_path, tmp_path / "town.tif")
    build(tmp_path, FakeEncoder())
    assert build(tmp_path, FakeEncoder(fingerprint="bb" * 32)).encoded == count


def test_tiles_of_one_content_are_encoded_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiles", count=3)
    (folder / "2.png").write_bytes((folder / "0.png").read_bytes())
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, folder, size_m=None)
    version = build(tmp_path, FakeEncoder())
    assert (version.tiles, version.encoded) == (3, 2)
    vectors = live_vectors(tmp_path)
    assert (vectors[0] == vectors[2]).all()


def test_an_interrupted_build_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "SHARD_TILES", 32)
    count = add_town(tmp_path, tmp_path / "town.tif")
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, FailingEncoder(100), batch=16)
    assert Versions(tmp_path).current() is None
    shards = sorted((tmp_path / "index" / ".shards").rglob("*.npy"))
    damaged = bytearray(shards[0].read_bytes())
    damaged[-5] ^= 1
    shards[0].write_bytes(damaged)
    version = build(tmp_path, FakeEncoder(), batch=16)
    assert version.reused == 96 - 32
    assert not (tmp_path / "index" / ".shards").exists()
    resumed = live_vectors(tmp_path)
    assert build(tmp_path, FakeEncoder(fingerprint="bb" * 32), batch=16).encoded == count
    assert (live_vectors(tmp_path) == resumed).all()


def test_refusals_publish_nothing(tmp_path: Path) -> None:
    with pytest.raises(NothingToBuild, match="skyfix ingest"):
        build(tmp_path, FakeEncoder())
    add_town(tmp_path, tmp_path / "town.tif")
    with pytest.raises(FootprintMismatch, match=r"trained on 100 m .* with 64 m.*--size-m 100"):
        build(tmp_path, FakeEncoder(aerial_footprint_m=100.0))
    with pytest.raises(EncodingFailed, match="length 2"):
        build(tmp_path, UglyEncoder())
    UglyEncoder.factor = float("nan")
    with pytest.raises(EncodingFailed, match="length nan"):
        build(tmp_path, UglyEncoder())
    (tmp_path / "town.tif").touch()
    with pytest.raises(ImageryChanged, match="ingest it again"):
        build(tmp_path, FakeEncoder())
    (tmp_path / "town.tif").unlink()
    with pytest.raises(SourceMissing, match="is gone from"):
        build(tmp_path, FakeEncoder())
    assert Versions(tmp_path).names() == []
    assert not list((tmp_path / "index").glob(".new-*"))


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    add_town(tmp_path, tmp_path / "town.tif")
    build(tmp_path, FakeEncoder())
    with (tmp_path / "index" / ".lock").open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write('{"pid": 4711}')
        other.flush()
        with pytest.raises(BuildLocked, match="4711"):
            build(tmp_path, FakeEncoder())
    assert build(tmp_path, FakeEncoder()).encoded == 0


OTHER_BUILDER = """
import sys, time
from pathlib import Path
from service.index.lock import build_lock
with build_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(100.0)
"""


def test_another_builder_is_named_and_its_death_releases_the_lock(tmp_path: Path) -> None:
    add_town(tmp_path, tmp_path / "town.tif")
    command = [sys.executable, "-c", OTHER_BUILDER, str(tmp_path / "index")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        try:
            with pytest.raises(BuildLocked, match=f'"pid": {other.pid}'):
                build(tmp_path, FakeEncoder())
        finally:
            other.kill()
    assert build(tmp_path, FakeEncoder()).reused == 0


def test_a_damaged_catalogue_builds_nothing(tmp_path: Path) -> None:
    add_town(tmp_path, tmp_path / "town.tif")
    live = build(tmp_path, FakeEncoder()).name
    path = tmp_path / "catalogue.sqlite"
    path.write_bytes(path.read_bytes().replace(b"town-16m-n", b"town-16m-m", 1))
    with pytest.raises(CatalogueError, match=r"is damaged: .*`skyfix ingest` again"):
        build(tmp_path, FakeEncoder())
    assert Versions(tmp_path).names() == [live]


def test_a_build_repairs_a_pointer_to_a_missing_version(tmp_path: Path) -> None:
    count = add_town(tmp_path, tmp_path / "town.tif")
    first = build(tmp_path, FakeEncoder()).name
    Versions(tmp_path).pointer.write_text("000009-20260101T000000Z")
    second = build(tmp_path, FakeEncoder())
    assert (second.encoded, Versions(tmp_path).current()) == (count, second.name)
    assert Versions(tmp_path).names() == [first, second.name]


def test_a_damaged_live_version_is_not_reused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = add_town(tmp_path, tmp_path / "town.tif")
    version = build(tmp_path, FakeEncoder())
    path = tmp_path / "index" / version.name / "vectors.faiss"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        assert build(tmp_path, FakeEncoder()).encoded == count
    assert "not reused" in caplog.text
