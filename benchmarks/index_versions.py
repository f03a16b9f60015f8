"""Index versions and catalogues of any size, made without imagery or encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.index.catalogue import Tile
from service.index.faiss_library import faiss
from service.index.flat import Flat
from service.index.frozen_tiles import freeze
from service.index.ivf_pq import IVF_FILE, IvfPq, moved
from service.index.manifest import TILES, VECTORS, Content, Manifest
from service.index.stored_calibration import Calibration
from service.index.versions import Versions

Vectors = NDArray[np.float32]

NAME = "000001-20260101T000000Z"
ENCODER = "fa" * 32
BLOCK = 100_000  # vectors made together
GROUP = 20  # tiles around one place: a 4 x 5 neighbourhood at a stride of a quarter tile
GROUP_DISTANCE = 0.3  # squared
NEIGHBOURS = 8  # tiles around a tile of the grid


def made_up(count: int, dimension: int) -> Iterator[Vectors]:
    """Blocks of unit vectors: groups of GROUP around random directions, as overlapping tiles."""
    random = np.random.default_rng(0)
    for rows in _blocks(count):
        centres = random.standard_normal((-(-rows // GROUP), dimension), dtype=np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        yield moved(centres.repeat(GROUP, axis=0)[:rows], GROUP_DISTANCE, random)


def jittered(descriptors: Vectors, count: int) -> Iterator[Vectors]:
    """Blocks of unit vectors spread as (M, D) real descriptors are, M > NEIGHBOURS.

    Each is a descriptor plus the difference between another descriptor and one of its NEIGHBOURS
    nearest: as far from its tile, and in the directions, as neighbouring tiles are from each other.
    """
    random = np.random.default_rng(0)
    _, nearest = faiss.knn(descriptors, descriptors, 1 + NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    for rows in _blocks(count):
        tile, other = random.integers(0, len(descriptors), (2, rows))
        neighbour = nearest[other, random.integers(1, 1 + NEIGHBOURS, rows)]
        vectors = descriptors[tile] + descriptors[neighbour] - descriptors[other]
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _blocks(count: int) -> Iterator[int]:
    return (min(BLOCK, count - start) for start in range(0, count, BLOCK))


def made_up_tiles(count: int) -> Iterator[Tile]:
    """16 m apart, a thousand in a row."""
    for i in range(count):
        north, east = divmod(i, 1000)
        place = 50.0 + north * 1.44e-4, 15.0 + east * 2.23e-4
        yield Tile(f"town-16m-n{north}-e{east}", "town", *place, 64.0, i.to_bytes(32, "big"))


def write_version(
    home: Path, blocks: Iterable[Vectors], count: int, dimension: int, kind: str
) -> Path:
    """A whole, verified, live index version; returns its folder."""
    folder = home / "index" / NAME
    folder.mkdir(parents=True)
    vectors = Flat.create(folder / VECTORS, count, dimension)
    written = 0
    for block in blocks:
        vectors[written : written + len(block)] = block
        written += len(block)
    vectors.flush()
    np.save(folder / TILES, freeze(made_up_tiles(count), count))
    if kind == "ivfpq":
        IvfPq.write(Flat.open(folder / VECTORS), folder / IVF_FILE)
    files = {file.name: Content.of(file) for file in folder.iterdir()}
    Manifest(
        version=NAME, encoder=ENCODER, preprocessing={}, dimension=dimension, count=count,
        tile_size_m=(64.0, 64.0), sources=[], built_at="2026-01-01T00:00:00+00:00", files=files,
        engine={"kind": kind}, calibration=Calibration(32.0, 16.0, 98).as_dict(),
    ).write(folder)  # fmt: skip
    Versions(home).activate(NAME)
    return folder
