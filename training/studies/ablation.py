"""The paper's table 2 as a study: each row trained alike over several seeds, then compared.

A run is a folder that `train` can resume, so a stopped study resumes as well. Rows are paired by
seed: with the same seed, every row sees the same pairs in the same order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from model.atomic_write import write_atomically
from model.checkpoint import EncoderConfig
from model.encoder import Encoder
from model.errors import SkyfixError
from model.network import NetworkConfig
from training import recipes
from training.data.arrays import SKIP_SHARE, Arrays, read_arrays
from training.data.augmentation import ImageTensors, batches
from training.data.pairs import Pair
from training.data.sampling import order
from training.evaluate import report
from training.evaluate.protocols import Options, evaluate
from training.recipes import Recipe
from training.run.loop import train
from training.run.start import start, steps_per_epoch
from training.run.step import step
from training.studies.ablation_table import summary

log = logging.getLogger(__name__)

FULL = "msae-demo"
MODERN = "skyfix-modern"
_SHARED = ("encoder", "pretrained", "frozen_maps", "learning_rate")
_TIMED_STEPS = 5


class AblationError(SkyfixError):
    """These arguments make no study."""


@dataclass(frozen=True)
class Study:
    """The rows to compare, and their cost.

    Attributes:
        rows: recipe by name of row; the first row is the reference of the others.
        minutes: training time of each run; None: the recipes' own epochs.
        protocols: of the final measurement; the table shows the first.
    """

    rows: Mapping[str, Recipe]
    seeds: Sequence[int]
    minutes: float | None = None
    protocols: Sequence[str] = ("centre",)
    options: Options = field(default_factory=Options)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.rows or not self.seeds:
            raise AblationError("a study needs at least one row and one seed")
        if self.minutes is not None and not 0.0 < self.minutes < math.inf:
            raise AblationError(f"minutes is {self.minutes:g}: each run needs more than 0")


def table_2(overrides: Sequence[str] = (), *, modern: bool = False) -> dict[str, Recipe]:
    """The paper's rows; `overrides` apply to every row.

    modern: add skyfix-modern with the paper's network and learning rate, so that the row compares
    its loss, batches and augmentation, not its initial weights.
    """
    full = recipes.find(FULL, overrides)
    rows = {FULL: full}
    # Each row's own override comes last: an override for all rows must not undo it.
    rows |= {
        f"w/o {part.upper()}": recipes.find(f"{FULL}-without-{part}", (*overrides, less))
        for part, less in recipes.WITHOUT.items()
    }
    if modern:
        shared = {name: getattr(full, name) for name in _SHARED}
        rows[MODERN] = replace(recipes.find(MODERN, overrides), **shared)
    return rows


Validation = Mapping[str, Sequence[Pair]]  # pairs by name of dataset
Read = Callable[[Recipe], Arrays]


def ablate(
    study: Study,
    pairs: Sequence[Pair],
    validation: Validation,
    out: Path,
    cache_folder: Path | None = None,
) -> dict[str, Any]:
    """Train and measure every run that `out` does not hold yet; returns `summary`.

    Args:
        validation: the first dataset is measured every epoch, for figure 7.
        cache_folder: folder for pairs that do not fit in memory; `out` by default.

    Raises:
        AblationError: no validation set, or `out` holds a study of other rows or data.
    """
    if not validation:
        raise AblationError("a study needs a validation set to compare its rows on")
    held_out = next(iter(validation.values()))
    read_training = _reader(pairs, cache_folder or out, SKIP_SHARE)
    read_validation = _reader(held_out, cache_folder or out, 0.0)
    epochs = _plan(study, _asked(study, pairs, validation), read_training, out)
    results: dict[str, dict[int, report.Metrics]] = {name: {} for name in study.rows}
    for seed in study.seeds:  # by seed first: a study that is stopped early is a smaller study
        for name, recipe in study.rows.items():
            chosen = replace(recipe, epochs=epochs[name])
            folder = run_folder(out, name, seed)
            if not (folder / "result.json").exists():
                log.info("%s, seed %d: %d epochs", name, seed, chosen.epochs)
                weights = train(
                    chosen,
                    read_training(chosen),
                    folder,
                    validation=read_validation(replace(chosen, offset_m=0.0)),
                    seed=seed,
                    device=study.device,
                )
                _measure(weights, study, validation, folder)
            results[name][seed] = json.loads((folder / "result.json").read_text())["mean"]
    return summary(results, study.protocols[0])


def run_folder(out: Path, row: str, seed: int) -> Path:
    """The folder of a run's checkpoints, log and result."""
    return out / row.replace("w/o ", "without-").lower() / str(seed)


