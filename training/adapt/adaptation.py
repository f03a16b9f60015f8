"""Adaptation, step by step: photographs, region, headings, split, training, comparison, files."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.atomic_write import write_atomically
from model.backend import exact_backends
from model.checkpoint import Checkpoint
from model.encoder import Encoder
from training.adapt.comparison import Comparison, errors_m
from training.adapt.fine_tuning import fine_tune, recipe_for, within_time
from training.adapt.headings import CHECKED, ROLLS, check_headings, fitted_headings
from training.adapt.held_out import Split, hold_out
from training.adapt.photographs import (
    TABLE,
    AdaptError,
    LeftOut,
    Photograph,
    counted,
    read_photographs,
)
from training.adapt.region import Region, check_rasters, make_region, project, shown_by
from training.data.arrays import read_arrays
from training.data.pairs import Pair
from training.evaluate.street_views import Condition
from training.run.folder_lock import locked

log = logging.getLogger(__name__)

AROUND_M = 150.0  # imagery around the photographs: tiles there compete, too
LEAST_COVER = 0.5  # of a photograph's own tile must show imagery
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


class _Ground(NamedTuple):
    """The photographs as pairs in the region's raster, their headings stated or fitted."""

    region: Region
    pairs: list[Pair]
    stated: NDArray[np.bool_]  # (N,), whether the heading was
    left_out: list[LeftOut]


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
        ground = _survey(request, Encoder(weights, request.device))
        recipe = recipe_for(weights, len(ground.pairs), request.device, request.overrides)
        footprint, places = weights.config.aerial_footprint_m, _places(ground)
        split = hold_out(places, footprint + recipe.offset_m, request.seed)
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


def _survey(request: Request, encoder: Encoder) -> _Ground:
    """Read photographs and imagery; find and check headings."""
    preprocessing = encoder.config.preprocessing
    photographs, left_out = read_photographs(request.photographs, preprocessing)
    _check_some(photographs, left_out)
    shown = shown_by(request.aerials, [photograph.position for photograph in photographs])
    reason = "the position lies outside the imagery"
    photographs, outside = _divided(photographs, shown, reason)
    left_out += outside
    _check_some(photographs, left_out)
    footprint = encoder.aerial_footprint_m
    region = make_region(
        request.aerials,
        [photograph.position for photograph in photographs],
        pixel_m=footprint / preprocessing.input_size / 2.0,  # twice as fine as the network's input
        margin_m=footprint + AROUND_M,
        out=request.out / "region.tif",
        fill=preprocessing.fill,
    )
    points = [region.point(photograph.position) for photograph in photographs]
    covered = np.array([region.covered(point, footprint) >= LEAST_COVER for point in points])
    photographs, empty = _divided(photographs, covered, "the tile is mostly empty")
    left_out += empty
    for line in counted(left_out):
        log.info(line)
    _check_some(photographs, left_out)
    pairs = [_pair(region, photograph) for photograph in photographs]
    stated = np.array([photograph.geometry.north is not None for photograph in photographs])
    return _Ground(
        region, _with_headings(encoder, pairs, stated, request.photographs), stated, left_out
    )


def _divided(
    photographs: Sequence[Photograph], kept: NDArray[np.bool_], reason: str
) -> tuple[list[Photograph], list[LeftOut]]:
    used = [photograph for photograph, keep in zip(photographs, kept, strict=True) if keep]
    others = [photograph for photograph, keep in zip(photographs, kept, strict=True) if not keep]
    return used, [LeftOut(photograph.name, reason) for photograph in others]


def _check_some(photographs: Sequence[Photograph], left_out: Sequence[LeftOut]) -> None:
    if not photographs:
        raise AdaptError("; ".join(["no photograph can be used", *counted(left_out)]))


def _pair(region: Region, photograph: Photograph) -> Pair:
    point = region.point(photograph.position)
    return Pair(photograph.name, photograph.file, point, photograph.geometry, photograph.position)


def _with_headings(
    encoder: Encoder, pairs: list[Pair], stated: NDArray[np.bool_], folder: Path
) -> list[Pair]:
    """Pairs whose headings are all known: the stated ones are checked, the others are fitted."""
    checked = np.flatnonzero(stated)
    checked = checked[:: max(1, len(checked) // CHECKED)]
    rows = np.concatenate([checked, np.flatnonzero(~stated)])
    fitted = fitted_headings(encoder, [pairs[row] for row in rows])
    if len(checked):
        known = [pairs[row].geometry for row in checked]
        degrees = np.array([geometry.heading_of_centre_deg for geometry in known if geometry])
        check_headings(degrees, fitted[: len(checked)], str(folder / TABLE))
    found = dict(zip(rows[len(checked) :].tolist(), fitted[len(checked) :].tolist(), strict=True))
    if found:
        log.info("%d headings are not stated: the imagery gives them", len(found))
    return [
        pair if row not in found else _headed(pair, found[row]) for row, pair in enumerate(pairs)
    ]


def _headed(pair: Pair, heading_deg: float) -> Pair:
    geometry = pair.geometry
    assert geometry is not None  # read_photographs gives each one
    north = geometry.north_of(heading_deg, geometry.horizontal_fov_deg)
    return replace(pair, geometry=replace(geometry, north=north))


def _places(ground: _Ground) -> NDArray[np.float64]:
    positions = [pair.position for pair in ground.pairs if pair.position is not None]
    return project(positions, ground.region.crs)


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
    ground: _Ground,
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
