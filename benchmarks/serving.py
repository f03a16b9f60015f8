"""Requests a second, latency and memory of Skyfix and its peers, and the encoder as the limit.

    pip install -e '.[cpu,bench]'
    python -m benchmarks.serving                                 all of it, about eight minutes
    python -m benchmarks.serving --seconds 2 --clients 8 --sizes small --systems skyfix

Same weights, same index, same machine; the load generator takes its share of it, which is shown.
`skyfix` refuses with its default settings what would wait too long, and the generator then waits
as Retry-After says; `skyfix-patient` refuses nobody, as the peers do. Overload is 4 times the best
rate of `skyfix-patient`; where that is not measured, of the bare loop, which no server reaches.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.load import Tally, closed_loop, open_loop, quantile, request_bytes
from benchmarks.region import SIZES, add_source, panorama
from benchmarks.servers import cpu_s, forget_peak, free_port, peak_mib, running
from model.encoder import Encoder
from model.malloc import keep_freed_memory
from model.panorama import PanoramaGeometry
from service.build import build
from service.cli.wiring import open_encoder
from service.settings import Settings

OURS = "/localize?heading_deg=0"
# Measured in this order: the patient's best rate is what `skyfix` is overloaded by.
QUERIES = {"skyfix-patient": OURS, "skyfix": OURS, "plain": "/localize", "litserve": "/localize"}
# As the peers do: everybody waits, however long. Up to SKYFIX_MAX_IN_FLIGHT at once.
PATIENT = {"SKYFIX_MAX_STRETCH": "1000", "SKYFIX_MAX_IN_FLIGHT": "64"}
BATCH = 8
OVERLOAD = 4.0

Rates = dict[tuple[str, str], float]  # best requests a second by system and size


@contextmanager
def start(system: str, home: Path, weights: Path) -> Iterator[tuple[int, int]]:
    """The system's server: its port and process id."""
    port = free_port()
    module = ["benchmarks.peers", system, str(port), str(home), str(weights)]
    if system.startswith("skyfix"):
        module = ["service", "serve", "--port", str(port), "--home", str(home)]
        module += ["--weights", str(weights)]
    with running(module, port, PATIENT if system == "skyfix-patient" else None) as pid:
        yield port, pid


def encoder_alone(encoder: Encoder, seconds: float) -> float:
    """Images a second of the encoder, strips already prepared."""
    shape = (*encoder.config.preprocessing.strip_size, 3)
    strips = list(np.random.default_rng(0).integers(0, 256, (BATCH, *shape), np.uint8))
    return per_second(lambda: encoder.encode_strips(strips, [0.5] * BATCH), seconds)


def bare_loop(encoder: Encoder, upload: bytes, seconds: float) -> float:
    """Images a second of the shortest program: decode as many at a time as there are threads,
    encode them, and again; no HTTP, no search."""
    geometry = PanoramaGeometry()
    with ThreadPoolExecutor(Settings().decode_threads) as decoders:

        def once() -> None:
            reading = [decoders.submit(encoder.read_street, upload, geometry) for _ in range(BATCH)]
            encoder.encode_strips([one.result() for one in reading], [0.5] * BATCH)

        return per_second(once, seconds)


def per_second(batch: Callable[[], object], seconds: float) -> float:
    """Images a second of a function that does BATCH of them."""
    batch()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        batch()
        done += BATCH
    return done / (time.perf_counter() - begun)


