"""The paper's table 2 as a study: each row trained alike over several seeds, then compared.

A run is a folder that `train` can go on with, so a study that was stopped goes on where it was.
Rows are paired by seed: with one seed, every row saw the same pairs in the same order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from model.atomic_write import write_atomically
from model.encoder import Encoder
from model.errors import SkyfixError
from training import recipes
from training.data.augmentation import Pictures, batches
from training.data.pairs import SKIP_SHARE, Arrays, Pair, read_arrays
from training.evaluate import report
from training.evaluate.protocols import Options, evaluate
from training.progress import bar
from training.recipes import Recipe, describe
from training.run.loop import start, train
from training.run.sampling import order
from training.run.step import step

log = logging.getLogger(__name__)

FULL = "msae-demo"
MODERN = "skyfix-modern"
_SHARED = ("encoder", "pretrained", "frozen_maps", "learning_rate")
_TIMED_STEPS = 5


class AblationError(SkyfixError):
    """The study cannot be made of what was given."""


@dataclass(frozen=True)
class Study:
    """What is compared, and at what cost.

    Attributes:
        rows: recipe by name of row; the others are compared with the first.
        minutes: that the training of each run may take; None: the recipes' own epochs.
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

    modern: skyfix-modern beside them, on their network and at their rate: its loss, batches and
    augmentation are compared, not what it begins with.
    """
    full = recipes.find(FULL, overrides)
    rows = {FULL: full}
    # What a row leaves out comes last: an override for all rows must not undo it.
    rows |= {
        f"w/o {part.upper()}": recipes.find(f"{FULL}-without-{part}", (*overrides, less))
        for part, less in recipes.WITHOUT.items()
    }
    if modern:
        shared = {name: getattr(full, name) for name in _SHARED}
        rows[MODERN] = replace(recipes.find(MODERN, overrides), **shared)
    return rows


def ablate(
    study: Study,
    pairs: Sequence[Pair],
    validation: Mapping[str, Sequence[Pair]],
    out: Path,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Train and measure every run that `out` does not hold yet; returns `summary`.

    Args:
        validation: pairs by name of data set; the first is measured every epoch, for figure 7.
        cache: folder for pairs that memory does not hold; `out` by default.

    Raises:
        AblationError: no validation set, or `out` holds another study, or one of other data.
    """
    if not validation:
        raise AblationError("a study needs a validation set: what rows are compared on")
    read = _reader(cache or out)
    asked = _asked(study, pairs, validation)
    epochs = _plan(
        study, asked, lambda recipe: read(recipe, pairs, recipe.offset_m, SKIP_SHARE), out
    )
    results: dict[str, dict[int, report.Figures]] = {name: {} for name in study.rows}
    for seed in study.seeds:  # by seed first: a study that is stopped early is a smaller study
        for name, recipe in study.rows.items():
            chosen = replace(recipe, epochs=epochs[name])
            folder = run_folder(out, name, seed)
            if not (folder / "result.json").exists():
                log.info("%s, seed %d: %d epochs", name, seed, chosen.epochs)
                _run(chosen, seed, study, read, pairs, validation, folder)
            results[name][seed] = json.loads((folder / "result.json").read_text())["mean"]
    return summary(results, study.protocols[0])


def run_folder(out: Path, row: str, seed: int) -> Path:
    """Where a run's checkpoints, log and result lie."""
    return out / row.replace("w/o ", "without-").lower() / str(seed)


