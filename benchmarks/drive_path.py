"""How long a drive takes besides encoding: `python -m benchmarks.drive_path DRIVES --home HOME`.

DRIVES comes from `skyfix-train synth --drives`; HOME holds the town's index. All frames, one after
another and again from the first, make a drive of the wanted length. Prints the least time of all
tries and the largest resident memory.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.servers import peak_mib
from service.cli.wiring import open_localizer
from service.locate.drive import locate_drive
from service.locate.hints import UNKNOWN, Hints
from service.locate.known_panoramas import read_poses
from service.settings import Settings


def main() -> None:
    """Print the time and the memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("drives", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--heading-unknown", action="store_true")
    arguments = parser.parse_args()
    localizer = open_localizer(Settings(home=arguments.home))
    hints = Hints(heading_deg=UNKNOWN) if arguments.heading_unknown else Hints()
    index, once = localizer.live.get(), []
    for table in sorted(arguments.drives.glob("*/poses.csv")):
        for pose in read_poses(table.parent):
            query = localizer.prepare(pose.file.read_bytes(), hints, top_k=1)
            once += localizer.frames(index, [query])
    again = itertools.islice(itertools.cycle(once), arguments.frames)
    drive = [frame.only(np.full(len(frame.rows), True)) for frame in again]  # each its own memory
    times_s = []
    for _ in range(arguments.tries):
        begun = time.perf_counter()
        locate_drive(index, drive)
        times_s.append(time.perf_counter() - begun)
    print(f"{len(drive)} frames: {min(times_s):.2f} s, {peak_mib(os.getpid()):.0f} MiB at most")


if __name__ == "__main__":
    main()
