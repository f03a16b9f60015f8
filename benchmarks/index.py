"""The index against its peers: search, opening, recall, size, and build throughput.

    python -m benchmarks.index --descriptors skyfix-data/index/<version>/vectors.npy    everything
    python -m benchmarks.index search open --count 1000000 --dimension 512              some parts
    python -m benchmarks.index crossover --descriptors … --sizes 10000 100000 1000000   when asked

search  every engine on the same vectors, each in a process of its own so that its memory is too
open    from a home folder to the first answer, as the server opens it
recall  IVF-PQ with rescoring against exact; on --descriptors (M, D), jittered, where given
size    bytes a tile on the disk, and what the catalogue costs
build   tiles a second of a whole build, against the encoder alone on pictures in memory
crossover  exact against IVF-PQ at several sizes, and from which on IVF-PQ answers one query sooner:
        service.index.engine_choice.APPROXIMATE_FROM lies there or, since exact search misses
        nothing, further up. Not among everything: it trains an index of every size

Vectors are clustered as a town's are. Queries are tiles moved by a street-to-aerial distance.
Peers that are not installed are left out.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.index_peers import ENGINES, Search, Vectors, skyfix
from benchmarks.index_versions import ENCODER, jittered, made_up, made_up_tiles, write_version
from model.atomic_write import sync
from model.freed_memory import keep_freed_memory
from model.geo import LatLon
from service.build import BATCH, build
from service.imagery.tile_images import TileImages
from service.index.catalogue import Catalogue, SourceRecord
from service.index.engines import IVF_FILE, exact_nearest, moved
from service.index.live import LiveIndex
from service.index.manifest import TILES, VECTORS
from service.index.search import TileIndex
from service.index.versions import verify_folder
from service.ingest import ingest
from service.settings import Settings

EVERYTHING = ("search", "open", "recall", "size", "build")
PARTS = (*EVERYTHING, "crossover")
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)  # of `crossover`
STREET_DISTANCE = 0.5  # squared, between a query and the tile it shows
K = 10
REPEATS, ENOUGH_S = 5, 10.0  # of a search: so often, or until that long
BATCHES = (1, 32)
RECALL_QUERIES = 1000


def main() -> None:
    keep_freed_memory()  # as what is measured beside it does
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of `crossover`")
    parser.add_argument("--descriptors", type=Path, help=".npy of a town's aerial descriptors")
    parser.add_argument("--weights", type=Path, default=Settings.from_env({}).weights)
    parser.add_argument("--raster", type=Path, help="imagery for `build` (a made town)")
    parser.add_argument("--folder", type=Path, help="where the vectors lie (a temporary one)")
    parser.add_argument("--out", type=Path, help="the JSON report (standard output)")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part is named {sorted(unknown)}; there are {PARTS}")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report = measure(Path(folder), arguments)
    text = json.dumps(report, indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    else:
        print(text)


def measure(home: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The parts asked for, all without any."""
    wanted = arguments.parts or EVERYTHING
    count, dimension = arguments.count, arguments.dimension
    report: dict[str, Any] = {"machine": machine(), "count": count, "dimension": dimension}
    if {"search", "open", "size"} & set(wanted):
        with timed(report, "write_and_verify"):
            blocks = made_up(count, dimension)
            folder = write_version(home / "exact", blocks, count, dimension, "exact")
    if "search" in wanted:
        report["search"] = search(folder)
    if "open" in wanted:
        report["open"] = {name: apart(opening, home / "exact", name) for name in ("warm", "cold")}
    if "size" in wanted:
        report["size"] = size(home / "exact", folder, count)
    if "recall" in wanted:
        report["recall"] = recall(home / "ivfpq", arguments)
    if "crossover" in wanted:
        report["crossover"] = crossover(home, arguments)
    if "build" in wanted:
        raster = arguments.raster or made_town(home / "town")
        report["build"] = apart(build_throughput, home / "build", arguments.weights, raster)
    return report


def machine() -> dict[str, Any]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {"cpu": cpu[1] if cpu else "unknown", "cores": len(os.sched_getaffinity(0))}


