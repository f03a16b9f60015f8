"""Datasets, one small file each, all with the attributes of `Dataset`.

Adding one: a module here, and its name below. A module lists what its files promise; what of it
is there is found out here, once for all of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from training.data.datasets import cvact, cvusa, town, vigor
from training.data.datasets import own_pairs as folder
from training.data.pairs import Pair, PairError, Reference

log = logging.getLogger(__name__)

Listed = TypeVar("Listed")


class Dataset(Protocol):
    """What a module of this package offers.

    MARK: glob pattern of files that only this dataset has. SPLITS: its splits beside "all", with
    the number of pairs each officially lists; empty where the files name them. HELD_OUT: the
    split to measure with, by the one trained on; the first are the defaults. STREET_SIZE,
    AERIAL_SIZE: official (height, width); None where any will do.
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
        """Its splits beside "all", "" for pairs of none; empty where "all" is the only one."""

    def pairs(self, root: Path, split: str) -> Sequence[Pair]:
        """All listed pairs, their images there or not. Raises PairError, and what `lists` does."""

    def references(self, root: Path, split: str) -> Sequence[Reference]:
        """The whole gallery that the split is searched in, listed likewise. Raises PairError."""


DATASETS: dict[str, Dataset] = {
    "cvact": cvact,
    "cvusa": cvusa,
    "folder": folder,
    "town": town,
    "vigor": vigor,
}


@dataclass(frozen=True)
class Listing:
    """The pairs that a split lists, and which of their images are absent."""

    pairs: Sequence[Pair]
    absent: Collection[Path]

    @property
    def present(self) -> list[Pair]:
        """The pairs of which both images are there."""
        gone = self.absent
        return [p for p in self.pairs if p.street not in gone and p.aerial.path not in gone]


def find(name: str) -> Dataset:
    """The dataset of that name. Raises PairError."""
    if name not in DATASETS:
        raise PairError(f"dataset {name!r} is unknown; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def default_splits(name: str, training: str | None = None) -> tuple[str, str]:
    """The split to train on, unless given, and the one to measure with. Raises PairError."""
    held_out = find(name).HELD_OUT
    first = next(iter(held_out))
    return training or first, held_out.get(training or first, held_out[first])


def list_splits(name: str, root: Path) -> Sequence[str]:
    """The splits that make up a dataset, each pair in one of them. Raises PairError."""
    dataset = find(name)
    return _listed(name, root, "all", lambda folder, _: dataset.splits(folder)) or ["all"]


def listing(name: str, root: Path, split: str) -> Listing:
    """What a dataset's split lists, and what of it is absent.

    Raises:
        PairError: unknown dataset or split, or the folder is not that dataset.
    """
    pairs = _listed(name, root, split, find(name).pairs)
    files = [file for pair in pairs for file in (pair.street, pair.aerial.path)]
    return Listing(pairs, absent_files(files))


def list_references(name: str, root: Path, split: str) -> Sequence[Reference]:
    """The tiles that a split is searched in, as listed. Raises PairError as `listing`."""
    return _listed(name, root, split, find(name).references)


def load(name: str, root: Path, split: str) -> Sequence[Pair]:
    """The pairs of a dataset's split of which both images are there; absent ones are logged.

    Raises:
        PairError: unknown dataset or split, the folder is not that dataset, or no pair is there.
    """
    listed = listing(name, root, split)
    present = listed.present
    where = f"{name} at {root}, split {split!r}"
    _report(where, "pairs", len(listed.pairs), len(present), listed.absent)
    return present


def warn_of_overlap(training: Sequence[Pair], held_out: Sequence[Pair]) -> None:
    """Log how many pairs are both trained on and measured with, by their ids."""
    known = {pair.id for pair in training}
    shared = [pair.id for pair in held_out if pair.id in known]
    if shared:
        log.warning(
            "%d of %d pairs to measure with have the id of a training pair, as %s: where they are "
            "the same, the figures are of what was learnt by heart",
            len(shared), len(held_out), shared[0],
        )  # fmt: skip


def load_references(name: str, root: Path, split: str) -> Sequence[Reference]:
    """The tiles that a split is searched in, those without a street among them.

    A pair's `tile_id` and `semi_positives` are ids of these. Absent tiles are logged.

    Raises:
        PairError: as `load`.
    """
    listed = list_references(name, root, split)
    absent = absent_files([one.aerial.path for one in listed])
    present = [one for one in listed if one.aerial.path not in absent]
    where = f"{name} at {root}, split {split!r}"
    _report(where, "tiles", len(listed), len(present), absent)
    return present


def absent_files(files: Sequence[Path]) -> frozenset[Path]:
    """Those of the files that are not there. Asks once for each folder, not for each file."""
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
        likely = [key for key, one in DATASETS.items() if any(root.glob(one.MARK))]
        if not likely or name in likely:
            raise
        raise PairError(f"{error}; {root} looks like {' or '.join(likely)}") from error
    except ValueError as error:  # other bytes than text, words for numbers
        raise PairError(f"a list of {name} at {root} cannot be read: {error}") from error


def _report(where: str, kind: str, listed: int, present: int, absent: Collection[Path]) -> None:
    if not listed:
        raise PairError(f"{where}: it lists no {kind}")
    if not absent:
        return
    first = min(absent, key=str)
    if not present:
        raise PairError(f"{where}: none of the {listed} {kind} is there; first absent: {first}")
    log.warning(
        "%s: %d of %d %s lack an image; first absent: %s",
        where, listed - present, listed, kind, first,
    )  # fmt: skip