def row(*cells: object) -> None:
    """One line of a table, at once."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def milliseconds(values: list[float], share: float) -> str:
    """A latency for the table."""
    return f"{1000.0 * quantile(values, share):.0f}" if values else "-"


@dataclass
class Watched:
    """A load, and what it cost both sides."""

    tally: Tally
    server_cpu_s: float
    generator_cpu_s: float
    peak_mib: float

    @classmethod
    def of(cls, pid: int, load: Coroutine[None, None, Tally]) -> Watched:
        """Run the load against the server."""
        forget_peak(pid)
        server, own = cpu_s(pid), time.process_time()
        tally = asyncio.run(load)
        return cls(tally, cpu_s(pid) - server, time.process_time() - own, peak_mib(pid))

    def show(self, system: str, size: str, load: str) -> None:
        """One line of the table."""
        tally, answers = self.tally, max(1, self.tally.answers)
        latencies = [milliseconds(tally.accepted, share) for share in (0.5, 0.99)]
        refusals = f"{len(tally.refused)} in {milliseconds(tally.refused, 0.99)}"
        row(
            system, size, load, f"{tally.rate:.1f}", *latencies, refusals, tally.failed,
            f"{1000.0 * self.server_cpu_s / answers:.1f}",
            f"{self.generator_cpu_s / tally.seconds:.0%}", f"{self.peak_mib:.0f}",
        )  # fmt: skip


def measure(arguments: argparse.Namespace, home: Path, best: Rates) -> None:
    """The table of all systems, sizes and clients; their rates are added to `best`."""
    row("system", "upload", "clients", "req/s", "p50 ms", "p99 ms", "refused, p99 ms", "failed",
        "server CPU ms/answer", "generator CPU", "peak MiB")  # fmt: skip
    row(*["---"] * 11)
    for system in sorted(arguments.systems, key=list(QUERIES).index):
        for size in arguments.sizes:  # a new server each: no memory is inherited
            with start(system, home, arguments.weights) as (port, pid):
                one_server(arguments, system, size, best, port, pid)


def one_server(
    arguments: argparse.Namespace, system: str, size: str, best: Rates, port: int, pid: int
) -> None:
    """Its lines of the table; its rate is added to `best`."""
    request = request_bytes(QUERIES[system], "panorama", panorama(SIZES[size]))
    asyncio.run(closed_loop(port, request, 1, 1.0))  # warm
    best[system, size], alone = 0.0, float("nan")
    for clients in arguments.clients:
        watched = Watched.of(pid, closed_loop(port, request, clients, arguments.seconds))
        watched.show(system, size, str(clients))
        best[system, size] = max(best[system, size], watched.tally.rate)
        alone = quantile(watched.tally.accepted, 0.99) if clients == 1 else alone
    if system == "skyfix":  # the peers refuse nobody: they would only pile requests up
        saturated = "skyfix-patient" if ("skyfix-patient", size) in best else "bare loop"
        rate = OVERLOAD * best[saturated, size]
        watched = Watched.of(pid, open_loop(port, request, rate, arguments.seconds))
        watched.show(system, size, f"overload: {OVERLOAD:g}x {saturated}")
        tally = watched.tally
        answered, ratio = tally.answers / tally.seconds, quantile(tally.accepted, 0.99) / alone
        print(f"<!-- {answered:.0f} answers/s of {rate:.0f} requests/s; "
              f"p99 of the accepted / p99 of one client: {ratio:.1f} -->", flush=True)  # fmt: skip


def compare(arguments: argparse.Namespace, encoder: Encoder, best: Rates) -> None:
    """The table of ratios at each system's best number of clients."""
    alone = encoder_alone(encoder, arguments.seconds)
    print(f"\nEncoder alone, strips ready: {alone:.1f} images/s ({encoder.way})\n")
    row("system", "upload", "best req/s", "/ plain", "/ bare loop", "/ encoder alone")
    row(*["---"] * 6)
    for size in arguments.sizes:
        bare = best["bare loop", size]
        row("bare loop", size, f"{bare:.1f}", "", "", f"{bare / alone:.2f}")
        plain = best.get(("plain", size), float("nan"))
        for system in arguments.systems:
            rate = best[system, size]
            shares = [f"{rate / other:.2f}" for other in (plain, bare, alone)]
            row(system, size, f"{rate:.1f}", *shares)


def main() -> None:
    """Parse arguments, make the index, measure, print."""
    keep_freed_memory()  # as what is measured beside it does
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=Settings().weights)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line of the table")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--systems", nargs="+", choices=QUERIES, default=list(QUERIES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        encoder = open_encoder(Settings(home=home, weights=arguments.weights))
        add_source(home, encoder, "region")
        build(home, encoder)
        cores = len(os.sched_getaffinity(0))
        print(f"{cores} cores, shared by the server and the load generator\n")
        best = {
            ("bare loop", size): bare_loop(encoder, panorama(SIZES[size]), arguments.seconds)
            for size in arguments.sizes
        }
        measure(arguments, home, best)
        compare(arguments, encoder, best)


if __name__ == "__main__":
    main()