@contextmanager
def timed(report: dict[str, Any], name: str) -> Iterator[None]:
    """Puts the block's seconds into the report, and shows that it runs."""
    started = time.perf_counter()
    with Console(stderr=True).status(name):
        yield
    report[f"{name}_s"] = time.perf_counter() - started


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs it in a new process; raises BrokenProcessPool when that is killed."""
    with (
        Console(stderr=True).status(work.__name__),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(work, *arguments).result()


def queries_near(vectors: Vectors, count: int) -> Vectors:
    random = np.random.default_rng(1)
    rows = np.sort(random.integers(0, len(vectors), count))
    return moved(vectors[rows], STREET_DISTANCE, random)


# --- search, open, size, recall -------------------------------------------------------------------


def search(folder: Path) -> dict[str, Any]:
    """Milliseconds and memory of every engine."""
    return {name: apart(search_time, opener, folder) for name, opener in ENGINES.items()}


def search_time(opener: Callable[[Path], Search], folder: Path) -> dict[str, float]:
    """Milliseconds a batch (the best, after one to warm up) and the process's memory."""
    ask = opener(folder)
    queries = queries_near(np.load(folder / VECTORS, mmap_mode="r"), max(BATCHES))
    report = {}
    for batch in BATCHES:
        times: list[float] = []
        while len(times) <= REPEATS and (len(times) < 2 or sum(times) < ENOUGH_S):
            started = time.perf_counter()
            ask(queries[:batch], K)
            times.append(time.perf_counter() - started)
        report[f"batch_{batch}_ms"] = min(times[1:]) * 1e3
    return {**report, **memory_mib()}


def memory_mib() -> dict[str, float]:
    """Resident memory: its own, and pages of files that the system may drop at any time."""
    status = Path("/proc/self/status").read_text()
    names = {"own": "RssAnon", "mapped_files": "RssFile"}
    return {
        f"{name}_mib": int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
        for name, key in names.items()
    }


def opening(home: Path, files: str) -> dict[str, float]:
    """Seconds from the home folder to an answer, and to one whose hint looks at every tile.

    Args:
        files: "warm", or "cold": the system is asked to forget them first.
    """
    folder = next((home / "index").glob("0*"))
    queries = queries_near(np.load(folder / VECTORS, mmap_mode="r"), 1)
    if files == "cold":
        for file in folder.iterdir():
            forget(file)
    started = time.perf_counter()
    index = LiveIndex(home, ENCODER).get()
    opened = time.perf_counter()
    index.search(queries, K)
    answered = time.perf_counter()
    index.search(queries, K, index.within(LatLon(50.0, 15.0), 1000.0))
    hinted = time.perf_counter()
    return {
        "opened_s": opened - started,
        "first_answer_s": answered - started,
        "hinted_answer_s": hinted - answered,
    }


def forget(file: Path) -> None:
    """Drops a file from the page cache, where the file system honours that."""
    sync(file)
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def size(home: Path, folder: Path, count: int) -> dict[str, float]:
    """Bytes a tile of vectors, rows and catalogue; seconds to write and verify the catalogue."""
    record = SourceRecord("town", "raster", "/", 64.0, 16.0, "", "", "", "2026-01-01")
    report = {f"{name}_bytes": (folder / name).stat().st_size / count for name in (VECTORS, TILES)}
    with Catalogue.of(home) as catalogue:
        with timed(report, "catalogue_write"):
            catalogue.replace_source(record, made_up_tiles(count))
        with timed(report, "catalogue_verify"):
            catalogue.verify()
        return {**report, "catalogue_bytes": catalogue.path.stat().st_size / count}


