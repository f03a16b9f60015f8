"""STAC: the rasters that an item, the result of a search, or a collection names.

Plain JSON is enough: pystac and pystac-client would bring an HTTP client without our rate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urljoin

import numpy as np
import shapely

from service.imagery.area import Area
from service.remote.http_client import Client, RemoteError, shown
from service.remote.remote_raster import RemoteRaster

Json = Mapping[str, Any]

VISUAL = ("visual", "rgb", "ortho", "orthophoto", "image", "data")  # names of assets
FOLLOWED = {"FeatureCollection": ("next",), "Collection": ("items", "item")}
MAX_PAGES = 200  # also of items that a collection names one by one
MAX_ITEMS = 500


class Stac:
    """Documents, from a first one on.

    base: the first document's URL or path.
    asset: the name of the asset to take; None: a visual asset, or the only raster.
    """

    def __init__(self, client: Client, base: str, asset: str | None = None) -> None:
        self._client, self._base, self._asset = client, base, asset
        self._document = cache(lambda url: json.loads(client.get(url).body))

    def rasters(self, document: Json, area: Area | None) -> list[RemoteRaster]:
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
        found = []
        for number, (at, item) in enumerate(items):
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{number:03d}-{item.get('id')}")[:100]
            url = urljoin(at, self._chosen(at, item)["href"])
            found.append(RemoteRaster(self._client, url, name, self._credit(at, item)))
        return found

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
                    url = urljoin(at, link["href"])
                    waiting.append((url, self._document(url)))

    def _chosen(self, at: str, item: Json) -> Json:
        """The asset that was asked for; else a visual asset; else the only GeoTIFF."""
        assets: Mapping[str, Json] = item.get("assets") or {}
        tiffs = {n: a for n, a in assets.items() if "tif" in f"{a.get('type')} {a['href']}".lower()}
        by_name = [name for name in VISUAL if name in tiffs]
        by_role = [name for name in tiffs if "visual" in (tiffs[name].get("roles") or ())]
        only = list(tiffs) if len(tiffs) == 1 else []
        name = self._asset or next(iter(by_name + by_role + only), "")
        if name not in assets:
            raise RemoteError(
                f"{shown(at)}: item {item.get('id')} has no {name or 'single raster'}: give "
                f"--asset one of {', '.join(assets)}"
            )
        return assets[name]

    def _credit(self, at: str, item: Json) -> dict[str, str]:
        """Licence and attribution, of the item or of its collection, as far as stated."""
        stated = item.get("properties") or {}
        links = [link for link in item.get("links", ()) if link.get("rel") == "collection"]
        if links and not {"license", "providers"} <= stated.keys():
            stated = {**self._document(urljoin(at, links[0]["href"])), **stated}
        names = [str(provider.get("name")) for provider in stated.get("providers") or ()]
        credit = {"licence": stated.get("license"), "attribution": ", ".join(names)}
        return {name: str(text) for name, text in credit.items() if text}


def _touches(area: Area | None, item: Json) -> bool:
    """Whether the item's box lies partly in the area; True where either states none."""
    box = item.get("bbox")
    if area is None or not box:
        return True
    west, south = box[:2]
    east, north = box[len(box) // 2 :][:2]
    east += 360.0 * (west > east)
    return bool(area.touches(np.array([shapely.box(west, south, east, north)]))[0])
