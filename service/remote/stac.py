"""STAC: the rasters that an item, the result of a search, or a collection names.

Plain JSON is enough: pystac and pystac-client would bring an HTTP client without our rate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import shapely

from service.imagery.area import Area
from service.remote.http_client import Client, RemoteError, shown
from service.remote.range_file import RangeFile
from service.remote.raster_copy import Sheet

Json = Mapping[str, Any]

VISUAL = ("visual", "rgb", "ortho", "orthophoto", "image", "data")  # names of assets
FOLLOWED = {"FeatureCollection": ("next",), "Collection": ("items", "item")}
MAX_PAGES = 200  # also of items that a collection names one by one
MAX_ITEMS = 500


class Stac:
    """Documents, from a first one on.

    base: the first document's URL or file; only beside a file are local rasters opened.
    asset: the name of the asset to take; None: a visual asset, or the only raster.
    """

    def __init__(self, client: Client, base: str, asset: str | None = None) -> None:
        self._client, self._base, self._asset = client, base, asset
        self._document = cache(lambda url: parsed(url, read(client, url)))

    def sheets(self, document: Json, area: Area | None) -> list[Sheet]:
        """One raster of each item that the area touches, in the documents' order.

        Raises:
            RemoteError: no item, too many, or an item whose raster cannot be chosen or fetched.
        """
        items = [(at, item) for at, item in self._items(document) if _touches(area, item)]
        if not 1 <= len(items) <= MAX_ITEMS:
            raise RemoteError(
                f"{shown(self._base)} names {len(items)} items in the area: give an area with 1 "
                f"to {MAX_ITEMS}"
            )
        return [
            Sheet(
                re.sub(r"[^A-Za-z0-9._-]+", "-", f"{number:03d}-{item.get('id')}")[:100],
                self._raster(at, item),
                *self._credit(at, item),
            )
            for number, (at, item) in enumerate(items)
        ]

    def _items(self, document: Json) -> Iterator[tuple[str, Json]]:
        """(address of its document, item): of all pages and linked documents."""
        waiting, pages = [(self._base, document)], 0
        while waiting:
            at, page = waiting.pop(0)
            pages += 1
            if pages > MAX_PAGES:
                raise RemoteError(f"{shown(at)}: more than {MAX_PAGES} pages: give a smaller area")
            kind = str(page.get("type"))
            yield from ((at, item) for item in page.get("features", [page] * (kind == "Feature")))
            for link in page.get("links", ()):
                if link.get("rel") in FOLLOWED.get(kind, ()):
                    if link.get("method", "GET") != "GET":
                        raise RemoteError(f"{shown(at)}: its next page wants POST: search by GET")
                    url = self._address(at, link)
                    waiting.append((url, self._document(url)))

    def _address(self, at: str, link: Json) -> str:
        """The URL that a document at `at` names; beside a local document, a path."""
        url = urljoin(at, str(link["href"]))
        if urlsplit(url).scheme not in ("http", "https") and urlsplit(self._base).scheme:
            raise RemoteError(f"{shown(at)} names {url[:100]}: only http and https are fetched")
        return url

    def _raster(self, at: str, item: Json) -> RangeFile | Path:
        url = self._address(at, self._chosen(at, item))
        return RangeFile(self._client, url) if urlsplit(url).scheme else Path(url)

    def _chosen(self, at: str, item: Json) -> Json:
        """The asset that was asked for; else a visual asset; else the only GeoTIFF."""
        assets: Mapping[str, Json] = item.get("assets") or {}
        tiffs = {n: a for n, a in assets.items() if "tif" in f"{a.get('type')} {a['href']}".lower()}
        by_role = [name for name in tiffs if "visual" in (tiffs[name].get("roles") or ())]
        names = [
            *(name for name in VISUAL if name in tiffs),
            *by_role,
            *list(tiffs)[: len(tiffs) == 1],
        ]
        name = self._asset or next(iter(names), "")
        if name not in assets:
            raise RemoteError(
                f"{shown(at)}: item {item.get('id')} has no {name or 'single raster'}: give "
                f"--asset one of {', '.join(assets)}"
            )
        return assets[name]

    def _credit(self, at: str, item: Json) -> tuple[str, str]:
        """Licence and attribution, of the item or of its collection."""
        stated = item.get("properties") or {}
        links = [link for link in item.get("links", ()) if link.get("rel") == "collection"]
        if links and not {"license", "providers"} <= stated.keys():
            stated = {**self._document(self._address(at, links[0])), **stated}
        names = [str(provider.get("name")) for provider in stated.get("providers") or ()]
        return str(stated.get("license") or ""), ", ".join(names)


def read(client: Client, address: str) -> bytes:
    """The document at a URL or path. Raises RemoteError."""
    if urlsplit(address).scheme:
        return client.get(address).body
    try:
        return Path(address).read_bytes()
    except OSError as error:
        raise RemoteError(f"{address} cannot be read: {error.strerror}") from error


def parsed(address: str, body: bytes) -> Json:
    """A JSON object. Raises RemoteError."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise RemoteError(f"{shown(address)} is no JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise RemoteError(f"{shown(address)} holds no JSON object, so no STAC and no TileJSON")
    return document


def _touches(area: Area | None, item: Json) -> bool:
    """Whether the item's box lies partly in the area; True where either states none."""
    box = item.get("bbox")
    if area is None or not box:
        return True
    west, south = box[:2]
    east, north = box[len(box) // 2 :][:2]
    east += 360.0 * (west > east)
    return bool(area.touches(np.array([shapely.box(west, south, east, north)]))[0])
