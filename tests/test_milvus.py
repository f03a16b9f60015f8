"""Milvus gives the answers of FAISS, and a build switches to a complete collection."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEncoder, coloured_region
from index_samples import random_units, write_version

from model.checkpoint import Checkpoint, EncoderConfig
from model.network import NetworkConfig
from model.preprocessing import Preprocessing
from service.__main__ import main
from service.build import build
from service.index.catalogue import Catalogue
from service.index.flat import Flat
from service.index.live_index import LiveIndex
from service.index.manifest import VECTORS, EngineUnavailable, Manifest
from service.index.milvus import Milvus, address_of, collection_name, load
from service.index.search import TileIndex
from service.index.versions import Versions
from service.ingest import ingest
from service.runtime.jobs import rebuild_command
from service.settings import Settings

pymilvus: Any = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
grpc: Any = pytest.importorskip("grpc")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.xdist_group("milvus"),
]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "milvus.db")


@pytest.fixture
def address(uri: str, tmp_path: Path) -> str:
    return address_of(uri, tmp_path)


def catalogued(home: Path, count: int = 5) -> Path:
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, coloured_region(home / "town", range(count)), size_m=64.0)
    return home


def live(home: Path) -> Manifest:
    versions = Versions(home)
    return versions.manifest(versions.require_current())


def collections(uri: str) -> set[str]:
    return set(pymilvus.MilvusClient(uri).list_collections())


def own(manifest: Manifest) -> str:
    return collection_name(manifest.engine["uri"], manifest.version)


def test_the_same_answers_as_faiss(tmp_path: Path, address: str) -> None:
    folder = write_version(tmp_path, 900, 16)
    plain = TileIndex.open(folder)
    load(address, plain.version, plain.vectors, keep=[])
    engine = Milvus(address, plain.version, 900)
    other = TileIndex(plain.manifest, plain.tiles, Flat.open(folder / VECTORS), engine)
    queries = random_units(6, 16, seed=4)
    for allowed in (None, np.arange(900) % 7 == 0):
        expected, found = plain.search(queries, 20, allowed), other.search(queries, 20, allowed)
        assert (expected[1] == found[1]).all()
        assert np.allclose(expected[0], found[0], atol=1e-5)


def test_a_released_collection_is_loaded_again(
    tmp_path: Path, uri: str, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another client released the collection, or the server started without loading it."""
    vectors = random_units(50, 16, seed=4)
    load(address, "v1", vectors, keep=[])
    engine = Milvus(address, "v1", 50)
    name = collection_name(address, "v1")
    pymilvus.MilvusClient(uri).release_collection(name)
    assert (engine.nearest(vectors[:3], 1)[1][:, 0] == np.arange(3)).all()
    assert name in caplog.text
    pymilvus.MilvusClient(uri).drop_collection(name)
    with pytest.raises(EngineUnavailable):
        engine.nearest(vectors[:3], 1)


def test_waiting_for_a_collection_that_does_not_load_is_bounded(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = random_units(50, 16, seed=4)
    load(address, "v1", vectors, keep=[])
    engine = Milvus(address, "v1", 50)
    for name in ("TIMEOUT_S", "LOAD_S"):
        monkeypatch.setattr(f"service.index.milvus.{name}", 2.0)
    handler = "pymilvus.client.grpc_handler.GrpcHandler"
    monkeypatch.setattr(f"{handler}.get_loading_progress", lambda *_, **__: 50)
    engine._client.release_collection(collection_name(address, "v1"))
    with pytest.raises(EngineUnavailable):
        engine.nearest(vectors[:3], 1)
    with pytest.raises(EngineUnavailable):
        Milvus(address, "v1", 50)


def test_a_build_loads_a_collection_and_prune_drops_it(tmp_path: Path, uri: str) -> None:
    catalogued(tmp_path, 30)
    encoder = FakeEncoder()
    first = build(tmp_path, encoder, milvus_uri=uri)
    assert collections(uri) == {own(live(tmp_path))}
    second = build(tmp_path, encoder, milvus_uri=uri)
    assert second.reused == 30
    versions = Versions(tmp_path)
    assert collections(uri) == {own(versions.manifest(version.name)) for version in (first, second)}
    index = LiveIndex(tmp_path, encoder.fingerprint).get()
    assert index.version == second.name
    assert (index.search(index.vectors[:5], 1)[1][:, 0] == np.arange(5)).all()
    versions.activate(first.name)
    assert LiveIndex(tmp_path, encoder.fingerprint).get().version == first.name
    versions.activate(second.name)
    versions.prune(keep=1)
    assert collections(uri) == {own(live(tmp_path))}


def test_two_homes_on_one_server_leave_each_other_alone(tmp_path: Path, uri: str) -> None:
    """Their versions may have the same names."""
    homes = [catalogued(tmp_path / name) for name in "ab"]
    for home in homes * 2:
        build(home, FakeEncoder(), milvus_uri=uri)
    kept = {own(Versions(homes[0]).manifest(name)) for name in Versions(homes[0]).names()}
    Versions(homes[1]).prune(keep=1)
    assert collections(uri) == kept | {own(live(homes[1]))}
    for home in homes:
        assert Versions(home).verify(live(home).version).tiles == 5


def test_a_home_keeps_its_address_and_homes_differ(tmp_path: Path, uri: str) -> None:
    made = address_of(uri, tmp_path)
    assert made == address_of(uri, tmp_path)
    assert made.startswith(f"{uri}#")
    (tmp_path / "other").mkdir()
    assert made != address_of(uri, tmp_path / "other")


def test_a_failed_build_leaves_the_old_collection_only(tmp_path: Path, uri: str) -> None:
    catalogued(tmp_path)
    build(tmp_path, FakeEncoder(), milvus_uri=uri)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, FakeEncoder(), milvus_uri=uri, calibrate=interrupted)
    assert collections(uri) == {own(live(tmp_path))}


