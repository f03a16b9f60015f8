"""The flat index is brute force; IVF-PQ misses hardly a tile and states no wrong distance."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from index_samples import brute_force, flat_file, random_units, write_version
from numpy.typing import NDArray

from service.index import engine_choice, flat
from service.index.engine_choice import EngineChoice
from service.index.flat import Flat
from service.index.gpu import Gpu
from service.index.ivf_pq import CANDIDATES, IVF_FILE, TUNING_DISTANCE, IvfPq, moved
from service.index.manifest import VECTORS, VersionCorrupt
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


@pytest.mark.parametrize(("count", "dimension"), [(1, 1), (3, 7), (300, 32)])
def test_the_file_of_vectors_equals_the_file_of_faiss(
    tmp_path: Path, count: int, dimension: int
) -> None:
    vectors = random_units(count, dimension, seed=0)
    ours = flat_file(tmp_path / VECTORS, vectors)
    assert (ours.vectors == vectors).all()
    theirs = faiss.IndexFlatIP(dimension)
    theirs.add(vectors)
    assert (tmp_path / VECTORS).read_bytes() == faiss.serialize_index(theirs).tobytes()


def test_opening_maps_the_vectors_and_reads_none(tmp_path: Path) -> None:
    def memory_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0])

    Flat.create(tmp_path / VECTORS, 25_000, 256)
    before = memory_kib()
    opened = Flat.open(tmp_path / VECTORS)
    assert opened.nearest(random_units(1, 256, seed=0), 3)[0].max() == 0.0
    assert memory_kib() - before < 10_000  # of 25,000 KiB


@pytest.mark.parametrize("queries", [0, 1, 3, 33])
@pytest.mark.parametrize("k", [1, 10, 700])
def test_the_flat_index_is_exact(queries: int, k: int, tmp_path: Path) -> None:
    opened = flat_file(tmp_path / VECTORS, random_units(1000, DIMENSION, seed=0))
    asked = random_units(queries, DIMENSION, seed=1)
    products, rows = opened.nearest(asked, k)
    expected, nearest = brute_force(asked, opened.vectors, k)
    assert np.allclose(products, expected, atol=1e-6)
    assert rows.shape == nearest.shape
    assert (rows != nearest).sum() <= 2  # two products may differ in the last bit only


@pytest.mark.parametrize("queries", [1, 33])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.9])
def test_a_search_among_some_rows_is_exact(
    queries: int, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat, "BLOCK", 256)  # so that several blocks are merged
    opened = flat_file(tmp_path / VECTORS, random_units(1000, DIMENSION, seed=0))
    allowed = np.flatnonzero(np.random.default_rng(3).random(1000) < share)
    asked = random_units(queries, DIMENSION, seed=1)
    products, rows = opened.nearest_among(asked, 40, allowed)
    expected, nearest = brute_force(asked, opened.vectors[allowed], 40)
    assert np.allclose(products, expected, atol=1e-6)
    assert rows.shape == nearest.shape
    assert (rows != allowed[nearest]).sum() <= 2


@pytest.mark.usefixtures("three_threads")
def test_a_search_takes_one_thread(tmp_path: Path) -> None:
    threads = []

    class Watched(faiss.IndexFlatIP):
        def search(self, *arguments: Any, **options: Any) -> Any:
            threads.append(faiss.omp_get_max_threads())
            return super().search(*arguments, **options)

    vectors = random_units(9, 8, seed=0)
    watched = Watched(8)
    watched.add(vectors)
    opened = Flat(tmp_path, vectors, watched)
    opened.nearest(vectors[:1], 1)
    opened.nearest_among(vectors[:1], 1, np.arange(5))
    assert threads == [1, 1]


@pytest.mark.usefixtures("three_threads")
def test_a_search_leaves_torch_its_threads(index: TileIndex) -> None:
    """torch was imported first: FAISS then runs on torch's OpenMP."""
    before = faiss.omp_get_max_threads()
    for allowed in (None, np.arange(COUNT) % 7 == 0):
        for queries in (1, 5):
            index.search(index.vectors[:queries], 3, allowed)
            assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (3, before)


def test_nearly_all_of_the_true_ten_are_found(index: TileIndex) -> None:
    rows = np.random.default_rng(5).integers(0, COUNT, 300)
    queries = moved(index.vectors[rows], 0.4, np.random.default_rng(6))
    distances, found = index.search(queries, 10)
    products, true = brute_force(queries, index.vectors, 10)
    recall = np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)])
    assert recall >= 0.99
    same = found[:, 0] == true[:, 0]
    assert same.mean() > 0.98
    assert np.allclose(distances[same, 0], 2.0 - 2.0 * products[same, 0], atol=1e-5)
    assert (np.diff(distances, axis=1) >= -1e-6).all()