def recall(home: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Share of the true K nearest that IVF-PQ finds, its size, and its time."""
    blocks, dimension = vectors_asked_for(arguments, arguments.count)
    report: dict[str, Any] = {"vectors": str(arguments.descriptors or "made up")}
    with timed(report, "write_train_and_verify"):
        folder = write_version(home, blocks, arguments.count, dimension, "ivfpq")
    with timed(report, "verify"):
        verify_folder(folder)
    bytes_a_tile = (folder / IVF_FILE).stat().st_size / arguments.count
    found = apart(recall_of, folder)
    return {**report, "dimension": dimension, f"{IVF_FILE}_bytes": bytes_a_tile, **found,
            **apart(search_time, skyfix, folder)}  # fmt: skip


def vectors_asked_for(arguments: argparse.Namespace, count: int) -> tuple[Iterator[Vectors], int]:
    """Blocks of so many, and their dimension."""
    if arguments.descriptors is None:
        return made_up(count, arguments.dimension), arguments.dimension
    descriptors = np.load(arguments.descriptors).astype(np.float32)
    return jittered(descriptors, count), descriptors.shape[1]


def crossover(home: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of both engines at every size, and the size from which on IVF-PQ is faster."""
    found: dict[int, dict[str, Any]] = {}
    for count in sorted(arguments.sizes):
        found[count] = {}
        for kind in ("exact", "ivfpq"):
            blocks, dimension = vectors_asked_for(arguments, count)
            with tempfile.TemporaryDirectory(dir=home) as folder:
                made = write_version(Path(folder), blocks, count, dimension, kind)
                found[count][kind] = apart(search_time, skyfix, made) | apart(recall_of, made)
    slower = [
        count for count, by in found.items()
        if by["ivfpq"]["batch_1_ms"] >= by["exact"]["batch_1_ms"]
    ]  # fmt: skip
    above = [count for count in found if count > max(slower, default=0)]
    return {"sizes": found, "approximate_from": min(above, default=None)}


def recall_of(folder: Path) -> dict[str, float]:
    index = TileIndex.open(folder)
    queries = queries_near(index.vectors, RECALL_QUERIES)
    _, true = exact_nearest(queries, index.vectors, K)
    _, found = index.search(queries, K)
    shares = [np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]
    return {"recall_at_10": float(np.mean(shares)), "queries": RECALL_QUERIES}


# --- build ----------------------------------------------------------------------------------------


def made_town(folder: Path) -> Path:
    """The raster of a procedural town: about 2,500 tiles."""
    from training.town.dataset import write_town
    from training.town.town import TownSpec

    write_town(folder, TownSpec(seed=1), panoramas=1)
    return folder / "aerial.tif"


def build_throughput(home: Path, weights: Path, raster: Path) -> dict[str, Any]:
    """Tiles a second, and milliseconds of one core a tile.

    Cutting takes cores from encoding: where they share all of them, no build can reach more than
    `ratio_bound` of the encoder alone. The encoder is timed before and after the build.
    """
    from model.encoder import Encoder

    encoder = Encoder.load(weights)
    encoder.accelerate()
    with Catalogue.of(home) as catalogue:
        cut = ingest(catalogue, raster, size_m=encoder.aerial_footprint_m)
        tiles = list(catalogue.tiles())
        sources = {source.name: source for source in catalogue.sources()}
    began = time.process_time()
    with TileImages(sources, tiles, encoder.aerial_pixels) as reader:
        batches = [images for _, images in reader.batches(np.arange(len(tiles)), BATCH)]
    cut_core_s = time.process_time() - began

    def encode() -> tuple[float, float]:
        wall, core = time.perf_counter(), time.process_time()
        for images in batches:
            encoder.encode_aerials(images)
        return time.perf_counter() - wall, time.process_time() - core

    encoder.encode_aerials(batches[0])
    before = encode()
    version = build(home, encoder)
    after = encode()
    bare_s, encode_core_s = (sum(both) / 2.0 for both in zip(before, after, strict=True))
    return {
        "tiles": len(tiles),
        "ingest_tiles_per_s": cut.tiles / cut.seconds,
        "cut_core_ms": cut_core_s / len(tiles) * 1e3,
        "encode_core_ms": encode_core_s / len(tiles) * 1e3,
        "bare_encoder_tiles_per_s": len(tiles) / bare_s,
        "build_tiles_per_s": version.encoded / version.seconds,
        "ratio": bare_s / version.seconds,
        "ratio_bound": encode_core_s / (encode_core_s + cut_core_s),
    }


if __name__ == "__main__":
    main()
