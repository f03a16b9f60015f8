"""Evaluation protocols: an encoder and pairs in, a named set of figures out.

centre: one tile around each panorama, heading known.
grid: overlapping tiles over the whole raster, the panorama anywhere among them, in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder
from training.evaluate import EvaluationError, nearest, recall_at, recall_depths, recall_within
from training.pairs import AerialView, Arrays, Pair, raster_size, read_arrays, read_chip
from training.progress import bar


def centre(encoder: Encoder, arrays: Arrays) -> dict[str, Any]:
    """Recall with each panorama at its own tile's centre; N tiles, K for "1%".

    Where positions are known, the share of best tiles within 10, 25 and 50 m as well.
    """
    street = encoder.encode_strips(list(arrays.strips), list(arrays.norths))
    aerial = encoder.encode_aerials(list(centred_tiles(arrays)))
    figures: dict[str, Any] = dict(recall_at(street, aerial))
    figures |= {"N": len(aerial), "K": recall_depths(len(aerial))["1%"]}
    if np.isfinite(arrays.positions).all():
        found = arrays.positions[nearest(street, aerial)]
        figures |= recall_within(found, arrays.positions)
    return figures


def grid(
    encoder: Encoder, pairs: Sequence[Pair], arrays: Arrays, stride_m: float
) -> dict[str, Any]:
    """Best tile of a lattice over the pairs' one raster, in metres from the true place.

    Raises:
        EvaluationError: the pairs do not share one raster.
    """
    rasters = {pair.aerial.path for pair in pairs}
    if len(rasters) != 1:
        raise EvaluationError(f"the grid protocol needs one raster, not {len(rasters)}")
    views = lattice(pairs[0].aerial, encoder.aerial_footprint_m, stride_m)
    preprocessing = encoder.config.preprocessing
    tiles = [
        read_chip(view, encoder.aerial_footprint_m, preprocessing.input_size, preprocessing.fill)
        for view in views
    ]
    street = encoder.encode_strips(list(arrays.strips), list(arrays.norths))
    best = nearest(street, encoder.encode_aerials(tiles))
    found = _metres(views)[best]
    true = _metres([pair.aerial for pair in pairs])
    return {**recall_within(found, true), "N": len(views), "stride_m": stride_m}


def lattice(view: AerialView, footprint_m: float, stride_m: float) -> list[AerialView]:
    """Tile centres every `stride_m` over the view's raster, whole tiles only, row by row."""
    height, width = raster_size(view.path)
    half, step = (metres / view.metres_per_pixel for metres in (footprint_m / 2, stride_m))
    return [
        replace(view, column=float(column), row=float(row))
        for row in np.arange(half, height - half + 1e-6, step)
        for column in np.arange(half, width - half + 1e-6, step)
    ]


def centred_tiles(arrays: Arrays) -> NDArray[np.uint8]:
    """The chips without their margin: (N, S, S, 3)."""
    end = arrays.chips.shape[1] - arrays.margin
    return arrays.chips[:, arrays.margin : end, arrays.margin : end]


def _metres(views: Sequence[AerialView]) -> NDArray[np.float64]:
    return np.array([[one.column, -one.row] for one in views]) * views[0].metres_per_pixel


def evaluate(
    encoder: Encoder, pairs: Sequence[Pair], *, stride_m: float | None = None
) -> dict[str, Any]:
    """The centre protocol and, given a stride, the grid protocol beside it."""
    with bar("reading pairs", len(pairs)) as advance:
        arrays = read_arrays(pairs, encoder.config, offset_m=0.0, advance=advance)
    figures: dict[str, Any] = {"centre": centre(encoder, arrays)}
    if stride_m is not None:
        figures["grid"] = grid(encoder, pairs, arrays, stride_m)
    return figures
