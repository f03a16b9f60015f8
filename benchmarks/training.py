"""Speed of training, beside its bounds: `python -m benchmarks.training`.

"bare" is forward and backward of the same network on constant tensors, without loss, optimiser or
data. "bare, recorded" is the same on a GPU as a recording, which training plays as well; the rest
of a step's time is what training adds. The measurements alternate, round by round, so that a slow
phase of the machine slows all of them. Ratios are medians over rounds with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from model.freed_memory import keep_freed_memory
from model.geo import LatLon, earth_centred, offset
from training import recipes
from training.data.arrays import Arrays, margin_pixels
from training.data.augmentation import Batch, ImageTensors, batches
from training.data.sampling import order
from training.recipes import Recipe
from training.run.start import start
from training.run.step import autocast, step

PAIRS = 512
LOADED = 20  # batches in a measurement of loading alone: some are made ahead of the measurement

Run = Callable[[], object]


def noise_pairs(recipe: Recipe) -> Arrays:
    """Noise in the shapes that the recipe reads, 20 m apart along a meridian."""
    random = np.random.default_rng(0)
    config = recipe.encoder
    margin = margin_pixels(config, recipe.offset_m)
    side = config.preprocessing.input_size + 2 * margin
    positions = [offset(LatLon(50.0, 8.0), 0.0, 20.0 * i) for i in range(PAIRS)]
    return Arrays(
        random.integers(0, 256, (PAIRS, *config.preprocessing.strip_size, 3), np.uint8),
        np.full(PAIRS, 0.5),
        random.integers(0, 256, (PAIRS, side, side, 3), np.uint8),
        np.array([earth_centred(position) for position in positions]),
        margin,
    )


def endless(recipe: Recipe, arrays: Arrays, workers: int, device: str) -> Iterator[Batch]:
    epoch, images = 0, ImageTensors.of(arrays, device)
    while True:
        taken = order(replace(recipe, sampling="shuffle"), arrays.positions, epoch, 0)
        yield from batches(arrays, recipe, epoch, 0, taken, workers=workers, images=images)
        epoch += 1


def bare(recipe: Recipe, arrays: Arrays, device: str, *, recorded: bool = False) -> Run:
    if not recorded:
        recipe = replace(recipe, chunk_size=recipe.batch_size)  # chunks are not recorded
    network = start(recipe, arrays, 0, device).network
    side = recipe.encoder.preprocessing.input_size
    shape = (recipe.batch_size, 3, side, side)
    views, tiles = (
        torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )

    def run() -> None:
        network.zero_grad()
        with autocast(recipe, device):
            street, aerial = network(views, tiles)
        (street * aerial).sum().backward()

    return run


def training(recipe: Recipe, arrays: Arrays, device: str, workers: int) -> Run:
    recipe = replace(recipe, queue_start_epoch=0)
    state = start(recipe, arrays, 0, device)
    source = endless(recipe, arrays, workers, device)
    return lambda: step(state, next(source), recipe, device)


def loading(recipe: Recipe, arrays: Arrays, device: str, workers: int) -> Run:
    source = endless(recipe, arrays, workers, device)
    return lambda: [next(source) for _ in range(LOADED)]


def seconds(run: Run, repeats: int, device: str) -> float:
    """Mean time of a run."""
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def measure(runs: dict[str, Run], rounds: int, steps: int, device: str) -> list[dict[str, float]]:
    """Seconds of each run in each round, a batch at a time, after a round that is not counted."""
    for run in runs.values():
        run()
    return [
        {
            name: seconds(run, steps, device) / (LOADED if name == "loading" else 1)
            for name, run in runs.items()
        }
        for _ in track(range(rounds), "rounds", console=Console(file=sys.stderr))
    ]


def median_and_interval(values: list[float]) -> list[float]:
    """The median and its 95 % interval, by the binomial distribution's normal approximation, which
    needs ten values or more."""
    ordered, half = sorted(values), len(values) / 2.0
    reach = 0.98 * len(values) ** 0.5
    low, high = max(0, int(half - reach)), min(len(values) - 1, int(half + reach))
    return [round(value, 4) for value in (statistics.median(values), ordered[low], ordered[high])]


def main() -> None:
    keep_freed_memory()  # as `skyfix-train` does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="msae-demo")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=11, help="at least 10 (11)")
    parser.add_argument("--steps", type=int, default=2, help="of each kind in a round (2)")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    recipe = recipes.find(arguments.recipe, arguments.set)
    without = replace(recipe, queue_length=0)
    arrays, device, workers = noise_pairs(recipe), arguments.device, arguments.workers
    runs = {
        "bare": bare(recipe, arrays, device),
        "training": training(recipe, arrays, device, workers),
        "without GMS": training(without, arrays, device, workers),
        "loading": loading(recipe, arrays, device, workers),
    }
    if device == "cuda":
        runs["bare, recorded"] = bare(recipe, arrays, device, recorded=True)
    rounds = measure(runs, arguments.rounds, arguments.steps, device)

    def ratio(name: str, other: str) -> list[float]:
        return median_and_interval([times[name] / times[other] for times in rounds])

    report = {
        "recipe": recipe.name,
        "device": device,
        "threads": torch.get_num_threads(),
        "pairs_per_s": {
            name: recipe.batch_size / statistics.median(times[name] for times in rounds)
            for name in runs
        },
        **{f"training / {name}": ratio(name, "training") for name in runs if "bare" in name},
        "cost of GMS": [value - 1.0 for value in ratio("training", "without GMS")],
        "loading / training": ratio("training", "loading"),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
