"""The photographs as pairs on the region's raster, every heading stated or fitted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder
from training.adapt.headings import CHECKED, check_headings, fitted_headings
from training.adapt.photographs import (
    TABLE,
    AdaptError,
    LeftOut,
    Photograph,
    counted,
    read_photographs,
)
from training.adapt.region import Region, make_region, project, shown_by
from training.data.pairs import Pair

log = logging.getLogger(__name__)

AROUND_M = 150.0  # imagery around the photographs: tiles there compete, too
LEAST_COVER = 0.5  # of a photograph's own tile must show imagery


@dataclass(frozen=True)
class Ground:
    """N photographs as pairs.

    places: (N, 2), metres east and north. stated: bool (N,), whether the heading was; the
    imagery gave the others.
    """

    pairs: Sequence[Pair]
    places: NDArray[np.float64]
    stated: NDArray[np.bool_]
    left_out: Sequence[LeftOut]


def survey(aerials: Sequence[Path], folder: Path, out: Path, encoder: Encoder) -> Ground:
    """Read the photographs and the imagery around them; check or fit the headings.

    `out` gets the region's raster.

    Raises:
        AdaptError: no photograph can be used, or all headings are turned. PairError: the table is
            broken. OSError: the disk is full.
    """
    photographs, left_out = read_photographs(folder, encoder.config.preprocessing)
    if photographs:
        shown = shown_by(aerials, [photograph.position for photograph in photographs])
        photographs = _kept(photographs, shown, "the position lies outside the imagery", left_out)
    if photographs:
        region = _region(aerials, photographs, out, encoder)
        footprint = encoder.aerial_footprint_m
        covers = [region.covered(region.point(each.position), footprint) for each in photographs]
        covered = np.array(covers) >= LEAST_COVER
        photographs = _kept(photographs, covered, "the tile is mostly empty", left_out)
    for line in counted(left_out):
        log.info(line)
    if not photographs:
        raise AdaptError("; ".join(["no photograph can be used", *counted(left_out)]))
    stated = np.array([photograph.geometry.north is not None for photograph in photographs])
    photographs = _with_headings(encoder, region, photographs, stated, str(folder / TABLE))
    places = project([photograph.position for photograph in photographs], region.crs)
    return Ground([_pair(region, each) for each in photographs], places, stated, left_out)


def _kept(
    photographs: Sequence[Photograph],
    kept: NDArray[np.bool_],
    reason: str,
    left_out: list[LeftOut],
) -> list[Photograph]:
    """The photographs that are kept; the others go to `left_out`."""
    pairs = list(zip(photographs, kept, strict=True))
    left_out += [LeftOut(photograph.name, reason) for photograph, keep in pairs if not keep]
    return [photograph for photograph, keep in pairs if keep]


def _region(
    aerials: Sequence[Path], photographs: Sequence[Photograph], out: Path, encoder: Encoder
) -> Region:
    preprocessing = encoder.config.preprocessing
    footprint = encoder.aerial_footprint_m
    return make_region(
        aerials,
        [photograph.position for photograph in photographs],
        pixel_m=footprint / preprocessing.input_size / 2.0,  # twice as fine as the network's input
        margin_m=footprint + AROUND_M,
        out=out,
        fill=preprocessing.fill,
    )


def _pair(region: Region, photograph: Photograph) -> Pair:
    name, file, position, geometry = (
        photograph.name, photograph.file, photograph.position, photograph.geometry,
    )  # fmt: skip
    return Pair(name, file, region.point(position), geometry, position)


def _with_headings(
    encoder: Encoder,
    region: Region,
    photographs: Sequence[Photograph],
    stated: NDArray[np.bool_],
    table: str,
) -> list[Photograph]:
    """The photographs with all headings known: the stated ones are checked, the others fitted."""
    known, unknown = np.flatnonzero(stated).tolist(), np.flatnonzero(~stated).tolist()
    known = known[:: max(1, len(known) // CHECKED)]
    fitted = fitted_headings(
        encoder, [_pair(region, photographs[row]) for row in (*known, *unknown)]
    )
    if len(known):
        headings = [photographs[row].geometry.heading_of_centre_deg for row in known]
        check_headings(np.array(headings, np.float64), fitted[: len(known)], table)
    if len(unknown):
        log.info("%d headings are not stated: the imagery gives them", len(unknown))
    headed = list(photographs)
    for row, heading in zip(unknown, fitted[len(known) :], strict=True):
        headed[row] = photographs[row].headed(float(heading))
    return headed
