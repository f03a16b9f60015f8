"""The index against its peers: search time, memory, opening, size, recall, and build throughput.

    python -m benchmarks.index --count 1000000 --dimension 512 --out benchmark.json
    python -m benchmarks.index --build WEIGHTS RASTER          build against the bare encoder

Vectors are clustered as a town's are: groups of overlapping tiles around common descriptors.
Queries are tiles moved by a street-to-aerial distance. Peers that are not installed are left out.
Each search runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from model.geo import LatLon
from service.build import build
from service.imagery.tiles import TilePictures
from service.index.catalogue import Catalogue, Tile
from service.index.engines import IVF_FILE, RESCORED, IvfPq, exact_nearest, moved
from service.index.manifest import TILES, VECTORS, Content, Manifest
from service.index.search import TileIndex
from service.index.tiles import freeze
from service.index.versions import verify_folder
from service.ingest import ingest
from service.position import Calibration

Vectors = NDArray[np.float32]
Search = Callable[[Vectors, int], Any]

NAME = "000001-20260101T000000Z"
GROUP = 20  # tiles around one place: a 4 x 5 neighbourhood at a stride of a quarter tile
GROUP_DISTANCE, STREET_DISTANCE = 0.3, 0.5  # squared
K = 10
REPEATS = 5
BATCHES = (1, 32)
RECALL_QUERIES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--build", nargs=2, type=Path, metavar=("WEIGHTS", "RASTER"))
    parser.add_argument("--folder", type=Path, help="where the vectors lie (a temporary one)")
    parser.add_argument("--out", type=Path, help="the JSON report (standard output)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.build:
            report = build_throughput(Path(folder), *arguments.build)
        else:
            report = search_report(Path(folder), arguments.count, arguments.dimension)
    text = json.dumps({"machine": machine(), **report}, indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    else:
        print(text)


def machine() -> dict[str, Any]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {"cpu": cpu[1] if cpu else "unknown", "cores": len(os.sched_getaffinity(0))}


# --- search ---------------------------------------------------------------------------------------


def search_report(home: Path, count: int, dimension: int) -> dict[str, Any]:
    """Every engine on the same vectors."""
    exact = write_version(home / "exact", count, dimension, "exact")
    started = time.perf_counter()
    ivf = write_version(home / "ivfpq", count, dimension, "ivfpq")
    ivf_seconds = time.perf_counter() - started
    report: dict[str, Any] = {"count": count, "dimension": dimension, "k": K, "engines": {}}
    engines = {name: (opener, exact) for name, opener in ENGINES.items()}
    engines["skyfix ivfpq + rescoring"] = (_skyfix, ivf)
    for name, (opener, folder) in track(engines.items(), "searching", console=Console(stderr=True)):
        report["engines"][name] = _apart(_measure, opener, folder)
    report["ivfpq"] = {"build_s": ivf_seconds, **_apart(_recall, ivf)}
    report["open_to_first_answer_s"] = {
        "exact": _apart(_opening, exact), "ivfpq": _apart(_opening, ivf)
    }  # fmt: skip
    files = {"exact": exact, "ivfpq": ivf}
    report["bytes_per_tile"] = {
        kind: sum(file.stat().st_size for file in folder.iterdir()) / count
        for kind, folder in files.items()
    }
    started = time.perf_counter()
    verify_folder(exact)
    report["verify_s"] = time.perf_counter() - started
    return report


def write_version(home: Path, count: int, dimension: int, kind: str) -> Path:
    """A whole index version of made-up, clustered vectors."""
    folder = home / "index" / NAME
    folder.mkdir(parents=True)
    vectors = np.lib.format.open_memmap(
        folder / VECTORS, mode="w+", dtype=np.float32, shape=(count, dimension)
    )
    random = np.random.default_rng(0)
    for start in range(0, count, GROUP * 5000):
        rows = min(GROUP * 5000, count - start)
        centres = random.standard_normal((-(-rows // GROUP), dimension), dtype=np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        near = centres.repeat(GROUP, axis=0)[:rows]
        vectors[start : start + rows] = moved(near, GROUP_DISTANCE, random)
    vectors.flush()
    tiles = (  # 16 m apart, a thousand in a row
        Tile(
            f"town-16m-n{i // 1000}-e{i % 1000}", "town", 50.0 + i // 1000 * 1.44e-4,
            15.0 + i % 1000 * 2.23e-4, 64.0, bytes(32),
        )
        for i in range(count)
    )  # fmt: skip
    np.save(folder / TILES, freeze(tiles, count))
    if kind == "ivfpq":
        IvfPq.write(vectors, folder / IVF_FILE, RESCORED)
    files = {file.name: Content.of(file) for file in folder.iterdir()}
    Manifest(
        version=NAME, encoder="fa" * 32, preprocessing={}, dimension=dimension, count=count,
        tile_size_m=(64.0, 64.0), sources=[], built_at="2026-01-01T00:00:00+00:00", files=files,
        engine={"kind": kind}, calibration=Calibration(32.0, 16.0, 98).as_dict(),
    ).write(folder)  # fmt: skip
    return folder


def _queries(vectors: Vectors, count: int) -> Vectors:
    random = np.random.default_rng(1)
    rows = np.sort(random.integers(0, len(vectors), count))
    return moved(vectors[rows], STREET_DISTANCE, random)


def _skyfix(folder: Path) -> Search:
    return TileIndex.open(folder).search


def _faiss_default(folder: Path) -> Search:
    import faiss

    vectors = np.load(folder / VECTORS)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda queries, k: index.search(queries, k)


def _faiss_fp16(folder: Path) -> Search:
    import faiss

    vectors = np.load(folder / VECTORS, mmap_mode="r")
    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    for start in range(0, len(vectors), 65_536):
        index.add(np.ascontiguousarray(vectors[start : start + 65_536]))
    return lambda queries, k: index.search(queries, k)


def _numpy(folder: Path) -> Search:
    vectors = np.load(folder / VECTORS)

    def search(queries: Vectors, k: int) -> NDArray[np.intp]:
        return np.argpartition(queries @ vectors.T, -k, axis=1)[:, -k:]

    return search


def _torch(folder: Path) -> Search:
    import torch

    vectors = torch.from_numpy(np.load(folder / VECTORS))
    return lambda queries, k: (torch.from_numpy(queries) @ vectors.T).topk(k)


def _torch_bf16(folder: Path) -> Search:
    import torch

    vectors = torch.from_numpy(np.load(folder / VECTORS)).bfloat16()
    return lambda queries, k: (torch.from_numpy(queries).bfloat16() @ vectors.T).topk(k)


def _usearch(folder: Path) -> Search:
    from usearch.index import search

    vectors = np.load(folder / VECTORS)
    return lambda queries, k: search(vectors, queries, k, "ip", exact=True)


ENGINES: dict[str, Callable[[Path], Search]] = {
    "skyfix exact": _skyfix,
    "faiss flat, default": _faiss_default,
    "faiss fp16": _faiss_fp16,
    "numpy matmul": _numpy,
    "torch matmul": _torch,
    "torch matmul bf16": _torch_bf16,
    **({"usearch exact": _usearch} if find_spec("usearch") else {}),
}


def _measure(opener: Callable[[Path], Search], folder: Path) -> dict[str, float]:
    """Milliseconds a batch (the best of REPEATS) and the process's memory."""
    search = opener(folder)
    queries = _queries(np.load(folder / VECTORS, mmap_mode="r"), max(BATCHES))
    report = {}
    for batch in BATCHES:
        times = []
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            search(queries[:batch], K)
            times.append(time.perf_counter() - started)
        report[f"batch_{batch}_ms"] = min(times[1:]) * 1e3
    return {**report, **_memory_mib()}


