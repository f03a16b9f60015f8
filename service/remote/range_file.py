"""A remote file that GDAL reads as if it lay here: a block is fetched when it is first read."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path

from model.atomic_write import write_atomically
from service.remote.http_client import Answer, Client, RemoteError, identity, shown

BLOCK = 1 << 20  # bytes of a request: some twenty tiles of a COG, which lie side by side
BLOCKS_IN_MEMORY = 8
TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


class RangeFile:
    """A file on a server.

    start: the answer with its first bytes.
    blocks: a folder that keeps what is fetched for another run; None: nothing is kept.
    failure: what a read raised. GDAL swallows it, so it is kept here.
    """

    NAME = "remote.tif"  # what GDAL's messages show

    def __init__(self, client: Client, url: str) -> None:
        """Fetches the first block, or all of a small file where the server knows no ranges.

        Raises:
            RemoteError: the file cannot be read, or is too large without ranges.
        """
        self.url, self._client = url, client
        self.blocks: Path | None = None
        self.failure: BaseException | None = None
        self.start = client.get(url, (0, BLOCK - 1))
        total = TOTAL.match(self.start.headers.get("content-range", ""))
        self.size = int(total[1]) if total else len(self.start.body)
        self._block = lru_cache(BLOCKS_IN_MEMORY)(self._fetched)

    @property
    def identity(self) -> str:
        """A text that changes when the server states another content."""
        return f"{identity(self.url)} {self._version(self.start)}"

    def open(self, name: str, mode: str = "rb") -> Handle:
        """A handle at the first byte: rasterio's `opener`.

        Raises:
            FileNotFoundError: `name` is not NAME, but a file that GDAL looks for beside it.
        """
        if name != self.NAME:
            raise FileNotFoundError(name)
        return Handle(self)

    def read(self, at: int, size: int) -> bytes:
        """Bytes from `at` on; fewer than `size` only at the end, and none after a failure."""
        found = bytearray()
        try:
            while len(found) < size and at < self.size and not self.failure:
                number, start = divmod(at, BLOCK)
                part = self._block(number)[start : start + size - len(found)]
                found += part
                at += len(part)
        except BaseException as error:  # Ctrl-C, too
            self.failure = error
        return b"" if self.failure else bytes(found)

    def _fetched(self, number: int) -> bytes:
        first = number * BLOCK
        if first < len(self.start.body):
            return self.start.body[first : first + BLOCK]
        kept = self.blocks / f"{number:06d}" if self.blocks else None
        if kept is not None and kept.exists():
            return kept.read_bytes()
        last = min(first + BLOCK, self.size) - 1
        answer = self._client.get(self.url, (first, last))
        if self._version(answer) != self._version(self.start):
            raise RemoteError(f"{shown(self.url)} has changed while it was fetched: fetch again")
        if answer.status != 206 or len(answer.body) != last - first + 1:
            raise RemoteError(
                f"{shown(self.url)} sent {len(answer.body)} bytes for {last - first + 1} from "
                f"{first} on: download the file, and ingest it"
            )
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, answer.body)
        return answer.body

    @staticmethod
    def _version(answer: Answer) -> str:
        total = answer.headers.get("content-range", "").partition("/")[2]
        return f"{answer.headers.get('etag') or answer.headers.get('last-modified')} {total}"


class Handle(io.RawIOBase):
    """What rasterio's `opener` returns: a position in a RangeFile."""

    def __init__(self, file: RangeFile) -> None:
        self._file, self._at = file, 0

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(self._at, size if size >= 0 else self._file.size)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}
        self._at = origin[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at
