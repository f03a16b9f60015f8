"""Milvus gives the answers that faiss gives, and a build switches it over whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEncoder, coloured_region
from index_samples import random_units, write_version

from service.build import build
from service.index.catalogue import Catalogue
from service.index.live import LiveIndex
from service.index.manifest import EngineUnavailable
from service.index.milvus import ALIAS, Milvus, collection_name, load, point_alias
from service.index.search import TileIndex
from service.index.versions import Versions
from service.ingest import ingest

pymilvus: Any = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.xdist_group("milvus"),
]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "milvus.db")


def holder(uri: str) -> str:
    return str(pymilvus.MilvusClient(uri).describe_alias(ALIAS)["collection_name"])


def test_the_same_answers_as_faiss(tmp_path: Path, uri: str) -> None:
    plain = TileIndex.open(write_version(tmp_path, 900, 16))
    load(uri, plain.version, plain.vectors, keep=[])
    other = TileIndex(plain.manifest, plain.tiles, plain.vectors, Milvus(uri, plain.version, 900))
    queries = random_units(6, 16, seed=4)
    for allowed in (None, np.arange(900) % 7 == 0):
        expected, found = plain.search(queries, 20, allowed), other.search(queries, 20, allowed)
        assert (expected[1] == found[1]).all()
        assert np.allclose(expected[0], found[0], atol=1e-5)


def test_a_build_loads_a_collection_and_moves_the_alias(tmp_path: Path, uri: str) -> None:
    region = coloured_region(tmp_path / "town", range(30))
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, region, size_m=64.0)
    encoder = FakeEncoder()
    first = build(tmp_path, encoder, milvus_uri=uri)
    assert holder(uri) == collection_name(first.name)
    second = build(tmp_path, encoder, milvus_uri=uri)
    assert second.reused == 30
    assert holder(uri) == collection_name(second.name)
    index = LiveIndex(tmp_path, encoder.fingerprint).get()
    assert index.version == second.name
    assert (index.search(index.vectors[:5], 1)[1][:, 0] == np.arange(5)).all()
    versions = Versions(tmp_path)
    versions.activate(first.name)
    assert holder(uri) == collection_name(first.name)
    versions.activate(second.name)
    versions.prune(keep=1)
    assert pymilvus.MilvusClient(uri).list_collections() == [collection_name(second.name)]


def test_a_failed_build_leaves_the_old_collection_only(tmp_path: Path, uri: str) -> None:
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, coloured_region(tmp_path / "town", range(5)), size_m=64.0)
    live = build(tmp_path, FakeEncoder(), milvus_uri=uri)

    def fail(index: TileIndex) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, FakeEncoder(), milvus_uri=uri, calibrate=fail)
    assert pymilvus.MilvusClient(uri).list_collections() == [collection_name(live.name)]
    assert holder(uri) == collection_name(live.name)


def test_what_is_missing_is_named(uri: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"milvus\.db"):
        Milvus(uri, "000001-20260101T000000Z", 3)
    load(uri, "000001-20260101T000000Z", random_units(2, 8, seed=0), keep=[])
    with pytest.raises(EngineUnavailable, match=r"holds 2 rows, not 3: run `skyfix build`"):
        Milvus(uri, "000001-20260101T000000Z", 3)
    with pytest.raises(EngineUnavailable):
        point_alias(uri, "000009-20260101T000000Z")
