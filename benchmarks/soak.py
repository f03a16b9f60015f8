"""A real server under steady load, while its index versions change and bad input is mixed in.

    python -m benchmarks.soak                    15 minutes, 12 requests a second: 10,800 requests
    python -m benchmarks.soak --minutes 0.2 --json soak.json --plot soak.png

Exits with 1 when
- an answer is missing, has a status that its request does not deserve, or names tiles that are not
  of the version it states;
- more than MOST_REFUSED are refused for overload, which is the only 503 allowed;
- memory grows by more than MOST_GROWTH_MIB after the warm-up;
- a version never answered, or fewer panoramas were located or versions swapped than asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.load import Answer, Connection, open_loop, quantile, request_bytes
from benchmarks.region import SIZES, add_source, panorama
from benchmarks.servers import resident_mib, serve
from service.build import build
from service.cli.progress import progress_bar
from service.cli.wiring import open_encoder
from service.index.catalogue import Catalogue
from service.index.search import read_version
from service.index.versions import Versions
from service.settings import Settings

PATH = "/localize?heading_deg=0&top_k=5"
MOST_REFUSED = 0.05  # of all answers, as for the alert SkyfixOverloaded
MOST_GROWTH_MIB = 64.0  # 15 minutes took 11


class Kind(NamedTuple):
    """A request, its share of all requests, and its right statuses unless it is refused."""

    share: float
    request: bytes
    right: tuple[int, ...]


def kinds() -> dict[str, Kind]:
    """Nine of ten requests are good."""
    small = panorama(SIZES["small"])

    def post(body: bytes, path: str = PATH, field: str = "panorama") -> bytes:
        return request_bytes(path, field, body)

    return {
        "small": Kind(0.84, post(small), (200,)),
        "medium": Kind(0.05, post(panorama(SIZES["medium"])), (200,)),
        "no heading": Kind(0.01, post(small, "/localize?top_k=5"), (200,)),
        "truncated": Kind(0.02, post(small[: len(small) // 2]), (400, 415, 422)),
        "text": Kind(0.02, post(b"not an image" * 50), (400, 415, 422)),
        "empty": Kind(0.02, post(b""), (400, 415, 422)),
        "wrong field": Kind(0.02, post(small, field="photo"), (400, 422)),
        "wrong query": Kind(0.02, post(small, "/localize?top_k=0"), (422,)),
    }


@dataclass
class Sample:
    """A span of time. Latencies are of located panoramas."""

    at_s: float
    resident_mib: float
    answers: int
    refused: int
    p50_ms: float | None
    p99_ms: float | None


def is_refusal(answer: Answer) -> bool:
    """Whether the answer is a 503 for overload; any other 503 is a failure."""
    return answer.status == 503 and b'"urn:skyfix:problem:overloaded"' in answer.body


class Soak:
    """Counts, samples and failures. `versions`: the ids of each version's tiles."""

    def __init__(self, versions: dict[str, set[str]]) -> None:
        self.versions = versions
        self.statuses: Counter[str] = Counter()
        self.located = 0  # 200
        self.refused = 0
        self.by_version: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.samples: list[Sample] = []
        self.swaps = 0
        self._span: list[Answer] = []

    def check(self, name: str, kind: Kind, answer: Answer) -> None:
        """Count an answer."""
        self._span.append(answer)
        self.statuses[f"{name}: {answer.status}"] += 1
        if is_refusal(answer):
            self.refused += 1
        elif answer.status not in kind.right:
            self.wrong.append(f"{name}: {answer.status} {answer.body[:200].decode('latin-1')}")
        elif answer.status == 200:
            self.check_fix(name, json.loads(answer.body))

    def check_fix(self, name: str, fix: dict[str, Any]) -> None:
        """Count a located panorama; its tiles must be of the version it states."""
        self.located += 1
        version = fix["index_version"]
        self.by_version[version] += 1
        foreign = {match["tile_id"] for match in fix["matches"]} - self.versions.get(version, set())
        if foreign or not fix["matches"]:
            self.wrong.append(f"{name}: {version} answered with tiles {foreign or 'none'}")

    def sample(self, at_s: float, pid: int) -> None:
        """End a span of time."""
        span, self._span = self._span, []
        good = [1000.0 * answer.seconds for answer in span if answer.status == 200]
        p50, p99 = ((quantile(good, q) if good else None) for q in (0.5, 0.99))
        refused = sum(map(is_refusal, span))
        self.samples.append(Sample(at_s, resident_mib(pid), len(span), refused, p50, p99))

    @property
    def answers(self) -> int:
        """The number of answers of all kinds and statuses."""
        return sum(self.statuses.values())

    @property
    def growth_mib(self) -> float:
        """Growth of resident memory from the end of the warm-up, a quarter of the time, to the end;
        both are medians of a tenth of the time."""
        resident = [sample.resident_mib for sample in self.samples]
        tenth, warm = math.ceil(len(resident) / 10), len(resident) // 4
        return median(resident[-tenth:]) - median(resident[warm : warm + tenth])


async def load(
    soak: Soak, arguments: argparse.Namespace, port: int, progress: Callable[[int, int], None]
) -> None:
    """Random requests at a steady rate, whether or not earlier requests are answered."""
    chosen, draw = kinds(), random.Random(0)
    shares = [kind.share for kind in chosen.values()]
    seconds = 60.0 * arguments.minutes

    async def send(connection: Connection) -> None:
        (name,) = draw.choices(list(chosen), shares)
        try:
            soak.check(name, chosen[name], await connection.post(chosen[name].request))
        except Exception as error:
            soak.wrong.append(repr(error))

    def on_tick(now: float) -> None:
        progress(int(now), int(seconds))

    await open_loop(port, send, arguments.rate, seconds, on_tick)


