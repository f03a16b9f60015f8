"""Requests a second, latency and memory of Skyfix and its peers, and the encoder as the limit.

    pip install -e '.[cpu,bench]'
    python -m benchmarks.serving                            the table: about eight minutes
    python -m benchmarks.serving --against ../before        two checkouts: about six minutes
    python -m benchmarks.serving --seconds 2 --clients 8 --sizes small --systems skyfix

All systems have the same weights, index and machine. The load generator takes part of the machine,
which the table shows. `skyfix` refuses, with its default settings, requests that would wait too
long; the generator then waits as Retry-After says. `skyfix-patient` and the peers refuse nobody.
Overload is 4 times the best rate of `skyfix-patient`, or of the bare loop where that is not
measured. `--against` needs a checkout with its own `.venv`; see benchmarks.checkouts.
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
from pathlib import Path

import numpy as np

from benchmarks import checkouts
from benchmarks.load import Connection, Tally, closed_loop, open_loop, quantile, request_bytes
from benchmarks.region import SIZES, add_source, panorama
from benchmarks.servers import PATIENT, cpu_s, forget_peak, free_port, peak_mib, running, serve
from benchmarks.table import heading, row
from model.encoder import Encoder
from model.freed_memory import keep_freed_memory
from model.images import Rgb, open_image
from model.panorama import Panorama
from service.build import build
from service.cli.wiring import open_encoder
from service.settings import Settings

# Measured in this order: `skyfix` is overloaded by the best rate of `skyfix-patient`.
SYSTEMS = ("skyfix-patient", "skyfix", "plain", "litserve")
BATCH = 8
OVERLOAD = 4.0

Rates = dict[tuple[str, str], float]  # best requests a second by system and size


@contextmanager
def start(system: str, home: Path, weights: Path) -> Iterator[tuple[int, int]]:
    """The system's server. Yields port and process id."""
    if system.startswith("skyfix"):
        with serve(home, weights, PATIENT if system == "skyfix-patient" else None) as server:
            yield server
        return
    port = free_port()
    with running(["benchmarks.peers", system, str(port), str(home), str(weights)], port) as pid:
        yield port, pid


def encoder_alone(encoder: Encoder, seconds: float) -> float:
    """Images a second of the encoder, with strips prepared before."""
    shape = (*encoder.config.preprocessing.strip_size, 3)
    strips = list(np.random.default_rng(0).integers(0, 256, (BATCH, *shape), np.uint8))
    return per_second(lambda: encoder.encode_strips(strips, [0.5] * BATCH), seconds)


def bare_loop(encoder: Encoder, upload: bytes, seconds: float) -> float:
    """Images a second of the shortest program: decode a batch in threads, encode the batch, again.
    No HTTP, no search."""

    def read(upload: bytes) -> Rgb:
        return encoder.read_street(Panorama(open_image(upload)))

    with ThreadPoolExecutor(Settings().decode_threads) as decoders:

        def batch() -> None:
            reading = [decoders.submit(read, upload) for _ in range(BATCH)]
            encoder.encode_strips([strip.result() for strip in reading], [0.5] * BATCH)

        return per_second(batch, seconds)


def per_second(batch: Callable[[], object], seconds: float) -> float:
    """Images a second of a function that processes BATCH images."""
    batch()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        batch()
        done += BATCH
    return done / (time.perf_counter() - begun)


async def overload(port: int, request: bytes, rate: float, seconds: float) -> Tally:
    """`rate` requests a second, whether or not they are answered."""
    tally = Tally()

    async def send(connection: Connection) -> None:
        tally.add(await connection.post(request))

    tally.seconds = await open_loop(port, send, rate, seconds)
    return tally


def milliseconds(values: list[float], share: float) -> str:
    """A quantile of latencies for the table."""
    return f"{1000.0 * quantile(values, share):.0f}" if values else "-"


def watch(pid: int, load: Coroutine[None, None, Tally], system: str, size: str, name: str) -> Tally:
    """Run the load against the server, and print its line of the table."""
    forget_peak(pid)
    server, own = cpu_s(pid), time.process_time()
    tally = asyncio.run(load)
    server, own = cpu_s(pid) - server, time.process_time() - own
    latencies = [milliseconds(tally.accepted, share) for share in (0.5, 0.99)]
    refusals = f"{len(tally.refused)} in {milliseconds(tally.refused, 0.99)}"
    row(
        system, size, name, f"{tally.rate:.1f}", *latencies, refusals, tally.failed,
        f"{1000.0 * server / max(1, tally.answers):.1f}",
        f"{own / tally.seconds:.0%}", f"{peak_mib(pid):.0f}",
    )  # fmt: skip
    return tally


