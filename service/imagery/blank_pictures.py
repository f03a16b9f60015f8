"""A service's picture for "no imagery here", found by its copies.

Bytes that stand for several places are no photograph of any of them: a blank picture, or ground of
one colour. Neither tells places apart, and an index of such tiles answers with all of them at once.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Copies of a picture in a level: fewer are not looked for, since every file would have to be read.
MIN_COPIES, MIN_SHARE = 4, 0.001
SAMPLES = 8  # files of one size that are compared


def repeated(
    files: Sequence[Any], size_of: Callable[[Any], int], read: Callable[[Any], bytes]
) -> Iterator[tuple[str, int, Any]]:
    """(digest, about how many copies, a copy) of each picture that stands for many places.

    Reads a few of the files whose size is shared by many.
    """
    by_size: dict[int, list[Any]] = defaultdict(list)
    for file in files:
        by_size[size_of(file)].append(file)
    least = max(MIN_COPIES, MIN_SHARE * len(files))
    for size, alike in by_size.items():
        if size and len(alike) >= least:
            some = alike[:: -(-len(alike) // SAMPLES)]
            digests = [digest_of(read(file)) for file in some]
            digest, copies = Counter(digests).most_common(1)[0]
            estimated = len(alike) * copies // len(some)
            if copies > 1 and estimated >= least:
                yield digest, estimated, some[digests.index(digest)]


def digest_of(data: bytes) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
