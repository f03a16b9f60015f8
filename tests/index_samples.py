"""Small index versions, written without a build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.geo import LatLon, wrap_longitude
from service.index.catalogue import Tile
from service.index.flat import Flat
from service.index.frozen_tiles import freeze
from service.index.ivf_pq import IVF_FILE, IvfPq
from service.index.manifest import TILES, VECTORS, Content, Manifest

ENCODER = "fa" * 32


def random_units(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(units, np.float32)


def flat_file(path: Path, vectors: NDArray[np.float32]) -> Flat:
    """The vectors (N, D) as a version holds them."""
    Flat.create(path, *vectors.shape)[:] = vectors
    return Flat.open(path)


def brute_force(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The oracle: the k largest inner products of each query, best first, and their rows."""
    products = queries.astype(np.float64) @ np.array(vectors, np.float64).T
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, rows, 1), rows


def write_version(
    index_folder: Path,
    count: int,
    dimension: int,
    *,
    name: str = "000001-20260101T000000Z",
    encoder: str = ENCODER,
    centre: LatLon = LatLon(50.0, 15.0),  # noqa: B008 (immutable)
    spread: float = 0.01,
    vectors: NDArray[np.float32] | None = None,
    places: NDArray[np.float64] | None = None,
    engine: str = "exact",
) -> Path:
    """A whole version of random vectors and tiles `spread` degrees around `centre`, or of given
    vectors (N, D) at given latitudes and longitudes (N, 2).
    """
    folder = index_folder / name
    folder.mkdir(parents=True)
    around = np.random.default_rng(1).uniform(-spread, spread, (count, 2)) + np.array(centre)
    tiles = [
        Tile(f"t{i}", "town", float(lat), wrap_longitude(float(lon)), 64.0, i.to_bytes(32, "big"))
        for i, (lat, lon) in enumerate(around if places is None else places)
    ]
    vectors = random_units(count, dimension, seed=0) if vectors is None else vectors
    flat_file(folder / VECTORS, vectors)
    np.save(folder / TILES, freeze(tiles, count))
    if engine == "ivfpq":
        IvfPq.write(Flat.open(folder / VECTORS), folder / IVF_FILE)
    files = {file.name: Content.of(file) for file in folder.iterdir()}
    Manifest(
        version=name, encoder=encoder, preprocessing={}, dimension=dimension, count=count,
        tile_size_m=(64.0, 64.0), sources=[], built_at="2026-01-01T00:00:00+00:00", files=files,
        engine={"kind": engine},
    ).write(folder)  # fmt: skip
    return folder
