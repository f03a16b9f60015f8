"""Milvus as an engine: one collection a version, an alias for the live one. Extra `milvus`.

The version's folder stays the truth: its vectors score again what Milvus finds, and its rows say
where the tiles are. Milvus holds (row, vector) only. The alias is for other readers of the
cluster; Skyfix itself asks for the collection by the version's name, so that an answer never
mixes two versions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from service.index.engines import Rows, Vectors, blocks
from service.index.manifest import EngineUnavailable

log = logging.getLogger(__name__)

ALIAS = "skyfix"
PREFIX = "skyfix_v_"
ROWS_A_CALL = 1_000  # 2 MiB at D = 512; Milvus takes up to 64 MiB
MAX_K = 16_384  # Milvus refuses more
TIMEOUT_S = 10.0


class Milvus:
    """The collection of one version, searched over the network."""

    exact = False

    def __init__(self, uri: str, version: str, count: int) -> None:
        """Connects.

        Raises:
            EngineUnavailable: no answer, no such collection, or another number of rows in it.
        """
        self._uri, self._collection, self._count = uri, collection_name(version), count
        with _named(uri):
            self._client = _connect(uri)
            self._client.load_collection(self._collection)
            found = _rows_in(self._client, self._collection)
        if found != count:
            raise EngineUnavailable(
                f"Milvus at {uri}: collection {self._collection} holds {found} rows, not {count}: "
                "run `skyfix build`"
            )

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See Engine.

        Raises:
            EngineUnavailable: no answer.
        """
        k = min(k, self._count, MAX_K)
        with _named(self._uri):
            answers = self._client.search(
                self._collection, data=list(queries), limit=k, timeout=TIMEOUT_S
            )
        products = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number, hits in enumerate(answers):
            products[number, : len(hits)] = [hit["distance"] for hit in hits]
            rows[number, : len(hits)] = [hit["row"] for hit in hits]
        return products, rows


def load(uri: str, version: str, vectors: Vectors, keep: Sequence[str]) -> None:
    """Makes the version's collection, and drops those of versions that are not in `keep`.

    Raises:
        EngineUnavailable: Milvus does not answer, or refuses.
    """
    name = collection_name(version)
    with _named(uri):
        from pymilvus import DataType

        client = _connect(uri)
        drop(uri, keep)
        schema = client.create_schema(auto_id=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        index = client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        client.create_collection(name, schema=schema, index_params=index)
        for start, block in blocks(vectors):
            for first in range(0, len(block), ROWS_A_CALL):
                part = block[first : first + ROWS_A_CALL]
                rows = range(start + first, start + first + len(part))
                client.insert(
                    name, [{"row": r, "vector": v} for r, v in zip(rows, part, strict=True)]
                )
        client.flush(name)


def point_alias(uri: str, version: str) -> None:
    """Moves ALIAS to the version's collection: atomic for whoever asks by alias.

    Raises:
        EngineUnavailable: Milvus does not answer, or refuses.
    """
    with _named(uri):
        client, name = _connect(uri), collection_name(version)
        holders = {one: client.list_aliases(one)["aliases"] for one in _collections(client)}
        move = (
            client.alter_alias if any(ALIAS in a for a in holders.values()) else client.create_alias
        )
        move(name, ALIAS)


def drop(uri: str, keep: Sequence[str]) -> None:
    """Removes the collections of all versions but `keep`.

    Raises:
        EngineUnavailable: Milvus does not answer, or refuses.
    """
    kept = {collection_name(version) for version in keep}
    with _named(uri):
        client = _connect(uri)
        for name in set(_collections(client)) - kept:
            for alias in client.list_aliases(name)["aliases"]:
                client.drop_alias(alias)
            client.drop_collection(name)
            log.info("dropped the Milvus collection %s", name)


def collection_name(version: str) -> str:
    """Milvus allows letters, digits and underscores only."""
    return PREFIX + re.sub(r"[^A-Za-z0-9]", "_", version)


def _collections(client: Any) -> list[str]:
    return [name for name in client.list_collections() if name.startswith(PREFIX)]


def _rows_in(client: Any, collection: str) -> int:
    counted = client.query(collection, output_fields=["count(*)"], consistency_level="Strong")
    return int(counted[0]["count(*)"])


def _connect(uri: str) -> Any:
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it also raises
    return MilvusClient(uri, timeout=TIMEOUT_S)


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """pymilvus's errors, and its absence, as EngineUnavailable."""
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
        raise EngineUnavailable(f"Milvus at {uri} does not do what it should: {error}") from error