def histories(study: Study, out: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """Of the rows with and without GMS, the log of every run: what figure 7 draws."""
    shown = [name for name in study.rows if name in (FULL, "w/o GMS")]
    return {
        name: [_log(run_folder(out, name, seed) / "log.jsonl") for seed in study.seeds]
        for name in shown
    }


def _log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


Read = Callable[[Recipe, Sequence[Pair], float, float], Arrays]


def _reader(cache: Path) -> Read:
    """Reads arrays once for all recipes that start from the same strips and chips."""
    known: dict[tuple[Any, ...], Arrays] = {}

    def read(recipe: Recipe, pairs: Sequence[Pair], offset_m: float, skip_share: float) -> Arrays:
        config = recipe.encoder
        same = replace(config.preprocessing, projection="polar", ground_span_m=0.0)
        key = (id(pairs), same, config.aerial_footprint_m, offset_m, skip_share)
        if key not in known:
            with bar("reading pairs", len(pairs)) as advance:
                known[key] = read_arrays(
                    pairs, config, offset_m, advance=advance, skip_share=skip_share, cache=cache
                )
        return known[key]

    return read


def _run(
    recipe: Recipe,
    seed: int,
    study: Study,
    read: Read,
    pairs: Sequence[Pair],
    validation: Mapping[str, Sequence[Pair]],
    folder: Path,
) -> None:
    held_out = next(iter(validation.values()))
    weights = train(
        recipe,
        read(recipe, pairs, recipe.offset_m, SKIP_SHARE),
        folder,
        validation=read(recipe, held_out, 0.0, 0.0),
        seed=seed,
        device=study.device,
    )
    encoder = Encoder.load(weights, study.device)
    each = {
        name: evaluate(encoder, one, study.protocols, options=study.options)
        for name, one in validation.items()
    }
    _write(folder / "result.json", {"mean": report.mean(list(each.values())), "each": each})


def _asked(
    study: Study, pairs: Sequence[Pair], validation: Mapping[str, Sequence[Pair]]
) -> dict[str, Any]:
    """All that decides the results, but for the seeds: more of these may be asked for later."""
    asked = {
        "minutes": study.minutes,
        "protocols": list(study.protocols),
        "rows": {name: describe(one) for name, one in study.rows.items()},
        "training": _data(pairs),
        "validation": [_data(one) for one in validation.values()],
        "options": asdict(study.options),
        "device": study.device,
    }
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _data(pairs: Sequence[Pair]) -> str:
    """A hash of which pairs these are: ids, tiles, and places to a metre. Not of their images."""
    digest = hashlib.sha256()
    for pair in pairs:
        place = [round(degrees, 5) for degrees in pair.position or ()]
        digest.update(f"{[pair.id, pair.tile_id, *map(float, place)]}\n".encode())
    return digest.hexdigest()


def _plan(
    study: Study, asked: Mapping[str, Any], read: Callable[[Recipe], Arrays], out: Path
) -> dict[str, int]:
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
    other = [name for name, one in asked.items() if plan["asked"].get(name) != one]
    if other:
        raise AblationError(
            f"{path} is of another study: {', '.join(other)} differ; choose another --out, or "
            "delete that folder"
        )
    return {name: int(count) for name, count in plan["epochs"].items()}


def epochs_within(minutes: float, recipe: Recipe, arrays: Arrays, device: str) -> int:
    """How many epochs a budget pays for, at least one, by the time that some steps take."""
    timed = replace(recipe, queue_start_epoch=0)
    state = start(timed, arrays, 0, device)
    shuffled = order(timed, arrays.positions, 0, 0)
    pictures = Pictures.of(arrays, device)
    times, began = [], time.monotonic()
    for batch in islice(batches(arrays, timed, 0, 0, shuffled, pictures=pictures), _TIMED_STEPS):
        step(state, batch, timed, device).loss()
        times.append(time.monotonic() - began)
        began = time.monotonic()
    if not times:
        raise AblationError(f"{len(arrays)} pairs do not fill one batch of {recipe.batch_size}")
    epoch_s = float(np.median(times)) * (len(arrays) // recipe.batch_size)
    return max(1, math.floor(minutes * 60.0 / epoch_s))


def summary(results: Mapping[str, Mapping[int, report.Figures]], protocol: str) -> dict[str, Any]:
    """Rows with mean and deviation over seeds, and R@1's difference to the first row.

    The difference is paired by seed; its 95 % interval is Student's t, None for a single seed.
    """
    full = next(iter(results.values()))
    rows = {}
    for name, by_seed in results.items():
        figures = [{protocol: one[protocol]} for one in by_seed.values()]
        difference = [by_seed[seed][protocol]["1"] - full[seed][protocol]["1"] for seed in by_seed]
        rows[name] = {
            "mean": report.mean(figures)[protocol],
            "deviation": report.deviation(figures)[protocol],
            "difference": float(np.mean(difference)),
            "interval": interval(difference),
            "seeds": len(by_seed),
        }
    return {"protocol": protocol, "rows": rows}


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean, by Student's t; None for fewer than two values."""
    count = len(differences)
    if count < 2:
        return None
    centre = float(np.mean(differences))
    half = float(stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / math.sqrt(count))
    return centre - half, centre + half


def markdown(table: Mapping[str, Any]) -> str:
    """Table 2: percentages, mean ± deviation over seeds, difference of R@1 with its interval."""
    names = ["1", "5", "10", "1%"]
    lines = [
        f"| {table['protocol']} | {' | '.join(f'R@{name}' for name in names)} | Δ R@1 [95 %] |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in table["rows"].items():
        cells = [
            f"{100 * row['mean'][one]:.1f} ± {100 * row['deviation'][one]:.1f}" for one in names
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {_difference(row)} |")
    first = next(iter(table["rows"].values()))
    size = f"N = {first['mean']['N']:.10g}, K = {first['mean']['K']:.10g}"
    told = f"{size}; {first['seeds']} seeds; differences are paired by seed."
    return "\n".join(lines) + f"\n\n{told}\n"


def _difference(row: Mapping[str, Any]) -> str:
    text = f"{100 * row['difference']:+.1f}"
    if row["interval"] is None:
        return text
    low, high = row["interval"]
    return f"{text} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=1).encode())