def test_the_manifest_states_the_recall_reached(tmp_path: Path, index: TileIndex) -> None:
    flat_file(tmp_path / VECTORS, index.vectors)
    engine = EngineChoice(COUNT, None).prepare(tmp_path, "any", [])
    queries = moved(index.vectors[::40], TUNING_DISTANCE, np.random.default_rng(8))
    _, true = brute_force(queries, index.vectors, 10)
    _, found = IvfPq(tmp_path / IVF_FILE).nearest(queries, CANDIDATES)
    recall = np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)])
    assert (engine["kind"], engine["approximate_from"]) == ("ivfpq", COUNT)
    assert 0.99 <= engine["recall"] <= 1.0
    assert abs(engine["recall"] - recall) < 0.005


@pytest.mark.parametrize(
    ("count", "values", "kind"),
    [(COUNT, COUNT * 8, "ivfpq"), (COUNT, COUNT * 8 + 8, "exact"), (COUNT - 1, 8, "exact")],
)
def test_the_default_size_depends_on_the_dimension(
    count: int, values: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IvfPq, "write", lambda flat, path: 1.0)  # training takes long
    monkeypatch.setattr(engine_choice, "FLAT_VALUES", values)
    Flat.create(tmp_path / VECTORS, count, 8)
    assert EngineChoice(None, None).prepare(tmp_path, "any", [])["kind"] == kind


def test_vectors_that_ivf_pq_cannot_find_are_searched_exactly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # 31 is a prime: one byte codes the whole vector.
    flat_file(tmp_path / VECTORS, random_units(COUNT, 31, seed=0))
    with caplog.at_level(logging.WARNING):
        engine = EngineChoice(COUNT, None).prepare(tmp_path, "any", [])
    assert engine == {"kind": "exact", "approximate_from": COUNT}
    assert os.listdir(tmp_path) == [VECTORS]
    assert "of the true ten" in caplog.text


def test_filtered_search_stays_exact(index: TileIndex) -> None:
    allowed = np.random.default_rng(3).random(COUNT) < 0.01
    queries = random_units(4, DIMENSION, seed=9)
    _, rows = index.search(queries, 10, allowed)
    among = np.flatnonzero(allowed)
    assert (rows == among[brute_force(queries, index.vectors[among], 10)[1]]).all()


def test_a_search_returns_k_rows(index: TileIndex) -> None:
    _, rows = index.search(random_units(2, DIMENSION, seed=1), COUNT + 1)
    assert (np.sort(rows, axis=1) == np.arange(COUNT)).all()


@pytest.mark.parametrize("dimension", [7, 20])
def test_any_dimension(tmp_path: Path, dimension: int) -> None:
    index = TileIndex.open(write_version(tmp_path, 300, dimension, engine="ivfpq"))
    assert (index.search(index.vectors, 1)[1][:, 0] == np.arange(300)).all()


def test_the_file_of_codes_is_checked_like_every_other(folder: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("opener", [Flat.open, IvfPq])
def test_a_file_that_is_no_index_is_named(tmp_path: Path, opener: type[IvfPq]) -> None:
    (tmp_path / "any").write_bytes(b"nothing")
    with pytest.raises(VersionCorrupt, match="any is no FAISS index"):
        opener(tmp_path / "any")


def test_an_index_of_another_kind_holds_no_vectors(folder: Path) -> None:
    with pytest.raises(VersionCorrupt, match="its kind is IndexIVFPQ"):
        Flat.open(folder / IVF_FILE)


def test_the_same_vectors_give_the_same_file(tmp_path: Path) -> None:
    opened = flat_file(tmp_path / VECTORS, random_units(300, 8, seed=0))
    for name in "ab":
        IvfPq.write(opened, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class CpuClone(Gpu):
    """Stands in for a GPU: a second copy of the index, in the memory of the CPU."""

    def _clone(self) -> faiss.Index:
        return faiss.clone_index(self._flat.index)


def test_a_clone_answers_as_the_flat_index_and_leaves_large_k_to_it(tmp_path: Path) -> None:
    opened = flat_file(tmp_path / VECTORS, random_units(3000, 8, seed=0))
    clone = CpuClone(opened)
    for k in (5, 2500, 4000):
        expected, found = (
            opened.nearest(opened.vectors[:4], k),
            clone.nearest(opened.vectors[:4], k),
        )
        assert (expected[1] == found[1]).all()
