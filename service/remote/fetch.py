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
from service.remote import tile_services
from service.remote.http_client import Client, NoImagery, RemoteError, shown
from service.remote.imagery_copy import ImageryCopy, Progress
from service.remote.map_tile_copy import map_tile_copy
from service.remote.raster_copy import raster_copy
from service.remote.remote_raster import RemoteRaster
from service.remote.stac import Stac
from service.remote.tile_services import TileService

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
DIGEST = 8  # characters of a folder's name
DONE = "metadata.json"  # written last; a folder of map tiles has such a file anyway


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    address: a URL, or the path of a STAC document.
    area: all ground that its tiles show.
    pixel_m: the width of a pixel that the encoder reads, from which the zoom follows.
    max_requests: more are refused.
    rate, headers, backoff_s: see `Client`.
    """

    address: str
    area: Area | None
    pixel_m: float
    rate: float
    max_requests: int
    headers: Mapping[str, str] = field(default_factory=dict)
    zoom: int | None = None
    layer: str | None = None
    asset: str | None = None
    backoff_s: float = 1.0


@dataclass(frozen=True)
class Fetch:
    """A fetch that may begin. `folder` holds the imagery once `run` has returned."""

    name: str
    folder: Path
    copy: ImageryCopy
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
                self.copy.write(self.folder, progress)
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
    path = Path(parts.path)
    if path.suffix.lower() not in (".tif", ".tiff", ".json"):
        path = Path("-".join(filter(None, (parts.hostname, layer))).replace(".", "-"))
    return source_name(path, name)


def _copy(wanted: Wanted) -> ImageryCopy:
    url, area = wanted.address.replace("%7B", "{").replace("%7D", "}"), wanted.area
    template = TileService(url) if tile_services.TEMPLATE.search(url) else None
    url = template.address(0, 0, 0) if template else tile_services.capabilities_url(url)
    client = Client(url, wanted.rate, wanted.headers, wanted.backoff_s)
    try:
        found = template or _found(client, url, wanted)
    except (LookupError, TypeError, ValueError, AttributeError, SyntaxError) as error:
        raise RemoteError(f"{shown(url)} breaks its own standard: {error!r}") from error
    if not isinstance(found, TileService):
        return raster_copy(found, area)
    if area is None:
        raise RemoteError(f"{shown(wanted.address)} has no end: give --bbox or --area")
    return map_tile_copy(client, found, area, wanted.zoom, wanted.pixel_m)


def _found(client: Client, url: str, wanted: Wanted) -> TileService | list[RemoteRaster]:
    """What lies at an address, as its content says."""
    file = RemoteRaster(client, url, source_name(Path(urlsplit(url).path), None))
    body = file.start.body
    if body.startswith(TIFF):
        return [file]
    if file.size > len(body):
        body = client.get(url).body
    body = body.strip()
    if body.startswith(b"{"):
        document = json.loads(body)
        if "tiles" in document:
            return tile_services.tile_json(url, document)
        return Stac(client, url, wanted.asset).rasters(document, wanted.area)
    if body.startswith(b"<") and b"<html" not in body[:1000].lower():
        return tile_services.described_service(url, body, wanted.layer)
    raise RemoteError(
        f"{shown(url)} begins with {body[:80].decode('utf-8', 'replace')!r}: that is no GeoTIFF, "
        "STAC, TileJSON, WMS or WMTS; a template of map tiles has {z}, {x} and {y}"
    )
