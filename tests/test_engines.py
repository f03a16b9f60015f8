"""The exact engine is FAISS's flat index; the others miss hardly anything and say nothing wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import faiss
import numpy as np
import pytest
from index_samples import random_units, write_version
from numpy.typing import NDArray

from service.index import engines
from service.index.engine_choice import EngineChoice
from service.index.engines import (
    IVF_FILE,
    RESCORED,
    TUNING_DISTANCE,
    IvfPq,
    exact_nearest,
    moved,
)
from service.index.manifest import VersionCorrupt
from service.index.search import TileIndex
from service.index.versions import Versions

COUNT, DIMENSION = 10_000, 32


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    """Groups of 20 units around common centres, as overlapping tiles are."""
    centres = random_units(count // 20, DIMENSION, seed)
    return moved(centres.repeat(20, axis=0), 0.3, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    vectors = clustered(COUNT, seed=0)
    return write_version(home / "index", COUNT, DIMENSION, vectors=vectors, engine="ivfpq")


@pytest.fixture(scope="module")
def index(folder: Path) -> TileIndex:
    return TileIndex.open(folder)


@pytest.mark.parametrize("queries", [1, 3, 4, 33])
@pytest.mark.parametrize("k", [1, 10, 700])
def test_exact_is_the_flat_index_of_faiss(
    queries: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BLOCK", 256)  # the last of 1,000 rows are no whole block
    vectors = random_units(1000, DIMENSION, seed=0)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    asked = random_units(queries, DIMENSION, seed=1)
    products, rows = exact_nearest(asked, vectors, k)
    expected, nearest = flat.search(asked, k)
    assert np.allclose(products, expected, atol=1e-6)
    assert (rows == nearest).mean() > 0.999  # two products may differ in the last bit only


def test_among_equals_the_first_row_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BLOCK", 64)
    vectors = random_units(50, DIMENSION, seed=0).repeat(4, axis=0)
    _, rows = exact_nearest(vectors[::4], vectors, 4)
    assert (rows == np.arange(200).reshape(50, 4)).all()


def test_nearly_all_of_the_true_ten_are_found(index: TileIndex) -> None:
    rows = np.random.default_rng(5).integers(0, COUNT, 300)
    queries = moved(index.vectors[rows], 0.4, np.random.default_rng(6))
    distances, found = index.search(queries, 10)
    products, true = exact_nearest(queries, np.array(index.vectors), 10)
    recall = np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)])
    assert recall >= 0.99
    same = found[:, 0] == true[:, 0]
    assert same.mean() > 0.98
    assert np.allclose(distances[same, 0], 2.0 - 2.0 * products[same, 0], atol=1e-5)
    assert (np.diff(distances, axis=1) >= -1e-6).all()


def test_the_recall_reached_is_stated(tmp_path: Path, index: TileIndex) -> None:
    engine = EngineChoice(COUNT, None).prepare(tmp_path, "any", np.array(index.vectors), [])
    queries = moved(index.vectors[::40], TUNING_DISTANCE, np.random.default_rng(8))
    _, true = exact_nearest(queries, np.array(index.vectors), 10)
    _, found = IvfPq(tmp_path / IVF_FILE).nearest(queries, RESCORED)
    recall = np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)])
    assert (engine["kind"], engine["approximate_from"]) == ("ivfpq", COUNT)
    assert 0.99 <= engine["recall"] <= 1.0
    assert abs(engine["recall"] - recall) < 0.005


def test_what_cannot_be_found_approximately_is_searched_exactly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scattered = random_units(COUNT, 31, seed=0)  # a prime: a code is one byte for all of it
    with caplog.at_level(logging.WARNING):
        engine = EngineChoice(COUNT, None).prepare(tmp_path, "any", scattered, [])
    assert engine == {"kind": "exact", "approximate_from": COUNT}
    assert list(tmp_path.iterdir()) == []
    assert "of the true ten" in caplog.text


def test_filtered_search_stays_exact(index: TileIndex) -> None:
    allowed = np.random.default_rng(3).random(COUNT) < 0.01
    queries = random_units(4, DIMENSION, seed=9)
    _, rows = index.search(queries, 10, allowed)
    among = np.flatnonzero(allowed)
    assert (rows == among[exact_nearest(queries, index.vectors[among], 10)[1]]).all()


def test_as_many_come_back_as_were_asked_for(index: TileIndex) -> None:
    _, rows = index.search(random_units(2, DIMENSION, seed=1), COUNT + 1)
    assert (np.sort(rows, axis=1) == np.arange(COUNT)).all()


@pytest.mark.parametrize("dimension", [7, 20])
def test_any_dimension(tmp_path: Path, dimension: int) -> None:
    index = TileIndex.open(write_version(tmp_path, 300, dimension, engine="ivfpq"))
    assert (index.search(index.vectors, 1)[1][:, 0] == np.arange(300)).all()


def test_the_index_file_is_checked_like_every_other(folder: Path, tmp_path: Path) -> None:
    versions = Versions(folder.parents[1])
    assert versions.verify(folder.name).tiles == COUNT
    path = folder / IVF_FILE
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
        with pytest.raises(VersionCorrupt, match=IVF_FILE):
            versions.verify(folder.name)
        path.write_bytes(whole[:-7])
        with pytest.raises(VersionCorrupt, match=rf"{IVF_FILE} has {len(whole) - 7} bytes"):
            TileIndex.open(folder)
    finally:
        path.write_bytes(whole)
    (tmp_path / IVF_FILE).write_bytes(b"nothing")
    with pytest.raises(VersionCorrupt, match="no faiss index"):
        IvfPq(tmp_path / IVF_FILE)


def test_the_same_vectors_give_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        IvfPq.write(random_units(300, 8, seed=0), tmp_path / name, rescored=20)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
