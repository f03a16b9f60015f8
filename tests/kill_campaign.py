"""SIGKILL at random moments of ingest, build, publish and prune; what must hold after each.

`python tests/kill_campaign.py --kills 200 --home FOLDER` is the soak; it continues after a stop.
tests/test_kill.py runs a few kills.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from fakes import FakeEncoder
from imagery_samples import patchwork, write_raster
from rich.console import Console
from rich.progress import track

import service.build
from model.atomic_write import write_atomically
from service.build import build
from service.index.catalogue import Catalogue
from service.index.live_index import LiveIndex
from service.index.search import TileIndex
from service.index.stored_calibration import Calibration
from service.index.versions import Versions
from service.ingest import ingest

TOWNS = ("a.tif", "b.tif")  # two states of one source
PHASES = ("ingest", "build", "publish", "prune")
LONGEST_S = 0.15  # after a phase began; a round of all takes about twice as long


def write_towns(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    image = patchwork(400, 400)
    write_raster(home / TOWNS[0], image)
    image[:150] = patchwork(150, 400, seed=7)
    write_raster(home / TOWNS[1], image)


def work(home: Path) -> None:
    """Ingest, build and prune without end; print each phase as it begins."""
    service.build.SHARD_TILES = 32
    while True:
        for town in TOWNS:
            update(home, town, say)
            say("prune")
            Versions(home).prune(keep=2)


def say(phase: str) -> None:
    print(phase, flush=True)


def update(home: Path, town: str, say: Callable[[str], None] = lambda phase: None) -> None:
    def last_step(index: TileIndex) -> Calibration:
        say("publish")  # and the verification before it
        return index.calibration

    say("ingest")
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, home / town, size_m=64.0, name="town")
    say("build")
    build(home, FakeEncoder(), batch=16, calibrate=last_step)


def kill_once(home: Path, phase: str, delay_s: float) -> str:
    """Kill a worker `delay_s` after a phase began; returns the phase that it had reached."""
    command = [sys.executable, __file__, "--work", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stderr is not None
        for line in worker.stdout:
            if line.decode().strip() == phase:
                break
        time.sleep(delay_s)
        alive = worker.poll() is None
        worker.kill()
        assert alive, worker.stderr.read().decode()
        return [phase, *worker.stdout.read().decode().split()][-1]


def check(home: Path, uninterrupted: Sequence[np.ndarray] = ()) -> None:
    """The live version is whole and answers; the catalogue holds one whole state of the town.

    If `uninterrupted` builds are given, the vectors equal those of one of them to the bit.
    """
    with Catalogue.of(home) as catalogue:
        catalogue.verify()
        sources, tiles = catalogue.sources(), list(catalogue.tiles())
        assert len(sources) <= 1
        assert bool(sources) == bool(tiles)
    versions = Versions(home)
    if (name := versions.current()) is not None:
        report = versions.verify(name)
        index = LiveIndex(home, FakeEncoder().fingerprint).get()
        assert index.version == name
        assert index.search(index.vectors[:1], 1)[1][0, 0] == 0
        assert report.tiles == len(index.tiles)
        if uninterrupted:
            assert any(np.array_equal(index.vectors, whole) for whole in uninterrupted), name


def vectors(home: Path) -> np.ndarray:
    versions = Versions(home)
    return np.array(TileIndex.open(versions.path(versions.require_current())).vectors)


def built_at_once(home: Path) -> list[np.ndarray]:
    """The vectors of each of the TOWNS, from builds without a kill and without reuse."""
    found = []
    for town in TOWNS:
        with tempfile.TemporaryDirectory(dir=home) as folder:
            fresh = Path(folder)
            write_towns(fresh)
            update(fresh, town)
            found.append(vectors(fresh))
    return found


def kill_repeatedly(home: Path, kills: int, seed: int) -> Counter[str]:
    """Continue the kills recorded in `home`; returns the number of kills by phase.

    Raises: AssertionError or SkyfixError if anything was lost.
    """
    record = home / "kills.json"
    if not record.exists():
        write_towns(home)
        record.write_text("{}")
    met = Counter(json.loads(record.read_text()))
    uninterrupted = built_at_once(home)
    for number in track(range(met.total(), kills), "killing", console=Console(stderr=True)):
        chance = random.Random(seed * 1_000_003 + number)
        delay_s = LONGEST_S * chance.random() ** 3  # publish and prune take milliseconds
        met[kill_once(home, chance.choice(PHASES), delay_s)] += 1
        check(home, uninterrupted)
        write_atomically(record, json.dumps(met).encode())
    check_end(home, uninterrupted)
    return met


def check_end(home: Path, uninterrupted: Sequence[np.ndarray]) -> None:
    """Without kills, a build equals an uninterrupted build and leaves no unfinished file."""
    for town, whole in zip(TOWNS, uninterrupted, strict=True):
        update(home, town)
        check(home, [whole])
    Versions(home).prune(keep=1)
    left = {path.name for path in (home / "index").iterdir()}
    assert left == {Versions(home).current(), "CURRENT", ".lock", ".pointer"}, sorted(left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="run as the process that is killed, in this home")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--home", type=Path, help="a folder to continue in later (default: a temporary folder)"
    )
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
    with tempfile.TemporaryDirectory() as folder:
        met = kill_repeatedly(arguments.home or Path(folder), arguments.kills, arguments.seed)
    print(f"{met.total()} kills: nothing lost; in {dict(met)}")


if __name__ == "__main__":
    main()
