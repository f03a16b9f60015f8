"""Compare the rates of two checkouts in turns: `python -m benchmarks.serving --against FOLDER`.

Each checkout ingests, builds and serves with its own code, so the files of both may differ. Both
servers run all the time, and one is loaded at a time. The order alternates between rounds, and
ratios are taken within a round: a machine whose speed drifts favours neither checkout. Beside other
work, the processor time an answer is steadier than the rate.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.load import Tally, closed_loop, quantile, request_bytes
from benchmarks.region import SIZES, panorama, write_raster
from benchmarks.servers import HERE, PATIENT, Checkout, cpu_s, serve
from benchmarks.table import heading, row

Server = tuple[int, int]  # port and process id

PATH = "/localize?heading_deg=0"
SIDE = 600  # pixels of the raster: a small region, so that a busy machine builds it soon


class Load(NamedTuple):
    """A load on one server, and the processor time that the server spent for an answer."""

    tally: Tally
    cpu_s: float


def compare(
    against: Path,
    folder: Path,
    weights: Path,
    sizes: Sequence[str],
    clients: Sequence[int],
    seconds: float,
    rounds: int,
) -> None:
    """Print rates of this checkout and of the checkout at `against`, and the ratio this / other.

    Args:
        folder: an empty folder, where each checkout gets its home.
        seconds: of one load. Loads: sizes x clients x rounds x 2.
    """
    other = Checkout(against, against / ".venv" / "bin" / "python")
    raster = write_raster(folder / "region.tif", side=SIDE)
    with ExitStack() as stack:
        servers: list[Server] = []
        for number, checkout in enumerate((HERE, other)):
            home = _built(checkout, folder / str(number), raster, weights)
            servers.append(stack.enter_context(serve(home, weights, PATIENT, checkout)))
        heading("upload", "clients", "this, req/s", "other, req/s", "this / other",
                "p50 this / other", "CPU/answer this / other", "failed")  # fmt: skip
        for size in sizes:
            request = request_bytes(PATH, "panorama", panorama(SIZES[size]))
            for port, _ in servers:
                asyncio.run(closed_loop(port, request, 4, 1.0))  # warm
            for count in clients:
                pairs = [
                    _round(servers, number, request, count, seconds) for number in range(rounds)
                ]
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
    servers: Sequence[Server], number: int, request: bytes, clients: int, seconds: float
) -> list[Load]:
    """One load on each server. Every other round begins with the other checkout."""
    order = (0, 1) if number % 2 == 0 else (1, 0)
    loads = {}
    for place in order:
        port, pid = servers[place]
        before = cpu_s(pid)
        tally = asyncio.run(closed_loop(port, request, clients, seconds))
        loads[place] = Load(tally, (cpu_s(pid) - before) / max(1, tally.answers))
    return [loads[0], loads[1]]


def _show(size: str, clients: int, pairs: Sequence[Sequence[Load]]) -> None:
    this, other = ([pair[place].tally.rate for pair in pairs] for place in (0, 1))
    p50 = [quantile(a.tally.accepted, 0.5) / quantile(b.tally.accepted, 0.5) for a, b in pairs]
    cpu = [a.cpu_s / b.cpu_s for a, b in pairs]
    failed = sum(load.tally.answers - len(load.tally.accepted) for pair in pairs for load in pair)
    row(size, clients, _spread(this, 1), _spread(other, 1),
        _spread([a / b for a, b in zip(this, other, strict=True)], 3),
        _spread(p50, 3), _spread(cpu, 3), failed)  # fmt: skip


def _spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