def _memory_mib() -> dict[str, float]:
    """Resident memory: its own, and pages of files that the system may drop at any time."""
    status = Path("/proc/self/status").read_text()
    names = {"own": "RssAnon", "mapped_files": "RssFile"}
    return {
        f"{name}_mib": int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
        for name, key in names.items()
    }


def _recall(folder: Path) -> dict[str, float]:
    """Share of the true K nearest that the approximate engine finds."""
    index = TileIndex.open(folder)
    queries = _queries(index.vectors, RECALL_QUERIES)
    _, true = exact_nearest(queries, index.vectors, K)
    _, found = index.search(queries, K)
    shares = [np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]
    return {"recall_at_10": float(np.mean(shares)), "queries": RECALL_QUERIES}


def _opening(folder: Path) -> float:
    """Seconds from the folder to the first answer, with a hint that has to look at every tile."""
    queries = _queries(np.load(folder / VECTORS, mmap_mode="r"), 1)
    started = time.perf_counter()
    index = TileIndex.open(folder)
    index.search(queries, K)
    index.search(queries, K, index.within(LatLon(50.0, 15.0), 1000.0))
    return time.perf_counter() - started


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs it in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


# --- build ----------------------------------------------------------------------------------------


def build_throughput(home: Path, weights: Path, raster: Path) -> dict[str, Any]:
    """Tiles a second of a whole build, against the encoder alone on pictures in memory."""
    from model.encoder import Encoder

    encoder = Encoder.load(weights)
    encoder.accelerate()
    with Catalogue.of(home) as catalogue:
        cut = ingest(catalogue, raster, size_m=encoder.aerial_footprint_m)
        tiles = list(catalogue.tiles())
        sources = {source.name: source for source in catalogue.sources()}
    with TilePictures(sources, tiles, encoder.aerial_pixels) as pictures:
        batches = [images for _, images in pictures.batches(np.arange(len(tiles)), 64)]
    encoder.encode_aerials(batches[0])
    started = time.perf_counter()
    for images in batches:
        encoder.encode_aerials(images)
    bare = len(tiles) / (time.perf_counter() - started)
    version = build(home, encoder)
    built = version.encoded / version.seconds
    return {
        "tiles": len(tiles),
        "ingest_tiles_per_s": cut.tiles / cut.seconds,
        "bare_encoder_tiles_per_s": bare,
        "build_tiles_per_s": built,
        "ratio": built / bare,
    }


if __name__ == "__main__":
    main()
