"""Datasets: a small module for each reads its lists; `DATASETS` states the rest.

To add a dataset, write a module here and name it in `DATASETS`. A module returns the pairs that
the dataset's files list; this module finds out which of their images exist.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

from training.data.datasets import cvact, cvusa, own_pairs, town_folder, vigor
from training.data.pairs import GalleryTile, Pair, PairError

log = logging.getLogger(__name__)

Listed = TypeVar("Listed")


@dataclass(frozen=True)
class Dataset:
    """A dataset that can be trained on and measured with.

    Attributes:
        pairs: all pairs that a split lists, even if images are absent. Raises PairError, or
            ValueError as `list_files`.
        mark: glob pattern of what lies in the root of this dataset alone.
        held_out: the split to measure with, by the split trained on; the first is the default.
        splits: the splits beside "all", with the published number of pairs; empty if there are
            none, or if the files name them.
        named_splits: the splits that the files name, "" for pairs without a split.
        gallery: the whole gallery of a split; None: a tile for each pair, with the street at its
            middle.
        street_size, aerial_size: published (height, width); None: any.
    """

    pairs: Callable[[Path, str], Sequence[Pair]]
    mark: str
    held_out: Mapping[str, str]
    splits: Mapping[str, int] = field(default_factory=dict)
    named_splits: Callable[[Path], Sequence[str]] | None = None
    gallery: Callable[[Path, str], Sequence[GalleryTile]] | None = None
    street_size: tuple[int, int] | None = None
    aerial_size: tuple[int, int] | None = None

    def list_gallery(self, root: Path, split: str) -> Sequence[GalleryTile]:
        """The whole gallery of a split, even if images are absent. Raises as `pairs`."""
        if self.gallery is not None:
            return self.gallery(root, split)
        return [
            GalleryTile(pair.id, pair.aerial, pair.position) for pair in self.pairs(root, split)
        ]


DATASETS = {
    "cvact": Dataset(
        cvact.pairs,
        mark="ANU_data_*",  # not the table, which is often put into one of these folders
        held_out={"train": "val"},
        splits={"train": 35_532, "val": 8_884, "test": 92_802},
        street_size=(832, 1664),
        aerial_size=cvact.AERIAL_SIZE,
    ),
    "cvusa": Dataset(
        cvusa.pairs,
        mark="splits/*-19zl.csv",
        held_out={"train": "val"},
        splits={"train": 35_532, "val": 8_884},
        street_size=(224, 1232),
        aerial_size=cvusa.AERIAL_SIZE,
    ),
    "folder": Dataset(
        own_pairs.pairs,
        mark=own_pairs.TABLE,
        held_out={"train": "val"},
        named_splits=own_pairs.splits,
        gallery=own_pairs.gallery,
    ),
    "town": Dataset(
        town_folder.pairs,
        mark=town_folder.TABLE,
        held_out={"all": "all"},  # but of another town
    ),
    "vigor": Dataset(
        vigor.pairs,
        mark="*/*/satellite_list.txt",
        held_out={"same-train": "same-test", "cross-train": "cross-test"},
        splits={
            "same-train": 52_609,
            "same-test": 52_605,
            "cross-train": 51_520,
            "cross-test": 53_694,
        },
        gallery=vigor.gallery,
        street_size=(1024, 2048),
        aerial_size=vigor.AERIAL_SIZE,
    ),
}


@dataclass(frozen=True)
class Listing:
    """The pairs that a split lists, and the absent ones of their images."""

    pairs: Sequence[Pair]
    absent: Collection[Path]

    @property
    def present(self) -> list[Pair]:
        """The pairs whose images both exist."""
        gone = self.absent
        return [p for p in self.pairs if p.street not in gone and p.aerial.path not in gone]


def find(name: str) -> Dataset:
    """The dataset of that name. Raises PairError."""
    if name not in DATASETS:
        raise PairError(f"dataset {name!r} is unknown; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def default_splits(name: str, training: str | None = None) -> tuple[str, str]:
    """The split to train on, unless given, and the split to measure with. Raises PairError."""
    held_out = find(name).held_out
    first = next(iter(held_out))
    return training or first, held_out.get(training or first, held_out[first])


def list_splits(name: str, root: Path) -> Sequence[str]:
    """The splits that partition a dataset. Raises PairError."""
    dataset = find(name)
    named = dataset.named_splits
    if named is None:
        return list(dataset.splits) or ["all"]
    return _listed(name, root, "all", lambda folder, _: named(folder)) or ["all"]


def listing(name: str, root: Path, split: str) -> Listing:
    """The pairs that a dataset's split lists, and their absent images.

    Raises:
        PairError: unknown dataset or split, or the folder is not that dataset.
    """
    pairs = _listed(name, root, split, find(name).pairs)
    files = [file for pair in pairs for file in (pair.street, pair.aerial.path)]
    return Listing(pairs, absent_files(files))


def list_gallery(name: str, root: Path, split: str) -> Sequence[GalleryTile]:
    """The gallery of a split, as listed. Raises PairError as `listing`."""
    return _listed(name, root, split, find(name).list_gallery)


def load(name: str, root: Path, split: str) -> Sequence[Pair]:
    """The pairs of a dataset's split whose images both exist; the others are counted in the log.

    Raises:
        PairError: unknown dataset or split, the folder is not that dataset, or no pair exists.
    """
    listed = listing(name, root, split)
    present = listed.present
    where = f"{name} at {root}, split {split!r}"
    _check_present(where, "pairs", len(listed.pairs), len(present), listed.absent)
    return present


def warn_of_overlap(training: Sequence[Pair], held_out: Sequence[Pair]) -> None:
    """Log how many ids are among both the training pairs and the pairs to measure with."""
    known = {pair.id for pair in training}
    shared = [pair.id for pair in held_out if pair.id in known]
    if shared:
        log.warning(
            "%d of %d pairs to measure with have the id of a training pair, such as %s: if they "
            "are the same pairs, the results are too good",
            len(shared), len(held_out), shared[0],
        )  # fmt: skip


def load_gallery(name: str, root: Path, split: str) -> Sequence[GalleryTile]:
    """The existing tiles of a split's gallery, including tiles without a street.

    A pair's `tile_id` and `semi_positives` are ids of these tiles. Absent tiles are logged.

    Raises:
        PairError: as `load`.
    """
    listed = list_gallery(name, root, split)
    absent = absent_files([tile.aerial.path for tile in listed])
    present = [tile for tile in listed if tile.aerial.path not in absent]
    where = f"{name} at {root}, split {split!r}"
    _check_present(where, "tiles", len(listed), len(present), absent)
    return present


def absent_files(files: Sequence[Path]) -> frozenset[Path]:
    """The files that do not exist. Lists each folder once instead of asking for each file."""
    names = {
        parent: frozenset(os.listdir(parent)) if parent.is_dir() else frozenset()
        for parent in {file.parent for file in files}
    }
    return frozenset(file for file in files if file.name not in names[file.parent])


def _listed(
    name: str, root: Path, split: str, lists: Callable[[Path, str], Sequence[Listed]]
) -> Sequence[Listed]:
    splits = DATASETS[name].splits
    if splits and split not in (*splits, "all"):
        raise PairError(f"{name} has the splits {', '.join(splits)} and all, not {split!r}")
    try:
        return lists(root, split)
    except PairError as error:
        likely = [key for key, other in DATASETS.items() if any(root.glob(other.mark))]
        if name in likely:
            raise
        hint = f"; {root} looks like {' or '.join(likely)}" if likely else _nearby(name, root)
        raise PairError(f"{error}{hint}") from error
    except ValueError as error:  # bytes that are not text, words that are not numbers
        raise PairError(f"a list of {name} at {root} cannot be read: {error}") from error


def _nearby(name: str, root: Path) -> str:
    """The folder that looks like the dataset: above `root`, or up to two folders below."""
    for folder in chain([root.parent], root.glob("*/"), root.glob("*/*/")):
        if any(folder.glob(DATASETS[name].mark)):
            return f"; {folder} looks like {name}: give that folder"
    return ""


def _check_present(
    where: str, kind: str, listed: int, present: int, absent: Collection[Path]
) -> None:
    """Log absent images. Raises PairError if nothing is left."""
    if not listed:
        raise PairError(f"{where}: it lists no {kind}")
    if not absent:
        return
    first = min(absent, key=str)
    if not present:
        raise PairError(f"{where}: none of the {listed} {kind} exists; first absent: {first}")
    log.warning(
        "%s: %d of %d %s lack an image; first absent: %s",
        where, listed - present, listed, kind, first,
    )  # fmt: skip