async def swap(soak: Soak, versions: Versions, every_s: float) -> None:
    """Activate the versions in turns."""
    while True:
        for name in soak.versions:
            versions.activate(name)
            soak.swaps += 1
            await asyncio.sleep(every_s)


async def watch(soak: Soak, pid: int, every_s: float) -> None:
    """Take a sample at the end of every span."""
    begun = time.perf_counter()
    while True:
        await asyncio.sleep(every_s)
        soak.sample(time.perf_counter() - begun, pid)


async def run(soak: Soak, arguments: argparse.Namespace, home: Path, port: int, pid: int) -> None:
    """Load, swaps and samples together, until the load ends."""
    every_s = min(10.0, 6.0 * arguments.minutes)
    beside = [
        asyncio.create_task(swap(soak, Versions(home), arguments.swap_every_s)),
        asyncio.create_task(watch(soak, pid, every_s)),
    ]
    with progress_bar("soak, seconds") as report_progress:
        await load(soak, arguments, port, report_progress)
    for task in beside:
        if task.done():
            task.result()  # raises the error that ended the task
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)


def make_versions(home: Path, settings: Settings) -> dict[str, set[str]]:
    """Build two versions without a tile in common, so that any mix shows. Returns the ids of each
    version's tiles."""
    encoder = open_encoder(settings)
    found = {}
    for seed, name in enumerate(("north", "south")):
        add_source(home, encoder, name, seed, side=400)
        version = build(home, encoder).name
        _, tiles, _ = read_version(Versions(home).path(version))
        found[version] = {tiles[row].tile_id for row in range(len(tiles))}
        with Catalogue.of(home) as catalogue:  # the next version gets other tiles
            catalogue.remove_source(name)
    assert set.isdisjoint(*found.values())
    return found


def plot(path: Path, samples: list[Sample]) -> None:
    """Memory, latency and refusals over time."""
    from matplotlib.figure import Figure  # the extra `figures`

    figure = Figure(figsize=(8.0, 7.0), layout="constrained")
    memory, latency, refused = figure.subplots(3, 1, sharex=True)
    minutes = [sample.at_s / 60.0 for sample in samples]
    resident = [sample.resident_mib for sample in samples]
    memory.plot(minutes, resident)
    memory.set(ylabel="resident MiB", ylim=(0, 1.2 * max(resident)))
    for label in ("p50_ms", "p99_ms"):
        values = [getattr(sample, label) for sample in samples]
        latency.plot(minutes, [float("nan") if v is None else v for v in values], label=label)
    latency.set(ylabel="latency, ms", yscale="log")
    latency.legend()
    refused.plot(minutes, [sample.refused for sample in samples])
    refused.set(ylabel="refused (503)", xlabel="minutes", ylim=(0, None))
    figure.savefig(path, dpi=110)


def shortcomings(soak: Soak, arguments: argparse.Namespace) -> list[str]:
    """Failures of the soak as a whole."""
    found = [f"version {name} never answered" for name in soak.versions.keys() - soak.by_version]
    for name, got, wanted in (
        ("panoramas located", soak.located, arguments.requests),
        ("swaps", soak.swaps, arguments.swaps),
    ):
        if got < wanted:
            found.append(f"{got} {name}, fewer than {wanted}")
    if soak.refused > MOST_REFUSED * soak.answers:
        found.append(f"{soak.refused} of {soak.answers} refused, more than {MOST_REFUSED:.0%}")
    if soak.growth_mib > MOST_GROWTH_MIB:
        found.append(f"memory grew by {soak.growth_mib:.1f} MiB, more than {MOST_GROWTH_MIB:g}")
    return found


def report(soak: Soak, arguments: argparse.Namespace) -> dict[str, Any]:
    """The content of the JSON file; `wrong` is empty when all is well."""
    return {
        "answers": soak.answers,
        "located": soak.located,
        "refused": soak.refused,
        "swaps": soak.swaps,
        "growth_mib": round(soak.growth_mib, 1),
        "statuses": dict(sorted(soak.statuses.items())),
        "versions": dict(soak.by_version),
        "wrong": [*shortcomings(soak, arguments), *soak.wrong[:50]],
        "samples": [asdict(sample) for sample in soak.samples],
    }


def main() -> int:
    """Make two versions, soak the server, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=Settings().weights)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--rate", type=float, default=12.0, help="requests a second")
    parser.add_argument("--swap-every-s", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=0, help="fail with fewer located")
    parser.add_argument("--swaps", type=int, default=0, help="fail with fewer swaps")
    parser.add_argument("--json", type=Path, default=Path("soak.json"))
    parser.add_argument("--plot", type=Path, help="a PNG; needs the extra `figures`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = Settings(home=home, weights=arguments.weights)
        soak = Soak(make_versions(home, settings))
        with serve(home, arguments.weights.resolve()) as (port, pid):
            asyncio.run(run(soak, arguments, home, port, pid))
    summary = report(soak, arguments)
    arguments.json.write_text(json.dumps(summary, indent=1))
    if arguments.plot:
        plot(arguments.plot, soak.samples)
    del summary["samples"]
    print(json.dumps(summary, indent=1))
    for line in summary["wrong"]:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if summary["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
