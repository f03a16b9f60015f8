"""Compare the rates of two checkouts in turns: `python -m benchmarks.serving --against FOLDER`.

Each checkout ingests, builds and serves with its own code, so the files of both may differ. Both
servers run all the time, and one is loaded at a time. The order alternates between rounds, and
ratios are taken within a round: a machine whose speed drifts favours neither checkout.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.load import Tally, closed_loop, quantile, request_bytes
from benchmarks.region import SIZES, panorama, write_raster
from benchmarks.servers import HERE, PATIENT, Checkout, serve
from benchmarks.table import heading, row

PATH = "/localize?heading_deg=0"
SIDE = 600  # of the raster, in pixels: a small region, which a busy machine builds soon


def compare(
    against: Path,
    folder: Path,
    weights: Path,
    sizes: Sequence[str],
    clients: Sequence[int],
    seconds: float,
    rounds: int,
) -> None:
    """Print rates of this checkout and of the one at `against`, and the ratio this / other.

    Args:
        folder: an empty folder, where each checkout gets its home.
        seconds: of one load. Loads: sizes x clients x rounds x 2.
    """
    other = Checkout(against, against / ".venv" / "bin" / "python")
    raster = write_raster(folder / "region.tif", side=SIDE)
    with ExitStack() as stack:
        ports = []
        for number, checkout in enumerate((HERE, other)):
            home = _built(checkout, folder / str(number), raster, weights)
            ports.append(stack.enter_context(serve(home, weights, PATIENT, checkout))[0])
        heading("upload", "clients", "this, req/s", "other, req/s", "this / other",
                "p50 this / other", "failed")  # fmt: skip
        for size in sizes:
            request = request_bytes(PATH, "panorama", panorama(SIZES[size]))
            for port in ports:
                asyncio.run(closed_loop(port, request, 4, 1.0))  # warm
            for count in clients:
                pairs = [_round(ports, number, request, count, seconds) for number in range(rounds)]
                _show(size, count, pairs)


def _built(checkout: Checkout, home: Path, raster: Path, weights: Path) -> Path:
    home.mkdir()
    options = ["--home", str(home), "--weights", str(weights)]
    for module in (["ingest", str(raster), "--name", "region"], ["build"]):
        command = checkout.command("service", *module, *options)
        print(f"<!-- {checkout.folder.name}: {module[0]} -->", flush=True)
        done = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stderr}")
    return home


def _round(
    ports: Sequence[int], number: int, request: bytes, clients: int, seconds: float
) -> list[Tally]:
    """One load on each server. Every other round begins with the other checkout."""
    order = (0, 1) if number % 2 == 0 else (1, 0)
    tallies = {
        place: asyncio.run(closed_loop(ports[place], request, clients, seconds)) for place in order
    }
    return [tallies[0], tallies[1]]


def _show(size: str, clients: int, pairs: Sequence[Sequence[Tally]]) -> None:
    this, other = ([pair[place].rate for pair in pairs] for place in (0, 1))
    latency = [quantile(a.accepted, 0.5) / quantile(b.accepted, 0.5) for a, b in pairs]
    failed = sum(tally.failed + len(tally.refused) for pair in pairs for tally in pair)
    row(size, clients, _spread(this, 1), _spread(other, 1),
        _spread([a / b for a, b in zip(this, other, strict=True)], 3),
        _spread(latency, 3), failed)  # fmt: skip


def _spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
