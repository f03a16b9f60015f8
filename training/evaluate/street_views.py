"""The streets of an evaluation as descriptors, under each condition, a chunk of pairs at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.encoder import Encoder
from model.errors import SkyfixError
from model.images import Rgb
from training.data.image_operations import limit_view
from training.data.pairs import Pair, PairError, read_strip
from training.evaluate.gallery import read_in_chunks

SEARCHED = 2048  # street descriptors at a time: each search reads the whole gallery


class Condition(NamedTuple):
    """How a panorama is seen: its visible angle, and the number of headings tried (0: known)."""

    fov_deg: float = 360.0
    rolls: int = 0


class EncodedStreets(NamedTuple):
    """n streets: their rows, the fractions of the width that face north (n,), and by condition
    their descriptors, float32 (n, R, D)."""

    rows: range
    norths: NDArray[np.float64]
    descriptors: Mapping[Condition, NDArray[np.float32]]


def encode_streets(
    encoder: Encoder,
    pairs: Sequence[Pair],
    conditions: Collection[Condition],
    seed: int,
    *,
    at_once: int = SEARCHED,
) -> Iterator[EncodedStreets]:
    """All streets in order, in groups of chunks with about `at_once` descriptors a condition."""
    most = max((max(1, condition.rolls) for condition in conditions), default=1)
    held: list[EncodedStreets] = []
    for rows, strips, norths in _read_streets(encoder, pairs):
        encoded = {
            condition: _encode(encoder, strips, norths, rows, condition, seed)
            for condition in conditions
        }
        held.append(EncodedStreets(rows, norths, encoded))
        if rows.stop - held[0].rows.start >= at_once / most or rows.stop == len(pairs):
            yield EncodedStreets(
                range(held[0].rows.start, rows.stop),
                np.concatenate([chunk.norths for chunk in held]),
                {
                    condition: np.concatenate([chunk.descriptors[condition] for chunk in held])
                    for condition in conditions
                },
            )
            held = []


def _read_streets(
    encoder: Encoder, pairs: Sequence[Pair]
) -> Iterator[tuple[range, list[Rgb], NDArray[np.float64]]]:
    """Rows, strips and norths of a chunk of pairs at a time."""

    def read(pair: Pair) -> tuple[Rgb, float]:
        try:
            return read_strip(pair, encoder.config.preprocessing)
        except (SkyfixError, OSError) as error:
            raise PairError(f"{pair.id}: {error}") from error

    start = 0
    for chunk in read_in_chunks(pairs, read, "encoding panoramas"):
        strips, norths = zip(*chunk, strict=True)
        yield range(start, start + len(chunk)), list(strips), np.array(norths)
        start += len(chunk)


def _encode(
    encoder: Encoder,
    strips: Sequence[Rgb],
    norths: NDArray[np.float64],
    rows: range,
    condition: Condition,
    seed: int,
) -> NDArray[np.float32]:
    """Strips under a condition, to (n, R, D); R is 1 if the heading is known."""
    if condition.fov_deg < 360.0:
        centres = [np.random.default_rng([seed, row]).uniform() for row in rows]
        strips = list(
            limit_view(
                torch.from_numpy(np.stack(strips)),
                np.full(len(strips), condition.fov_deg),
                np.array(centres),
                encoder.config.preprocessing.fill,
            ).numpy()
        )
    if not condition.rolls:
        return encoder.encode_strips(strips, list(norths))[:, None]
    repeated = [strip for strip in strips for _ in range(condition.rolls)]
    tried = [roll / condition.rolls for roll in range(condition.rolls)] * len(strips)
    descriptors = encoder.encode_strips(repeated, tried)
    return descriptors.reshape(len(strips), condition.rolls, -1)
