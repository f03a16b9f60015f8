"""SIGKILL at random moments of ingest, build, publish and prune; what must hold after each.

`python tests/kills.py --kills 200` is the soak; tests/test_kill.py runs a few.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fakes import FakeEncoder
from imagery_samples import patchwork, write_raster

import service.build
from service.build import build
from service.index.catalogue import Catalogue
from service.index.live import LiveIndex
from service.index.search import TileIndex
from service.index.versions import Versions
from service.ingest import ingest

TOWNS = ("a.tif", "b.tif")  # two states of one source
LONGEST_S = 0.6  # a round of the worker takes about half of it


def write_towns(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    image = patchwork(400, 400)
    write_raster(home / TOWNS[0], image)
    image[:150] = patchwork(150, 400, seed=7)
    write_raster(home / TOWNS[1], image)


def work(home: Path) -> None:
    """Ingests, builds and prunes without end; says so on standard output when it begins."""
    service.build.SHARD_TILES = 32
    print("ready", flush=True)
    while True:
        for town in TOWNS:
            update(home, town)
            Versions(home).prune(keep=2)


def update(home: Path, town: str) -> None:
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, home / town, size_m=64.0, name="town")
    build(home, FakeEncoder(), batch=16)


def kill_once(home: Path, delay_s: float) -> None:
    command = [sys.executable, __file__, "--work", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stderr is not None
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(delay_s)
        alive = worker.poll() is None
        worker.kill()
        assert alive, worker.stderr.read().decode()


def check(home: Path) -> None:
    """The live version is whole and answers; the catalogue holds one whole state of the town."""
    with Catalogue.of(home) as catalogue:
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


def vectors(home: Path) -> np.ndarray:
    versions = Versions(home)
    return np.array(TileIndex.open(versions.path(versions.require_current())).vectors)


def kill_repeatedly(home: Path, kills: int, seed: int) -> None:
    """Raises AssertionError or SkyfixError where anything was lost."""
    write_towns(home)
    delays = random.Random(seed)
    for _ in range(kills):
        kill_once(home, delays.uniform(0.0, LONGEST_S))
        check(home)
    update(home, TOWNS[0])
    fresh = home / "fresh"
    write_towns(fresh)
    update(fresh, TOWNS[0])
    assert np.array_equal(vectors(home), vectors(fresh))
    Versions(home).prune(keep=1)
    left = {path.name for path in (home / "index").iterdir()}
    assert left == {Versions(home).current(), "CURRENT", ".lock", ".pointer"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="run as the process that is killed, in this home")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
    with tempfile.TemporaryDirectory() as home:
        kill_repeatedly(Path(home), arguments.kills, arguments.seed)
    print(f"{arguments.kills} kills: nothing lost")


if __name__ == "__main__":
    main()
