"""Adaptation, step by step: photographs, region, headings, split, training, comparison, files."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from model.atomic_write import write_atomically
from model.backend import exact_backends
from model.checkpoint import Checkpoint
from model.encoder import Encoder
from training.adapt.comparison import Comparison, errors_m
from training.adapt.fine_tuning import fine_tune, recipe_for, within_time
from training.adapt.ground import Ground, survey
from training.adapt.headings import ROLLS
from training.adapt.held_out import Split, hold_out
from training.adapt.photographs import TABLE, AdaptError
from training.adapt.region import check_rasters
from training.data.arrays import read_arrays
from training.data.pairs import Pair
from training.evaluate.street_views import Condition
from training.run.folder_lock import locked

log = logging.getLogger(__name__)

CALIBRATES = 20  # held-out photographs, from which `skyfix build --validation` calibrates


@dataclass(frozen=True)
class Request:
    """What is adapted to what.

    minutes: of training, at most. overrides: of the recipe's fields. accelerated: look for the
    fastest way to encode, which takes seconds.
    """

    aerials: Sequence[Path]
    photographs: Path
    out: Path
    weights: Path
    minutes: float = 60.0
    overrides: Sequence[str] = ()
    seed: int = 0
    device: str = "cpu"
    accelerated: bool = True


class Adaptation(NamedTuple):
    """What an adaptation made. calibrates: whether the held-out photographs are enough for that."""

    weights: Path
    held_out: Path
    comparison: Comparison
    calibrates: bool


def adapt(request: Request) -> Adaptation:
    """Adapt weights to a region, or resume where a killed process stopped.

    Raises:
        AdaptError: imagery or photographs that allow no adaptation, or the adapted weights are
            worse; nothing is written then. Also the errors of `train`, RecipeError, OSError.
    """
    check_rasters(request.aerials)
    weights = Checkpoint.load(request.weights)
    recipe_for(weights, 2, request.device, request.overrides)  # before any image is read
    with locked(request.out):
        # The exact encoder: a resumed run must find the same headings.
        encoder = Encoder(weights, request.device)
        raster = request.out / "region.tif"
        ground = survey(request.aerials, request.photographs, raster, encoder)
        recipe = recipe_for(weights, len(ground.pairs), request.device, request.overrides)
        clearance_m = weights.config.aerial_footprint_m + recipe.offset_m
        split = hold_out(ground.places, clearance_m, request.seed)
        log.info(
            "%d photographs to train on, %d held out in blocks of %.0f m, %d between them unused",
            len(split.training), len(split.held_out), split.side_m, len(split.between),
        )  # fmt: skip
        held_out = [ground.pairs[row] for row in split.held_out]
        condition = Condition(rolls=0 if ground.stated[split.held_out].all() else ROLLS)
        before = errors_m(_encoder(weights, request), held_out, condition)
        adapted = _train(request, weights, [ground.pairs[row] for row in split.training])
        after = errors_m(_encoder(adapted, request), held_out, condition)
        comparison = Comparison(before, after)
        refuse_worse(comparison, request)
        return _write(request, adapted, comparison, held_out, ground, split)


def _encoder(weights: Checkpoint, request: Request) -> Encoder:
    encoder = Encoder(weights, request.device)
    if request.accelerated:
        encoder.accelerate(exact_backends(encoder.device))
    return encoder


def _train(request: Request, weights: Checkpoint, pairs: Sequence[Pair]) -> Checkpoint:
    out = request.out / "training"
    out.mkdir(exist_ok=True)
    recipe = recipe_for(weights, len(pairs), request.device, request.overrides)
    arrays = read_arrays(pairs, recipe.encoder, recipe.offset_m, cache=out)
    recipe = within_time(recipe, arrays, weights, request.device, request.minutes, out)
    return fine_tune(recipe, arrays, weights, request.device, request.seed, out)


def refuse_worse(comparison: Comparison, request: Request) -> None:
    """Raises AdaptError: the adapted weights are worse on the held-out photographs."""
    if comparison.is_worse:
        raise AdaptError(
            "\n".join(
                [
                    "the adapted weights are worse on the held-out photographs, so not written:",
                    *comparison.lines(request.seed),
                    f"go on with {request.weights}, or add photographs",
                ]
            )
        )


def _write(
    request: Request,
    adapted: Checkpoint,
    comparison: Comparison,
    held_out: Sequence[Pair],
    ground: Ground,
    split: Split,
) -> Adaptation:
    """The weights last: where they stand, the rest stands, too."""
    folder, weights = request.out / "held-out", request.out / "adapted.safetensors"
    folder.mkdir(exist_ok=True)
    write_atomically(folder / TABLE, _poses(held_out).encode())
    figures = comparison.as_dict(request.seed)
    report: dict[str, Any] = {
        "aerials": [str(path) for path in request.aerials],
        "folder": str(request.photographs),
        "left_out": [entry._asdict() for entry in ground.left_out],
        "headings_fitted": int((~ground.stated).sum()),
        "split": {
            "training": len(split.training),
            "held_out": len(split.held_out),
            "between": len(split.between),
            "side_m": split.side_m,
        },
        "weights_before": adapted.provenance["adapted_from"],
        "weights_after": adapted.fingerprint,
        **figures,
    }
    write_atomically(request.out / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    Checkpoint(adapted.config, adapted.tensors, {**adapted.provenance, "adaptation": figures}).save(
        weights
    )
    return Adaptation(weights, folder, comparison, len(held_out) >= CALIBRATES)


def _poses(pairs: Sequence[Pair]) -> str:
    """A table whose files stand elsewhere: their whole paths."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "latitude", "longitude"])
    for pair in pairs:
        assert pair.position is not None  # read_photographs gives each one
        table.writerow([pair.street.resolve(), *pair.position])
    return text.getvalue()