def measure(arguments: argparse.Namespace, home: Path, best: Rates) -> None:
    """The table of all systems, sizes and clients. Adds the systems' rates to `best`."""
    heading("system", "upload", "clients", "req/s", "p50 ms", "p99 ms", "refused, p99 ms", "failed",
            "server CPU ms/answer", "generator CPU", "peak MiB")  # fmt: skip
    for system in sorted(arguments.systems, key=SYSTEMS.index):
        for size in arguments.sizes:  # a new server each: no memory is inherited
            with start(system, home, arguments.weights) as (port, pid):
                measure_server(arguments, system, size, best, port, pid)


def measure_server(
    arguments: argparse.Namespace, system: str, size: str, best: Rates, port: int, pid: int
) -> None:
    """The table's lines of one server. Adds its rate to `best`."""
    path = checkouts.PATH if system.startswith("skyfix") else "/localize"
    request = request_bytes(path, "panorama", panorama(SIZES[size]))
    asyncio.run(closed_loop(port, request, 1, 1.0))  # warm
    best[system, size], alone = 0.0, float("nan")
    for clients in arguments.clients:
        load = closed_loop(port, request, clients, arguments.seconds)
        tally = watch(pid, load, system, size, str(clients))
        best[system, size] = max(best[system, size], tally.rate)
        alone = quantile(tally.accepted, 0.99) if clients == 1 else alone
    if system == "skyfix":  # the peers refuse nobody: requests would only pile up
        saturated = "skyfix-patient" if ("skyfix-patient", size) in best else "bare loop"
        rate = OVERLOAD * best[saturated, size]
        load = overload(port, request, rate, arguments.seconds)
        tally = watch(pid, load, system, size, f"overload: {OVERLOAD:g}x {saturated}")
        answered, ratio = tally.answers / tally.seconds, quantile(tally.accepted, 0.99) / alone
        print(f"<!-- {answered:.0f} answers/s of {rate:.0f} requests/s; "
              f"p99 of the accepted / p99 of one client: {ratio:.1f} -->", flush=True)  # fmt: skip


def show_ratios(arguments: argparse.Namespace, encoder: Encoder, best: Rates) -> None:
    """The table of ratios at each system's best number of clients."""
    alone = encoder_alone(encoder, arguments.seconds)
    print(f"\nEncoder alone, strips ready: {alone:.1f} images/s ({encoder.backend})\n")
    heading("system", "upload", "best req/s", "/ plain", "/ bare loop", "/ encoder alone")
    for size in arguments.sizes:
        bare = best["bare loop", size]
        row("bare loop", size, f"{bare:.1f}", "", "", f"{bare / alone:.2f}")
        plain = best.get(("plain", size), float("nan"))
        for system in arguments.systems:
            rate = best[system, size]
            row(system, size, f"{rate:.1f}", *(f"{rate / k:.2f}" for k in (plain, bare, alone)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=Settings().weights)
    parser.add_argument("--seconds", type=float, help="of each load (table: 6, turns: 2.5)")
    parser.add_argument("--clients", type=int, nargs="+", help="(table: 1 8 32, turns: 1 32)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="compare with the checkout in this folder"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of turns, with --against")
    return parser.parse_args()


def main() -> None:
    """Make the index, measure, print."""
    keep_freed_memory()  # as the servers do
    arguments = parse()
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, shared by the server and the load generator\n")
    with tempfile.TemporaryDirectory() as folder:
        home, weights = Path(folder), arguments.weights.resolve()
        if arguments.against:
            checkouts.compare(
                arguments.against.resolve(), home, weights, arguments.sizes,
                arguments.clients or [1, 32], arguments.seconds or 2.5, arguments.rounds,
            )  # fmt: skip
            return
        arguments.clients = arguments.clients or [1, 8, 32]
        arguments.seconds = arguments.seconds or 6.0
        encoder = open_encoder(Settings(home=home, weights=weights))
        add_source(home, encoder, "region")
        build(home, encoder)
        best = {
            ("bare loop", size): bare_loop(encoder, panorama(SIZES[size]), arguments.seconds)
            for size in arguments.sizes
        }
        measure(arguments, home, best)
        show_ratios(arguments, encoder, best)


if __name__ == "__main__":
    main()
