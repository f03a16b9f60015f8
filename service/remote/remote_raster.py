"""A remote raster that GDAL reads as if it lay here: a block is fetched when it is first read.

Only GeoTIFF is opened: other formats may name more files, which GDAL would open.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from model.atomic_write import write_atomically
from service.remote.http_client import Answer, Client, RemoteError, identity, shown

BLOCK = 1 << 20  # bytes of a request: some twenty tiles of a COG, which lie side by side
BLOCKS_IN_MEMORY = 8
NAME = "remote.tif"  # what GDAL's messages show
ENVIRONMENT = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_TIFF_INTERNAL_MASK": True}


class RemoteRaster:
    """A raster at an address.

    name: of the file that it is copied to.
    credit: licence and attribution, as far as known beside the raster's own.
    start: the answer with its first bytes.
    blocks: a folder that keeps what is fetched for another run; None: nothing is kept.
    """

    def __init__(
        self, client: Client, url: str, name: str, credit: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Fetches the first block, or all of a small file where the server knows no ranges.

        Raises:
            RemoteError: the file cannot be read, or is too large without ranges.
        """
        self.url, self.name, self.credit = url, name, credit
        self.is_local = "://" not in url  # so that reading is no request, and nothing is kept twice
        self.blocks: Path | None = None
        self.start = client.get(url, (0, BLOCK - 1))
        total = _total(self.start)
        self.size = int(total) if total.isdigit() else len(self.start.body)
        self._client = client
        self.failure: BaseException | None = None  # GDAL swallows what a read raises
        self.block = lru_cache(BLOCKS_IN_MEMORY)(self._fetched)

    @property
    def identity(self) -> str:
        """A text that changes when the server states another content."""
        return f"{identity(self.url)} {_version(self.start)}"

    @contextmanager
    def open(self) -> Iterator[rasterio.DatasetReader]:
        """The raster, opened.

        Raises:
            RemoteError: no GeoTIFF, no georeference, or its server failed.
        """

        def opener(name: str, mode: str = "rb") -> _Handle:
            if name != NAME:
                raise FileNotFoundError(name)  # which GDAL looks for beside the raster
            return _Handle(self)

        try:
            with rasterio.Env(**ENVIRONMENT), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(NAME, driver="GTiff", opener=opener) as raster:
                    if raster.crs is None or raster.transform.is_identity:
                        raise RemoteError(
                            f"{shown(self.url)} does not say where on Earth it lies: download the "
                            "file, and assign a CRS and a transform, as by gdal_edit.py"
                        )
                    yield raster
        except (RasterioError, CPLE_BaseError) as error:
            problem = f"{shown(self.url)} is no GeoTIFF that can be read: {error}"
            raise self.failure or RemoteError(problem) from error
        if self.failure:
            raise self.failure

    def _fetched(self, number: int) -> bytes:
        first = number * BLOCK
        if first < len(self.start.body):
            return self.start.body[first : first + BLOCK]
        kept = self.blocks / f"{number:06d}" if self.blocks and not self.is_local else None
        if kept is not None and kept.exists():
            return kept.read_bytes()
        last = min(first + BLOCK, self.size) - 1
        answer = self._client.get(self.url, (first, last))
        if _version(answer) != _version(self.start):
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


def _total(answer: Answer) -> str:
    """The file's size, as a part of the file states it."""
    return answer.headers.get("content-range", "").partition("/")[2]


def _version(answer: Answer) -> str:
    stated = answer.headers.get("etag") or answer.headers.get("last-modified")
    return f"{stated} {_total(answer)}"


class _Handle(io.RawIOBase):
    """What rasterio's `opener` returns: a position in a raster's bytes."""

    def __init__(self, raster: RemoteRaster) -> None:
        self._raster, self._at = raster, 0

    def read(self, size: int = -1) -> bytes:
        """Fewer bytes than `size` only at the end, and none after a failure."""
        end = min(self._raster.size, self._at + size) if size >= 0 else self._raster.size
        found = bytearray()
        try:
            while self._at < end and not self._raster.failure:
                number, start = divmod(self._at, BLOCK)
                found += self._raster.block(number)[start : start + end - self._at]
                self._at = min(end, (number + 1) * BLOCK)
        except BaseException as error:  # Ctrl-C, too
            self._raster.failure = error
        return b"" if self._raster.failure else bytes(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._raster.size}
        self._at = origin[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at
