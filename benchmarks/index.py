"""The index: search times, opening, recall, size on disk and the speed of a build.

    python -m benchmarks.index table                    under three minutes; prints a Markdown table
    python -m benchmarks.index hints --count 100000     a search among some tiles only
    python -m benchmarks.index open size recall --count 1000000 --dimension 512
    python -m benchmarks.index crossover --sizes 10000 100000 1000000
    python -m benchmarks.index build                    needs the extra `training`, or --raster

table      engines on the same vectors, in turns, quiet and beside busy processes
hints      milliseconds by the share of tiles that a hint allows
open       from a home folder to the first answer, as the server opens it
recall     IVF-PQ with rescoring against exact search
size       bytes a tile on disk, and the time to write and verify the catalogue
crossover  exact search against IVF-PQ by size. service.index.engine_choice.FLAT_VALUES lies where
           one exact query takes about 10 ms
build      tiles a second of a whole build, against the encoder alone on images in memory

Vectors are clustered as a town's are; `recall` and `crossover` take those of a town from
--descriptors instead. Queries are tiles moved by a street-to-aerial distance.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.index_engines import ENGINES, Search, skyfix
from benchmarks.index_versions import ENCODER, jittered, made_up, made_up_tiles, write_version
from model.atomic_write import sync
from model.freed_memory import keep_freed_memory
from model.geo import LatLon
from service.build import BATCH, build
from service.imagery.tile_images import TileImages
from service.index.catalogue import Catalogue, SourceRecord
from service.index.flat import Flat, Vectors
from service.index.ivf_pq import moved
from service.index.live_index import LiveIndex
from service.index.manifest import TILES, VECTORS
from service.index.search import TileIndex
from service.ingest import ingest
from service.settings import Settings

TABLE = ((10_000, 1024), (100_000, 1024), (300_000, 256))  # tiles, dimension
BATCHES = (1, 8, 36)  # 36: every roll of a panorama of unknown heading
K = 98  # candidates of a query, at a stride of a quarter tile
ROUNDS, ROUND_S = 3, 0.4  # of each engine in turn; about ROUND_S seconds each
BUSY = 3  # processes
SHARES = (0.001, 0.01, 0.1, 0.5)
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
STREET_DISTANCE = 0.5  # squared, between a query and the tile it shows
RECALL_QUERIES, RECALL_K = 1000, 10

Report = dict[str, Any]


def main() -> None:
    keep_freed_memory()  # as the server does
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART")
    parser.add_argument("--count", type=int, default=1_000_000, help="tiles")
    parser.add_argument("--dimension", type=int, default=512, help="of made-up descriptors")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="for `crossover`")
    parser.add_argument("--descriptors", type=Path, help="vectors.faiss of a town's version")
    parser.add_argument("--weights", type=Path, default=Settings.from_env({}).weights)
    parser.add_argument("--raster", type=Path, help="imagery for `build`; default: a made-up town")
    parser.add_argument("--folder", type=Path, help="where temporary files go")
    parser.add_argument("--out", type=Path, help="the JSON report; default: standard output")
    arguments = parser.parse_args()
    report: Report = {"machine": machine()}
    for part in arguments.parts:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            report[part] = PARTS[part](Path(folder), arguments)
    text = json.dumps(report, indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    else:
        print(text)


def machine() -> Report:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
    }


@contextmanager
def timed(report: Report, name: str) -> Iterator[None]:
    """Put the block's seconds into the report, and show that it runs."""
    started = time.perf_counter()
    with Console(stderr=True).status(name):
        yield
    report[f"{name}_s"] = time.perf_counter() - started


