"""From a URL to a local folder of imagery: what is there, how much of it is wanted, and the copy.

The folder's name ends in a digest of all that was asked for. So the same command goes on where it
stopped, and another area, zoom or content has another folder: the catalogued one stays as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from model.atomic_write import write_atomically
from service.imagery.area import Area
from service.imagery.source import source_name
from service.remote import stac
from service.remote import tile_services as services
from service.remote.http_client import RATE, Client, NoImagery, RemoteError, shown
from service.remote.map_tile_copy import MapTileCopy, Progress
from service.remote.range_file import RangeFile
from service.remote.raster_copy import RasterCopy, Sheet

MAX_REQUESTS = 20_000  # at four a second, 83 minutes
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
DIGEST = 8  # characters of a folder's name
DONE = "metadata.json"  # written last; a folder of map tiles has such a file anyway


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    address: a URL, or the path of a STAC document.
    margin_m: ground around the area that is fetched, too: tiles at its edge show it.
    pixel_m: the width of a pixel that the encoder reads, from which the zoom follows.
    headers: sent to the address's host alone, and stored nowhere.
    max_requests: more are refused.
    backoff_s: about how long to wait for a third try; each later wait is twice as long.
    """

    address: str
    area: Area | None
    margin_m: float
    pixel_m: float
    zoom: int | None = None
    layer: str | None = None
    asset: str | None = None
    rate: float = RATE
    headers: Mapping[str, str] = field(default_factory=dict)
    max_requests: int = MAX_REQUESTS
    backoff_s: float = 1.0


@dataclass(frozen=True)
class Fetch:
    """A fetch that may begin. `folder` holds the imagery once `run` has returned."""

    name: str
    folder: Path
    copy: MapTileCopy | RasterCopy
    summary: str

    @classmethod
    def of(cls, home: Path, wanted: Wanted, name: str) -> Fetch:
        """Asks what is there, for the source `name`.

        Raises:
            RemoteError: nothing usable, no area where one is needed, or too many requests.
        """
        copy = _copy(wanted)
        duration = timedelta(seconds=round(copy.requests / wanted.rate))
        summary = f"{copy.summary}: {copy.requests} requests in {duration} or more"
        if copy.requests > wanted.max_requests:
            raise RemoteError(
                f"{summary}: give a smaller area or --zoom, or --max-requests {copy.requests}"
            )
        digest = hashlib.sha256(copy.identity.encode()).hexdigest()[:DIGEST]
        return cls(name, home / "imagery" / f"{name}-{digest}", copy, summary)

    @property
    def done(self) -> bool:
        """Whether an earlier run has fetched all of it."""
        return (self.folder / DONE).exists()

    def run(self, progress: Progress) -> None:
        """Fetches whatever the folder lacks.

        Raises:
            RemoteError: a request failed; what came before is kept. NoImagery: see there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.copy.run(self.folder, progress)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            stated = {**self.copy.stated, "name": self.name, "fetched_at": now}
            write_atomically(self.folder / DONE, json.dumps(stated, indent=1).encode())
        except NoImagery:
            shutil.rmtree(self.folder)
            raise
        except BlockingIOError as error:
            raise RemoteError(f"another process fetches to {self.folder}: wait for it") from error
        except OSError as error:
            raise RemoteError(f"{self.folder} cannot be written: {error}") from error

    def remove_former(self, used: Collection[str]) -> None:
        """Deletes the folders of former fetches under this name, except those in use."""
        former = re.compile(re.escape(self.name) + f"-[0-9a-f]{{{DIGEST}}}")
        for folder in self.folder.parent.iterdir():
            if former.fullmatch(folder.name) and str(folder.resolve()) not in used:
                shutil.rmtree(folder)


def is_remote(text: str) -> bool:
    """Whether imagery has to be fetched: it has a URL, or a local STAC document names it."""
    return "://" in text or text.endswith(".json")


def name_of(address: str, name: str | None, layer: str | None) -> str:
    """The given name of the source; else the file's, or the host's and the layer's.

    Raises:
        SourceError: see `source_name`.
    """
    parts = urlsplit(address)
    if Path(parts.path).suffix.lower() in (".tif", ".tiff", ".json"):
        return source_name(Path(parts.path), name)
    return source_name(
        Path("-".join(filter(None, (parts.hostname, layer))).replace(".", "-")), name
    )


def _copy(wanted: Wanted) -> MapTileCopy | RasterCopy:
    area = wanted.area.grown(wanted.margin_m) if wanted.area else None
    url = wanted.address.replace("%7B", "{").replace("%7D", "}")
    found: services.TileService | list[Sheet]
    if services.TEMPLATE.search(url):
        found = services.TileService(url)
        client = Client(found.address(0, 0, 0), wanted.rate, wanted.headers, wanted.backoff_s)
    else:
        url = services.capabilities_url(url)
        client = Client(url, wanted.rate, wanted.headers, wanted.backoff_s)
        try:
            found = _found(client, url, wanted, area)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise RemoteError(f"{shown(url)} breaks its own standard: {error!r}") from error
    if isinstance(found, list):
        return RasterCopy.of(found, area)
    if area is None:
        raise RemoteError(f"{shown(url)} has no end: give --bbox or --area")
    return MapTileCopy.of(client, found, area, wanted.zoom, wanted.pixel_m)


def _found(
    client: Client, url: str, wanted: Wanted, area: Area | None
) -> services.TileService | list[Sheet]:
    """What lies at an address, as its content says."""
    if urlsplit(url).scheme:
        file = RangeFile(client, url)
        body = file.start.body
        if body.startswith(TIFF):
            return [Sheet(source_name(Path(urlsplit(url).path), None), file)]
        if file.size > len(body):
            body = stac.read(client, url)
    else:
        body = stac.read(client, url)
    body = body.strip()
    if body.startswith(b"{"):
        document = stac.parsed(url, body)
        if "tiles" in document:
            return services.tile_json(url, document)
        return stac.Stac(client, url, wanted.asset).sheets(document, area)
    if body.startswith(b"<") and b"<html" not in body[:1000].lower():
        return services.described_service(url, body, wanted.layer)
    raise RemoteError(
        f"{shown(url)} begins with {body[:80].decode('utf-8', 'replace')!r}: that is no GeoTIFF, "
        "STAC, TileJSON, WMS or WMTS; a template of map tiles has {z}, {x} and {y}"
    )