def interrupted(index: TileIndex) -> Any:
    raise KeyboardInterrupt


def test_a_collection_with_an_alias_is_dropped(tmp_path: Path, uri: str) -> None:
    catalogued(tmp_path)
    build(tmp_path, FakeEncoder(), milvus_uri=uri)
    pymilvus.MilvusClient(uri).create_alias(own(live(tmp_path)), "skyfix_of_old")
    build(tmp_path, FakeEncoder(), milvus_uri=uri)
    Versions(tmp_path).prune(keep=1)
    assert collections(uri) == {own(live(tmp_path))}


def test_builds_use_milvus_until_another_engine_is_asked_for(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    catalogued(tmp_path)
    first = build(tmp_path, FakeEncoder(), milvus_uri=uri)
    with caplog.at_level(logging.INFO):
        build(tmp_path, FakeEncoder())
    assert f"Milvus at {uri} searches, as for index version {first.name}" in caplog.text
    assert live(tmp_path).engine["kind"] == "milvus"
    Versions(tmp_path).pointer.write_text("000009-20260101T000000Z")
    build(tmp_path, FakeEncoder())
    assert live(tmp_path).engine["kind"] == "milvus"
    for asked in ("", None):
        build(tmp_path, FakeEncoder(), milvus_uri=asked)
        assert live(tmp_path).engine == {"kind": "exact"}


def test_a_rebuild_by_the_server_stays_with_milvus(tmp_path: Path, uri: str) -> None:
    network = NetworkConfig(neck=4, group_channels=4, dimension=16)
    config = EncoderConfig(network, Preprocessing(input_size=64))
    weights = tmp_path / "tiny.safetensors"
    Checkpoint(config, config.build().state_dict()).save(weights)
    settings = Settings(home=catalogued(tmp_path / "home"), weights=weights, device="cpu")
    command = rebuild_command(settings)[3:]
    assert main([*command, "--milvus", uri]) == 0
    first = live(settings.home)
    assert main(command) == 0
    assert live(settings.home).version > first.version
    assert live(settings.home).engine == first.engine


def test_a_missing_or_incomplete_collection_is_named(address: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"milvus\.db"):
        Milvus(address, "000001-20260101T000000Z", 3)
    load(address, "000001-20260101T000000Z", random_units(2, 8, seed=0), keep=[])
    with pytest.raises(EngineUnavailable, match=r"holds 2 rows, not 3: run `skyfix build`"):
        Milvus(address, "000001-20260101T000000Z", 3)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A gRPC server without any call. Yields its address and the tokens it received."""
    shown: list[str] = []

    class NoCalls(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, call: Any) -> None:
            coded = dict(call.invocation_metadata).get("authorization", "")
            shown.append(base64.b64decode(coded).decode())

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = grpc.server(ThreadPoolExecutor(1), handlers=(NoCalls(),))
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    yield f"http://127.0.0.1:{port}", shown
    made.stop(None).wait()


def test_the_token_of_the_environment_goes_to_the_server_only(
    tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, shown = server
    monkeypatch.setenv("SKYFIX_MILVUS_TOKEN", "root:s3cr3t")
    with pytest.raises(EngineUnavailable, match=uri) as caught:
        build(catalogued(tmp_path), FakeEncoder(), milvus_uri=uri)
    assert set(shown) == {"root:s3cr3t"}
    assert "s3cr3t" not in str(caught.value)


def test_no_password_gets_into_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="SKYFIX_MILVUS_TOKEN") as caught:
        build(catalogued(tmp_path), FakeEncoder(), milvus_uri="http://root:s3cr3t@127.0.0.1:1")
    assert "s3cr3t" not in str(caught.value)