def own_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run `work` in a new process, which has its own memory and threads."""
    with Console(stderr=True).status(work.__name__), own_process() as pool:
        return pool.submit(work, *arguments).result()


def queries_near(vectors: Vectors, count: int) -> Vectors:
    random = np.random.default_rng(1)
    rows = np.sort(random.integers(0, len(vectors), count))
    return moved(vectors[rows], STREET_DISTANCE, random)


# --- table ----------------------------------------------------------------------------------------


def table(home: Path, _: argparse.Namespace) -> list[Report]:
    """Median milliseconds of each engine, size, batch and neighbourhood; also printed."""
    print_row("tiles x dimension", "queries", "busy processes", *ENGINES)
    print_row(*["---"] * (3 + len(ENGINES)))
    rows = []
    for count, dimension in TABLE:
        with tempfile.TemporaryDirectory(dir=home) as folder:
            blocks = made_up(count, dimension)
            version = write_version(Path(folder), blocks, count, dimension, "exact")
            for busy in (0, BUSY):
                for row in in_turns(version, f"{count:,} x {dimension}", busy):
                    times = (f"{row[engine]:.1f}" for engine in ENGINES)
                    print_row(row["size"], row["queries"], row["busy"], *times)
                    rows.append(row)
    return rows


def print_row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", file=sys.stderr, flush=True)


def in_turns(version: Path, size: str, busy: int) -> list[Report]:
    times: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        pools = {engine: stack.enter_context(own_process()) for engine in ENGINES}
        for engine, pool in pools.items():
            pool.submit(_open, engine, version).result()
        stack.enter_context(busy_processes(busy))
        for _ in range(ROUNDS):
            for batch in BATCHES:
                for engine, pool in pools.items():
                    times.setdefault((engine, batch), []).extend(pool.submit(_ask, batch).result())
    return [
        {"size": size, "queries": batch, "busy": busy}
        | {engine: float(np.median(times[engine, batch])) for engine in ENGINES}
        for batch in BATCHES
    ]


_OPEN: list[tuple[Search, Vectors]] = []  # in an engine's own process


def _open(engine: str, version: Path) -> None:
    queries = queries_near(Flat.open(version / VECTORS).vectors, max(BATCHES))
    _OPEN.append((ENGINES[engine](version), queries))


def _ask(batch: int) -> list[float]:
    ((search, queries),) = _OPEN
    return milliseconds(lambda: search(queries[:batch], K))


def milliseconds(work: Callable[[], object]) -> list[float]:
    """Milliseconds of each run for ROUND_S, after a run to warm up."""
    work()
    times: list[float] = []
    while not times or sum(times) < ROUND_S * 1e3:
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1e3)
    return times


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin() -> None:
    while True:
        pass


# --- hints, open, size, recall, crossover ---------------------------------------------------------


def made_up_version(home: Path, arguments: argparse.Namespace) -> Path:
    count, dimension = arguments.count, arguments.dimension
    return write_version(home, made_up(count, dimension), count, dimension, "exact")


def hints(home: Path, arguments: argparse.Namespace) -> Report:
    """Median milliseconds by the share of allowed tiles and the number of queries."""
    index = TileIndex.open(made_up_version(home, arguments))
    queries = queries_near(index.vectors, max(BATCHES))
    found: Report = {}
    for share in SHARES:
        allowed = np.random.default_rng(0).random(len(index.vectors)) < share
        for batch in BATCHES:
            times = milliseconds(lambda: index.search(queries[:batch], K, allowed))  # noqa: B023
            found[f"{share:g}, {batch} queries"] = float(np.median(times))
    return found


def opening(home: Path, arguments: argparse.Namespace) -> Report:
    """See _opening; `cold`: the system is asked to forget the files first."""
    folder = made_up_version(home, arguments)
    return {files: apart(_opening, home, folder, files == "cold") for files in ("warm", "cold")}


def _opening(home: Path, folder: Path, cold: bool) -> Report:
    """Seconds from the home folder to an answer, and to one whose hint looks at every tile."""
    queries = queries_near(Flat.open(folder / VECTORS).vectors, 1)
    if cold:
        for file in folder.iterdir():
            forget(file)
    report: Report = {}
    with timed(report, "opened"):
        index = LiveIndex(home, ENCODER).get()
    with timed(report, "first_answer"):
        index.search(queries, K)
    with timed(report, "hinted_answer"):
        index.search(queries, K, index.tiles.within(LatLon(50.0, 15.0), 1000.0))
    status = Path("/proc/self/status").read_text()
    for key in ("RssAnon", "RssFile"):
        report[f"{key}_mib"] = int(status.split(f"{key}:")[1].split()[0]) / 1024
    return report


def forget(file: Path) -> None:
    """Drop a file from the page cache, where the file system honours that."""
    sync(file)
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def size(home: Path, arguments: argparse.Namespace) -> Report:
    """Bytes a tile of vectors, rows and catalogue; seconds to write and verify the catalogue."""
    folder, count = made_up_version(home, arguments), arguments.count
    record = SourceRecord("town", "raster", "/", 64.0, 16.0, "", "", "", "2026-01-01")
    report = {f"{name}_bytes": (folder / name).stat().st_size / count for name in (VECTORS, TILES)}
    with Catalogue.of(home) as catalogue:
        with timed(report, "catalogue_write"):
            catalogue.replace_source(record, made_up_tiles(count))
        with timed(report, "catalogue_verify"):
            catalogue.verify()
        return {**report, "catalogue_bytes": catalogue.path.stat().st_size / count}


def recall(home: Path, arguments: argparse.Namespace) -> Report:
    return compared(home, arguments, arguments.count, "ivfpq")


def crossover(home: Path, arguments: argparse.Namespace) -> Report:
    """`compared` of both engines at every size."""
    found: Report = {}
    for count in sorted(arguments.sizes):
        for kind in ("exact", "ivfpq"):
            with tempfile.TemporaryDirectory(dir=home) as folder:
                found[f"{count} {kind}"] = compared(Path(folder), arguments, count, kind)
    return found


def compared(home: Path, arguments: argparse.Namespace, count: int, kind: str) -> Report:
    """Seconds to write a version, its bytes, recall and milliseconds."""
    dimension, blocks = arguments.dimension, made_up(count, arguments.dimension)
    if arguments.descriptors:
        descriptors = np.array(Flat.open(arguments.descriptors).vectors)
        dimension, blocks = descriptors.shape[1], jittered(descriptors, count)
    report: Report = {"dimension": dimension}
    with timed(report, "write_and_verify"):
        folder = write_version(home, blocks, count, dimension, kind)
    files = {file.name: file.stat().st_size / count for file in sorted(folder.iterdir())}
    return {**report, "bytes_a_tile": files, **apart(_searched, folder)}


def _searched(folder: Path) -> Report:
    search, flat = skyfix(folder), Flat.open(folder / VECTORS)
    queries = queries_near(flat.vectors, RECALL_QUERIES)
    _, true = flat.nearest(queries, RECALL_K)
    _, found = search(queries, RECALL_K)
    shares = [np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]
    report: Report = {"recall_at_10": float(np.mean(shares))}
    for batch in BATCHES:
        times = milliseconds(lambda: search(queries[:batch], K))  # noqa: B023
        report[f"{batch}_queries_ms"] = float(np.median(times))
    return report


# --- build ----------------------------------------------------------------------------------------


def build_speed(home: Path, arguments: argparse.Namespace) -> Report:
    raster = arguments.raster
    if raster is None:
        from training.town.dataset import write_town
        from training.town.town import TownSpec

        write_town(home / "town", TownSpec(seed=1), panoramas=1)  # about 2,500 tiles
        raster = home / "town" / "aerial.tif"
    return apart(_build_speed, home, arguments.weights, raster)  # type: ignore[no-any-return]


def _build_speed(home: Path, weights: Path, raster: Path) -> Report:
    """Tiles a second, and milliseconds of one core a tile.

    Cutting takes cores from encoding: where both share all cores, no build reaches more than
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


PARTS: dict[str, Callable[[Path, argparse.Namespace], Any]] = {
    "table": table,
    "hints": hints,
    "open": opening,
    "size": size,
    "recall": recall,
    "crossover": crossover,
    "build": build_speed,
}


if __name__ == "__main__":
    main()
