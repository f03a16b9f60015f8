"""Search equals brute force, on every path; hints are exact; bad queries are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from index_samples import random_units, write_version
from numpy.typing import NDArray

from model.geo import Bounds, LatLon, distance_m
from service.index import flat
from service.index.search import SearchError, TileIndex

COUNT, DIMENSION = 500, 24


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TileIndex:
    folder = tmp_path_factory.mktemp("index")
    return TileIndex.open(write_version(folder, COUNT, DIMENSION))


def squared_distances(
    index: TileIndex, queries: NDArray[np.float32], rows: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(Q, len(rows)) squared L2 distances in float64."""
    difference = queries[:, None].astype(np.float64) - index.vectors[rows][None]
    return np.asarray((difference**2).sum(axis=-1))


@pytest.mark.parametrize("queries", [1, 7])
def test_search_is_exact(index: TileIndex, queries: int) -> None:
    vectors = random_units(queries, DIMENSION, seed=9)
    distances, rows = index.search(vectors, 10)
    exact = squared_distances(index, vectors, np.arange(COUNT))
    assert (rows == np.argsort(exact, axis=1)[:, :10]).all()
    assert np.allclose(distances, np.sort(exact, axis=1)[:, :10], atol=1e-5)
    assert (distances.dtype, rows.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("share", [0.0, 0.004, 0.3, 1.0])
def test_filtered_search_is_exact(
    index: TileIndex, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat, "BLOCK", 64)  # so that several blocks are merged
    allowed = np.random.default_rng(3).random(COUNT) < share
    vectors = random_units(5, DIMENSION, seed=9)
    distances, rows = index.search(vectors, 10, allowed)
    among = np.flatnonzero(allowed)
    exact = squared_distances(index, vectors, among)
    assert rows.shape == distances.shape == (5, min(10, len(among)))
    assert (rows == among[np.argsort(exact, axis=1)[:, :10]]).all()
    assert np.allclose(distances, np.sort(exact, axis=1)[:, :10], atol=1e-5)


def test_equal_distances_are_in_the_order_of_rows(tmp_path: Path) -> None:
    vectors = random_units(50, DIMENSION, seed=0).repeat(4, axis=0)
    index = TileIndex.open(write_version(tmp_path, 200, DIMENSION, vectors=vectors))
    for queries in (vectors[::4], vectors[:1]):
        _, rows = index.search(queries, 4)
        assert (rows == np.arange(4 * len(queries)).reshape(-1, 4)).all()


def test_a_vector_finds_itself_at_distance_zero(index: TileIndex) -> None:
    distances, rows = index.search(index.vectors[:50], 1)
    assert (rows[:, 0] == np.arange(50)).all()
    assert distances.max() < 1e-5


def test_a_k_above_the_count_gives_all_rows(index: TileIndex) -> None:
    _, rows = index.search(random_units(2, DIMENSION, seed=1), COUNT + 5)
    assert (np.sort(rows, axis=1) == np.arange(COUNT)).all()


def test_bad_queries_are_named(index: TileIndex) -> None:
    vectors = random_units(3, DIMENSION, seed=1)
    spoilt = vectors.copy()
    spoilt[1, 4] = np.nan
    for bad, reason in ((spoilt, r"queries \[1\]"), (vectors[:, 1:], r"\(3, 23\)"),
                        (vectors[0], r"\(24,\)")):  # fmt: skip
        with pytest.raises(SearchError, match=reason):
            index.search(bad, 3)
    with pytest.raises(SearchError, match="k is 0"):
        index.search(vectors, 0)
    with pytest.raises(SearchError, match="allowed is float64"):
        index.search(vectors, 3, np.ones(COUNT))  # type: ignore[arg-type]


@pytest.mark.parametrize("near", [LatLon(50.0, 15.0), LatLon(-70.0, 179.99), LatLon(0.0, 0.0)])
@pytest.mark.parametrize("radius_m", [0.0, 300.0, 5_000.0])
def test_a_radius_is_exact(near: LatLon, radius_m: float, tmp_path: Path) -> None:
    index = TileIndex.open(write_version(tmp_path, COUNT, 4, centre=near, spread=0.05))
    exact = [distance_m(near, LatLon(t.latitude, t.longitude)) <= radius_m for t in index.tiles]
    assert index.tiles.within(near, radius_m).tolist() == exact


def test_a_box_may_cross_the_dateline(tmp_path: Path) -> None:
    index = TileIndex.open(
        write_version(tmp_path, COUNT, 4, centre=LatLon(10.0, 180.0), spread=0.05)
    )
    inside = index.tiles.in_bbox(Bounds(179.98, 9.99, -179.98, 10.02))
    for tile, found in zip(index.tiles, inside, strict=True):
        near_180 = tile.longitude >= 179.98 or tile.longitude <= -179.98
        assert found == (near_180 and 9.99 <= tile.latitude <= 10.02)
    assert 0 < inside.sum() < COUNT
    assert not index.tiles.in_bbox(Bounds(-179.98, 9.99, 179.98, 10.02))[inside].any()


@pytest.mark.gpu
def test_a_gpu_finds_the_same(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        pytest.skip("no GPU, or faiss-cpu")
    folder = write_version(tmp_path, COUNT, DIMENSION)
    on_cpu, on_gpu = TileIndex.open(folder), TileIndex.open(folder, "cuda")
    vectors = random_units(5, DIMENSION, seed=9)
    allowed = np.arange(COUNT) % 3 == 0
    for mask in (None, allowed):
        expected, found = on_cpu.search(vectors, 10, mask), on_gpu.search(vectors, 10, mask)
        assert (expected[1] == found[1]).all()
        assert np.allclose(expected[0], found[0], atol=1e-5)
