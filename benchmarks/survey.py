"""A survey against the service, and a survey that is killed.

    python -m benchmarks.survey PANORAMAS --home HOME
    python -m benchmarks.survey PANORAMAS --home HOME --files 10000 --kills 5

PANORAMAS are linked under as many names as asked for. The first command locates them by a survey in
this process and by `skyfix serve`, in turns, and compares rates and places; the service's clients
take part of the machine. The second kills `skyfix locate` at random moments, then lets it finish.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

from benchmarks.load import Connection, request_bytes
from benchmarks.servers import HERE, PATIENT, peak_mib, serve
from benchmarks.table import heading, row
from model.freed_memory import keep_freed_memory
from model.geo import LatLon, distance_m
from service.cli.wiring import open_localizer
from service.locate.hints import Hints
from service.settings import Settings
from service.survey.images import SUFFIXES, SurveyImage, find_images
from service.survey.journal import Journal, journal_path
from service.survey.outcome import Outcome
from service.survey.run import survey

CLIENTS = 32
WARM_UP = 64  # files
EARLY = 2000  # files of a run, after which its memory should not grow
KILLED_WITHIN_S = 30.0  # of a run's first file


def link(panoramas: Path, into: Path, count: int) -> None:
    """`count` files in a new folder, linked to the panoramas in turns."""
    into.mkdir()
    sources = sorted(path for path in panoramas.iterdir() if path.suffix.lower() in SUFFIXES)
    for number, source in zip(range(count), itertools.cycle(sources), strict=False):
        os.link(source, into / f"{number:06d}{source.suffix}")


async def by_service(port: int, images: Sequence[SurveyImage]) -> list[bytes]:
    """The answers to CLIENTS that send file after file."""
    answers: dict[SurveyImage, bytes] = {}
    rest = iter(images)

    async def client() -> None:
        connection = Connection(port)
        for image in rest:
            request = request_bytes("/localize?top_k=1", "panorama", image.path.read_bytes())
            answer = await connection.post(request)
            assert answer.status == 200, (image.file, answer)
            answers[image] = answer.body
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return [answers[image] for image in images]


def compare(rows: Sequence[Outcome], answers: Sequence[bytes]) -> str:
    """How far rows and answers agree."""
    tiles, away_m = 0, []
    for found, fix in zip(rows, map(json.loads, answers), strict=True):
        assert found.latitude is not None, found
        assert found.longitude is not None, found
        position = LatLon(fix["position"]["latitude"], fix["position"]["longitude"])
        away_m.append(distance_m(LatLon(found.latitude, found.longitude), position))
        tiles += fix["matches"][0]["tile_id"] == found.tile_id
    near = sum(metres <= 0.5 for metres in away_m)
    return f"of {len(rows)} files {tiles} have the same best tile, and {near} lie within 0.5 m"


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """The table of rates, and the comparison of the last round."""
    settings = Settings(home=arguments.home, weights=arguments.weights)
    localizer, images = open_localizer(settings), find_images([folder / "files"], Hints())
    threads, batch, ratios = settings.decode_threads, settings.max_batch, []
    heading("round", "survey, files/s", "service, files/s", "ratio")
    with serve(arguments.home, arguments.weights, PATIENT) as (port, _):
        for number in range(arguments.rounds + 1):
            some = images if number else images[:WARM_UP]
            begun = time.perf_counter()
            with Journal.of(folder / "places.csv", "benchmark") as journal:
                found = survey(localizer, some, journal, decode_threads=threads, max_batch=batch)
                rows = list(found)
            between = time.perf_counter()
            answers = asyncio.run(by_service(port, some))
            rates = len(some) / (between - begun), len(some) / (time.perf_counter() - between)
            ratios.append(rates[0] / rates[1])
            row(number or "warm-up", *(f"{rate:.1f}" for rate in rates), f"{ratios[-1]:.3f}")
    print(f"\nmedian ratio {median(ratios[1:]):.3f}; {compare(rows, answers)}")


def kill(arguments: argparse.Namespace, folder: Path) -> None:
    """Kill the survey, finish it, and check its table."""
    files, out, chance = folder / "files", folder / "places.csv", random.Random(0)
    command = HERE.command("service", "locate", str(files), "--out", str(out))
    command += ["--home", str(arguments.home), "--weights", str(arguments.weights)]
    for _ in range(arguments.kills):
        run(command, out, chance.uniform(0.0, KILLED_WITHIN_S))
    assert run(command, out, float("inf")) == 0
    with out.open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["file"] for row in rows] == sorted(map(str, files.iterdir()))
    assert all(row["latitude"] for row in rows)
    print(f"killed {arguments.kills} times; each of {len(rows)} files stands once in the table")


def run(command: Sequence[str], out: Path, seconds: float) -> int:
    """Kill the survey so long after its first file, and print what was seen of it.

    Returns its exit code.
    """
    before = now = located(out)
    early, peak, begun = 0.0, 0.0, float("inf")
    with subprocess.Popen(command, cwd=HERE.folder) as process:
        while process.poll() is None and time.monotonic() - begun < seconds:
            with suppress(OSError, IndexError):  # the process has just ended
                peak = peak_mib(process.pid)
            now = max(now, located(out))
            early = early or (peak if now - before >= EARLY else 0.0)
            begun = min(begun, time.monotonic()) if now > before else begun
            time.sleep(0.1)
        process.kill()
    noted = f", {early:.0f} MiB after {EARLY}" if early else ""
    print(f"files {before} to {now}: peak {peak:.0f} MiB{noted}", flush=True)
    return process.returncode


def located(out: Path) -> int:
    """How many files the journal holds."""
    path = journal_path(out)
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    """Link the files and run one of both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("panoramas", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Settings().weights)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0, help="kill a survey, and measure no rates")
    arguments = parser.parse_args()
    arguments.home, arguments.weights = arguments.home.resolve(), arguments.weights.resolve()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(dir=arguments.panoramas.resolve().parent) as folder:
        link(arguments.panoramas, Path(folder, "files"), arguments.files)
        (kill if arguments.kills else measure)(arguments, Path(folder))


if __name__ == "__main__":
    main()
