"""Speed of training, each figure beside what bounds it: `python -m benchmarks.training`.

bare: forward and backward of the same network on tensors that never change, without loss,
optimiser or data. bare, recorded: the same on a GPU as a recording, which training plays, too: what
remains beside it is all that training adds. The measurements take turns, round by round, so that a
machine that slows down slows all of them; ratios are medians over the rounds, and what they lie
between at 95 %.
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
from training.data.augmentation import Batch, Pictures, batches
from training.data.pairs import Arrays, margin_pixels
from training.recipes import Recipe
from training.run.loop import start
from training.run.sampling import order
from training.run.step import autocast, step

PAIRS = 512
LOADED = 20  # batches at a time where only loading is timed: some are made ahead while others run


def made_up(recipe: Recipe) -> Arrays:
    """Noise in the shapes that the recipe reads, 20 m apart along a meridian."""
    random = np.random.default_rng(0)
    config = recipe.encoder
    margin = margin_pixels(config, recipe.offset_m)
    side = config.preprocessing.input_size + 2 * margin
    places = [offset(LatLon(50.0, 8.0), 0.0, 20.0 * i) for i in range(PAIRS)]
    return Arrays(
        random.integers(0, 256, (PAIRS, *config.preprocessing.strip_size, 3), np.uint8),
        np.full(PAIRS, 0.5),
        random.integers(0, 256, (PAIRS, side, side, 3), np.uint8),
        np.array([earth_centred(one) for one in places]),
        margin,
    )


def endless(recipe: Recipe, arrays: Arrays, workers: int, device: str) -> Iterator[Batch]:
    epoch, pictures = 0, Pictures.of(arrays, device)
    while True:
        taken = order(replace(recipe, sampling="shuffle"), arrays.positions, epoch, 0)
        yield from batches(arrays, recipe, epoch, 0, taken, workers=workers, pictures=pictures)
        epoch += 1


def bare(
    recipe: Recipe, arrays: Arrays, device: str, *, recorded: bool = False
) -> Callable[[], None]:
    if not recorded:
        recipe = replace(recipe, chunk_size=recipe.batch_size)  # of which nothing is recorded
    network = start(recipe, arrays, 0, device).network
    side = recipe.encoder.preprocessing.input_size
    shape = (recipe.batch_size, 3, side, side)
    views, tiles = (
        torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )

    def once() -> None:
        network.zero_grad()
        with autocast(recipe, device):
            street, aerial = network(views, tiles)
        (street * aerial).sum().backward()

    return once


def training(recipe: Recipe, arrays: Arrays, device: str, workers: int) -> Callable[[], None]:
    recipe = replace(recipe, queue_start_epoch=0)
    state = start(recipe, arrays, 0, device)
    source = endless(recipe, arrays, workers, device)

    def once() -> None:
        step(state, next(source), recipe, device)

    return once


def loading(recipe: Recipe, arrays: Arrays, workers: int, device: str) -> Callable[[], None]:
    source = endless(recipe, arrays, workers, device)

    def once() -> None:
        for _ in range(LOADED):
            next(source)

    return once


def seconds(once: Callable[[], None], repeats: int, device: str) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        once()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def between(values: list[float]) -> list[float]:
    """Their median, and what it lies between at 95 %, by the binomial distribution's normal
    approximation: for ten values or more."""
    ordered, half = sorted(values), len(values) / 2.0
    reach = 0.98 * len(values) ** 0.5
    low, high = max(0, int(half - reach)), min(len(values) - 1, int(half + reach))
    return [round(one, 4) for one in (statistics.median(values), ordered[low], ordered[high])]


def main() -> None:
    keep_freed_memory()  # as what is measured beside it does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="msae-demo")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=11, help="10 at least")
    parser.add_argument("--steps", type=int, default=2, help="of each kind in a round")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    recipe = recipes.find(arguments.recipe, arguments.set)
    without = replace(recipe, queue_length=0)
    arrays, device = made_up(recipe), arguments.device
    kinds = {
        "bare": bare(recipe, arrays, device),
        "training": training(recipe, arrays, device, arguments.workers),
        "without GMS": training(without, arrays, device, arguments.workers),
        "loading": loading(recipe, arrays, arguments.workers, device),
    }
    if device == "cuda":
        kinds["bare, recorded"] = bare(recipe, arrays, device, recorded=True)
    for once in kinds.values():
        once()
    batches_at_once = {"loading": LOADED}
    rounds = [
        {
            name: seconds(once, arguments.steps, device) / batches_at_once.get(name, 1)
            for name, once in kinds.items()
        }
        for _ in track(range(arguments.rounds), "rounds", console=Console(file=sys.stderr))
    ]

    def ratio(of: str, to: str) -> list[float]:
        return between([one[of] / one[to] for one in rounds])

    report = {
        "recipe": recipe.name,
        "device": device,
        "threads": torch.get_num_threads(),
        "pairs_per_s": {
            name: recipe.batch_size / statistics.median(one[name] for one in rounds)
            for name in kinds
        },
        **{f"training / {name}": ratio(name, "training") for name in kinds if "bare" in name},
        "cost of GMS": [one - 1.0 for one in ratio("training", "without GMS")],
        "loading / training": ratio("training", "loading"),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
