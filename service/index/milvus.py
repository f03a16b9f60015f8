"""Milvus as an engine: one collection a version. Extra `milvus`.

The version's folder stays the truth: its vectors score again the rows that Milvus finds, and its
tile rows say where these lie. Milvus holds (row, vector) only. CURRENT names the live version, and
a version's name its collection, so an answer never mixes two versions.

An address is the server's URI, `#`, and the id of a home. Homes that share a server may have
versions of the same name, and no home may touch another's collections.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from model.atomic_write import write_atomically
from service.index.flat import Rows, Vectors, blocks
from service.index.manifest import EngineUnavailable

log = logging.getLogger(__name__)

HOME_FILE = "MILVUS_HOME"  # in the index folder: the home's id
HOME_ID = re.compile(r"[0-9a-f]{12}")
# A field of Settings. Read here alone: as an argument, the secret would pass through every function
# that opens or checks a version.
TOKEN = "SKYFIX_MILVUS_TOKEN"
ROWS_A_CALL = 1_000  # 2 MiB at D = 512; Milvus takes up to 64 MiB
MAX_K = 16_384  # Milvus refuses more
TIMEOUT_S = 10.0
LOAD_S = 120.0  # a collection into memory, before a version goes live; Milvus itself goes on
NOT_LOADED = 101  # Milvus's code


class Milvus:
    """The collection of one version, searched over the network."""

    exact = False

    def __init__(self, address: str, version: str, count: int) -> None:
        """Connects.

        Raises:
            EngineUnavailable: no answer, no such collection, or another number of rows in it.
        """
        self._uri, self._collection = uri_of(address), collection_name(address, version)
        self._count = count
        with _named(self._uri):
            self._client = _connect(self._uri)
            self._client.load_collection(self._collection, timeout=LOAD_S)
            found = _rows_in(self._client, self._collection)
        if found != count:
            raise EngineUnavailable(
                f"Milvus at {self._uri}: collection {self._collection} holds {found} rows, not "
                f"{count}: run `skyfix build`"
            )

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See Engine. A collection that a restart or another client released is loaded again.

        Raises:
            EngineUnavailable: no answer.
        """
        k = min(k, self._count, MAX_K)
        with _named(self._uri):
            try:
                answers = self._search(queries, k)
            except Exception as error:
                if getattr(error, "code", None) != NOT_LOADED:
                    raise
                self._client.load_collection(self._collection, timeout=TIMEOUT_S)
                answers = self._search(queries, k)
                log.warning("Milvus at %s had released %s", self._uri, self._collection)
        products = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number, hits in enumerate(answers):
            products[number, : len(hits)] = [hit["distance"] for hit in hits]
            rows[number, : len(hits)] = [hit["row"] for hit in hits]
        return products, rows

    def _search(self, queries: Vectors, k: int) -> Any:
        vectors = list(queries)
        return self._client.search(self._collection, data=vectors, limit=k, timeout=TIMEOUT_S)


def address_of(uri: str, index_folder: Path) -> str:
    """The home's part of a server; the home's id is made by the first call.

    Raises:
        EngineUnavailable: the URI holds a password, which manifests show to everyone.
        OSError: the id cannot be written.
    """
    if urlsplit(uri).username is not None:
        raise EngineUnavailable(
            f"the address of Milvus names a user: leave that out, and set {TOKEN}=user:password"
        )
    path = index_folder / HOME_FILE
    home = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
    if not HOME_ID.fullmatch(home):
        home = secrets.token_hex(6)
        write_atomically(path, f"{home}\n".encode())
    return f"{uri}#{home}"


def load(address: str, version: str, vectors: Vectors, keep: Sequence[str]) -> None:
    """Make the version's collection, and drop the home's others but those of `keep`.

    Raises:
        EngineUnavailable: Milvus does not answer, or refuses.
    """
    uri, name = uri_of(address), collection_name(address, version)
    with _named(uri):
        from pymilvus import DataType

        client = _connect(uri)
        drop(address, keep)
        schema = client.create_schema(auto_id=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        index = client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        client.create_collection(name, schema=schema, index_params=index)
        for start, block in blocks(vectors, ROWS_A_CALL):
            client.insert(
                name, [{"row": row, "vector": vector} for row, vector in enumerate(block, start)]
            )
        client.flush(name)


def drop(address: str, keep: Sequence[str]) -> None:
    """Remove the collections of all of the home's versions but `keep`.

    Raises:
        EngineUnavailable: Milvus does not answer, or refuses.
    """
    kept = {collection_name(address, version) for version in keep}
    uri = uri_of(address)
    with _named(uri):
        client = _connect(uri)
        for name in set(_collections(client, address)) - kept:
            for alias in client.list_aliases(name)["aliases"]:  # left by Skyfix of former formats
                client.drop_alias(alias)
            client.drop_collection(name)
            log.info("dropped the Milvus collection %s", name)


def drop_if_there(address: str, keep: Sequence[str]) -> None:
    """As `drop`. Where Milvus does not answer, the next build or prune drops the collections."""
    try:
        drop(address, keep)
    except EngineUnavailable as error:
        log.warning("collections stay until the next build or prune: %s", error)


def uri_of(address: str) -> str:
    """The server's URI, without the home's id."""
    uri, mark, home = address.rpartition("#")
    return uri if mark and HOME_ID.fullmatch(home) else address


def collection_name(address: str, version: str) -> str:
    """Milvus allows letters, digits and underscores only."""
    return _prefix(address) + re.sub(r"[^A-Za-z0-9]", "_", version)


def _prefix(address: str) -> str:
    home = address.rpartition("#")[2]
    if not HOME_ID.fullmatch(home):
        raise EngineUnavailable(f"{address} names no home on Milvus: run `skyfix build`")
    return f"skyfix_{home}_v_"


def _collections(client: Any, address: str) -> list[str]:
    return [name for name in client.list_collections() if name.startswith(_prefix(address))]


def _rows_in(client: Any, collection: str) -> int:
    counted = client.query(
        collection,
        output_fields=["count(*)"],
        consistency_level="Strong",
        timeout=TIMEOUT_S,
    )
    return int(counted[0]["count(*)"])


def _connect(uri: str) -> Any:
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it also raises
    return MilvusClient(uri, token=os.environ.get(TOKEN, ""), timeout=TIMEOUT_S)


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Raise pymilvus's errors, and its absence, as EngineUnavailable."""
    try:
        from grpc import RpcError  # type: ignore[import-untyped]
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise EngineUnavailable(
            f"Milvus at {uri} needs the package pymilvus: pip install 'skyfix[milvus]'"
        ) from error
    try:
        yield
    except (MilvusException, RpcError) as error:  # a deadline missed is grpc's own
        raise EngineUnavailable(f"Milvus at {uri} fails: {error}") from error