def histories(study: Study, out: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """The log of every run of the rows with and without GMS, for figure 7."""
    return {
        name: [_log(run_folder(out, name, seed) / "log.jsonl") for seed in study.seeds]
        for name in study.rows
        if name in (FULL, "w/o GMS")
    }


def _log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _reader(pairs: Sequence[Pair], folder: Path, skip_share: float) -> Read:
    """A function that reads the pairs once for all recipes with the same strips and chips."""

    @cache
    def read(config: EncoderConfig, offset_m: float) -> Arrays:
        return read_arrays(pairs, config, offset_m, skip_share=skip_share, cache=folder)

    def read_for(recipe: Recipe) -> Arrays:
        config = recipe.encoder
        strips = replace(config.preprocessing, projection="polar", ground_span_m=0.0)
        shared = EncoderConfig(NetworkConfig(), strips, config.aerial_footprint_m)
        return read(shared, recipe.offset_m)

    return read_for


def _measure(weights: Path, study: Study, validation: Validation, folder: Path) -> None:
    encoder = Encoder.load(weights, study.device)
    each = {
        name: evaluate(encoder, held_out, study.protocols, options=study.options)
        for name, held_out in validation.items()
    }
    _write(folder / "result.json", {"mean": report.mean(list(each.values())), "each": each})


def _asked(study: Study, pairs: Sequence[Pair], validation: Validation) -> dict[str, Any]:
    """Everything that decides the results except the seeds, which may be added later."""
    asked = {
        "minutes": study.minutes,
        "protocols": list(study.protocols),
        "rows": {name: recipe.as_dict() for name, recipe in study.rows.items()},
        "training": _hash(pairs),
        "validation": [_hash(held_out) for held_out in validation.values()],
        "options": asdict(study.options),
        "device": study.device,
    }
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _hash(pairs: Sequence[Pair]) -> str:
    """sha256 of ids, tiles and positions to a metre. The images do not count."""
    digest = hashlib.sha256()
    for pair in pairs:
        position = [float(round(degrees, 5)) for degrees in pair.position or ()]
        digest.update(f"{[pair.id, pair.tile_id, *position]}\n".encode())
    return digest.hexdigest()


def _plan(study: Study, asked: Mapping[str, Any], read: Read, out: Path) -> dict[str, int]:
    """Epochs of each row, decided once and kept in plan.json, so that a resumed study agrees."""
    path = out / "plan.json"
    if not path.exists():
        if any(out.glob("*/*/result.json")):
            raise AblationError(f"{out} holds results without a plan.json: choose another --out")
        epochs = {
            name: recipe.epochs
            if study.minutes is None
            else epochs_within(study.minutes, recipe, read(recipe), study.device)
            for name, recipe in study.rows.items()
        }
        _write(path, {"epochs": epochs, "asked": asked})
    plan = json.loads(path.read_text())
    other = [name for name, value in asked.items() if plan["asked"].get(name) != value]
    if other:
        raise AblationError(
            f"{path} is of another study: {', '.join(other)} differ; choose another --out, or "
            "delete that folder"
        )
    return {name: int(count) for name, count in plan["epochs"].items()}


def epochs_within(minutes: float, recipe: Recipe, arrays: Arrays, device: str) -> int:
    """The epochs that fit in a time budget, at least 1, from the time of a few steps."""
    steps = steps_per_epoch(recipe, len(arrays))
    timed = replace(recipe, queue_start_epoch=0)
    state = start(timed, arrays, 0, device)
    shuffled = order(timed, arrays.positions, 0, 0)
    images = ImageTensors.of(arrays, device)
    times, began = [], time.monotonic()
    for batch in islice(batches(arrays, timed, 0, 0, shuffled, images=images), _TIMED_STEPS):
        step(state, batch, timed, device).wait()
        times.append(time.monotonic() - began)
        began = time.monotonic()
    epoch_s = float(np.median(times)) * steps
    return max(1, math.floor(minutes * 60.0 / epoch_s))


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=1).encode())
