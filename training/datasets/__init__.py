"""Datasets, one small file each: `load(root, split)` gives its pairs.

Adding one: a module here with that function, and its name below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from training.datasets import cvusa, folder, town
from training.pairs import Pair, PairError

Load = Callable[[Path, str], Sequence[Pair]]
DATASETS: dict[str, Load] = {"cvusa": cvusa.load, "folder": folder.load, "town": town.load}


def load(name: str, root: Path, split: str) -> Sequence[Pair]:
    """The pairs of a dataset's split.

    Raises:
        PairError: unknown dataset, or the folder is not one.
    """
    if name not in DATASETS:
        raise PairError(f"dataset {name!r} is unknown; known: {', '.join(DATASETS)}")
    pairs = DATASETS[name](root, split)
    if not pairs:
        raise PairError(f"{name} at {root} has no pair in split {split!r}")
    return pairs
