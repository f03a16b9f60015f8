"""Requests a second, latency and memory of Skyfix and its peers, and the encoder as the limit.

    pip install -e '.[cpu,bench]'
    python -m benchmarks.serving                                 all of it, about ten minutes
    python -m benchmarks.serving --seconds 2 --clients 8 --sizes small --systems skyfix

Same weights, same index, same machine; the load generator takes its share of it. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from benchmarks.load import Tally, closed_loop, open_loop, quantile, request_bytes
from model.encoder import Encoder
from model.panorama import PanoramaGeometry
from service.build import build
from service.compose import open_encoder
from service.index.catalogue import Catalogue
from service.ingest import ingest
from service.settings import Settings

SIZES = {"small": (1232, 224), "medium": (4096, 2048), "large": (8192, 4096)}
QUERIES = {"skyfix": "/localize?heading_deg=0", "plain": "/localize", "litserve": "/localize"}
SIDE = 1200  # pixels of the made-up raster, 0.5 m each: about 1,000 tiles


def panorama(size: tuple[int, int]) -> bytes:
    """A JPEG about as large as a photo of its size."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (32, 64, 3), np.uint8)).resize(size)
    noise = random.integers(-8, 8, (size[1], size[0], 1), np.int16)
    pixels = (np.asarray(coarse, np.int16) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def make_home(home: Path, encoder: Encoder) -> None:
    """An index of a made-up region."""
    random = np.random.default_rng(1)
    cells = random.integers(0, 256, (3, SIDE // 20, SIDE // 20), np.uint8)
    image = cells.repeat(20, axis=1).repeat(20, axis=2)
    place = rasterio.transform.from_origin(500_000.0, 5_540_000.0, 0.5, 0.5)
    with rasterio.open(
        home / "region.tif", "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8",
        crs="EPSG:32633", transform=place,
    ) as raster:  # fmt: skip
        raster.write(image)
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, home / "region.tif", size_m=encoder.aerial_footprint_m)
    build(home, encoder)


@contextmanager
def running(system: str, home: Path, weights: Path) -> Iterator[tuple[int, int]]:
    """The system's server: its port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "benchmarks.peers", system, str(port), str(home), str(weights)]
    if system == "skyfix":
        command = ["-m", "service", "serve", "--port", str(port)]
        command += ["--home", str(home), "--weights", str(weights)]
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield port, process.pid
        finally:
            process.terminate()
            for child in children(process.pid):
                os.kill(child, 15)


def wait_for(port: int, seconds: float = 60.0) -> None:
    """Until something listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def children(pid: int) -> list[int]:
    """Process ids of the children, and theirs."""
    try:
        own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, own) for each in (child, *children(child))]


def peak_mib(pid: int) -> float:
    """Largest resident memory so far, with all child processes."""
    total = 0.0
    for one in (pid, *children(pid)):
        status = Path(f"/proc/{one}/status").read_text()
        total += float(status.partition("VmHWM:")[2].split()[0]) / 1024.0
    return total


def bare(encoder: Encoder, seconds: float, batch: int = 8) -> float:
    """Images a second of the encoder alone, strips already prepared."""
    shape = (*encoder.config.preprocessing.strip_size, 3)
    strip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    strips = [encoder.prepare_street(strip, PanoramaGeometry(vertical_fov_deg=60.0))] * batch
    encoder.encode_strips(strips, [0.5] * batch)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        encoder.encode_strips(strips, [0.5] * batch)
        done += batch
    return done / (time.perf_counter() - begun)


def row(*cells: object) -> None:
    """One line of the table, at once."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def milliseconds(values: list[float], share: float) -> str:
    """A latency for the table."""
    return f"{1000.0 * quantile(values, share):.0f}" if values else "-"


def measure(arguments: argparse.Namespace, home: Path) -> None:
    """The table of all systems, sizes and clients, then the overload."""
    row("system", "upload", "clients", "req/s", "p50 ms", "p99 ms", "refused", "failed", "peak MiB")
    row(*["---"] * 9)
    for system in arguments.systems:
        with running(system, home, arguments.weights) as (port, pid):
            for size in arguments.sizes:
                request = request_bytes(QUERIES[system], "panorama", panorama(SIZES[size]))
                asyncio.run(closed_loop(port, request, 1, 1.0))  # warm
                best = 0.0
                for clients in arguments.clients:
                    tally = asyncio.run(closed_loop(port, request, clients, arguments.seconds))
                    best = max(best, tally.rate)
                    row(system, size, clients, *shown(tally), f"{peak_mib(pid):.0f}")
                overload = open_loop(port, request, 4.0 * max(best, 1.0), arguments.seconds)
                tally = asyncio.run(overload)
                row(system, size, "4x overload", *shown(tally), f"{peak_mib(pid):.0f}")
                print(f"<!-- refused in p99 {milliseconds(tally.refused, 0.99)} ms -->")


def shown(tally: Tally) -> list[str]:
    """Rate, latencies and counts."""
    latencies = [milliseconds(tally.accepted, share) for share in (0.5, 0.99)]
    return [f"{tally.rate:.1f}", *latencies, str(len(tally.refused)), str(tally.failed)]


def main() -> None:
    """Parse arguments, make the index, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=Settings().weights)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each line of the table")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--systems", nargs="+", choices=QUERIES, default=list(QUERIES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        encoder = open_encoder(Settings(home=home, weights=arguments.weights))
        make_home(home, encoder)
        print(f"Bare encoder: {bare(encoder, arguments.seconds):.1f} images/s ({encoder.dtype})\n")
        measure(arguments, home)


if __name__ == "__main__":
    main()
