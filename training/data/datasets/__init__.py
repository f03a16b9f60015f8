"""Datasets, a small module each, all with the attributes of `Dataset`.

To add a dataset, write a module here and name it in `DATASETS`. A module returns the pairs that
the dataset's files list; this module finds out which of their images exist.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from training.data.datasets import cvact, cvusa, own_pairs, town_folder, vigor
from training.data.pairs import GalleryTile, Pair, PairError

log = logging.getLogger(__name__)

Listed = TypeVar("Listed")


class Dataset(Protocol):
    """The contents of a dataset's module.

    MARK: glob pattern of files that only this dataset has. SPLITS: the splits beside "all", with
    the published number of pairs; empty if the files name them. HELD_OUT: the split to measure
    with, by the split trained on; the first entry is the default. STREET_SIZE, AERIAL_SIZE:
    published (height, width); None: any.
    """

    @property
    def MARK(self) -> str: ...
    @property
    def SPLITS(self) -> Mapping[str, int]: ...
    @property
    def HELD_OUT(self) -> Mapping[str, str]: ...
    @property
    def STREET_SIZE(self) -> tuple[int, int] | None: ...
    @property
    def AERIAL_SIZE(self) -> tuple[int, int] | None: ...

    def splits(self, root: Path) -> Sequence[str]:
        """The splits beside "all"; "" for pairs without a split; empty if only "all" exists."""

    def pairs(self, root: Path, split: str) -> Sequence[Pair]:
        """All listed pairs, even if images are absent. Raises PairError, ValueError (`lists`)."""

    def gallery(self, root: Path, split: str) -> Sequence[GalleryTile]:
        """The whole gallery of the split, even if images are absent. Raises PairError."""


DATASETS: dict[str, Dataset] = {
    "cvact": cvact,
    "cvusa": cvusa,
    "folder": own_pairs,
    "town": town_folder,
    "vigor": vigor,
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
    held_out = find(name).HELD_OUT
    first = next(iter(held_out))
    return training or first, held_out.get(training or first, held_out[first])


def list_splits(name: str, root: Path) -> Sequence[str]:
    """The splits that partition a dataset. Raises PairError."""
    dataset = find(name)
    return _listed(name, root, "all", lambda folder, _: dataset.splits(folder)) or ["all"]


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
    return _listed(name, root, split, find(name).gallery)


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
    splits = DATASETS[name].SPLITS
    if splits and split not in (*splits, "all"):
        raise PairError(f"{name} has the splits {', '.join(splits)} and all, not {split!r}")
    try:
        return lists(root, split)
    except PairError as error:
        likely = [key for key, other in DATASETS.items() if any(root.glob(other.MARK))]
        if not likely or name in likely:
            raise
        raise PairError(f"{error}; {root} looks like {' or '.join(likely)}") from error
    except ValueError as error:  # bytes that are not text, words that are not numbers
        raise PairError(f"a list of {name} at {root} cannot be read: {error}") from error


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
