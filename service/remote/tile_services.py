"""Services of map tiles in Web Mercator: URL templates, TileJSON, WMTS and WMS.

Each becomes a template, whose placeholders are filled in for one map tile. A WMS is asked for the
ground of one map tile at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit
from xml.etree.ElementTree import Element

from defusedxml import ElementTree

from model.geo import EQUATORIAL_RADIUS_M
from service.remote.http_client import PLAIN, RemoteError, shown

PLACEHOLDER = re.compile(r"\$?\{([^{}]+)\}")
TEMPLATE = re.compile(r"\{(x|TileCol|q|quadkey|bbox-epsg-3857)\}")  # what makes a URL a template
HALF_WORLD_M = math.pi * EQUATORIAL_RADIUS_M
PIXEL_M = 0.28e-3  # the pixel that WMTS's scales are stated for
MERCATOR = re.compile(r"\b(3857|900913|102100|102113)\b")
FORMATS = ("image/png", "image/webp", "image/jpeg", "image/jpgpng")  # PNG shows holes in imagery
WMS_SIDE = 512
DEEPEST = 22  # zoom, where a service states none


@dataclass(frozen=True)
class TileService:
    """A template of URLs, and what the service says of its map tiles.

    levels: the service's name of each zoom.
    credit: licence and attribution, as far as stated.
    """

    template: str
    side: int = 256
    levels: Mapping[int, str] = field(default_factory=lambda: _numbered(DEEPEST))
    credit: Mapping[str, str] = field(default_factory=dict)

    def address(self, zoom: int, column: int, row: int) -> str:
        """The URL of a map tile; rows count from the north.

        Raises:
            RemoteError: the template holds an unknown placeholder.
        """
        side, width_m = 1 << zoom, 2.0 * HALF_WORLD_M / (1 << zoom)
        west, north = column * width_m - HALF_WORLD_M, HALF_WORLD_M - row * width_m
        level = self.levels.get(zoom, "")
        quadkey = f"{int(f'{row:b}') * 2 + int(f'{column:b}'):0{zoom}}"
        values = {
            **dict.fromkeys(("z", "zoom", "TileMatrix"), level),
            **dict.fromkeys(("x", "TileCol"), str(column)),
            **dict.fromkeys(("y", "TileRow"), str(row)),
            **dict.fromkeys(("q", "quadkey"), quadkey),
            "-y": str(side - 1 - row),
            "bbox-epsg-3857": f"{west:.6f},{north - width_m:.6f},{west + width_m:.6f},{north:.6f}",
            "s": "a",
            "r": "",
        }

        def value(found: re.Match[str]) -> str:
            name, _, choices = found[1].partition(":")
            known: dict[str, str] = values | {"switch": choices.partition(",")[0]}
            if name not in known:
                raise RemoteError(f"{shown(self.template)}: known are {{{'}, {'.join(known)}}}")
            return known[name]

        return PLACEHOLDER.sub(value, self.template)


def tile_json(url: str, document: Mapping[str, Any]) -> TileService:
    """The service of a TileJSON document."""
    template = urljoin(url, document["tiles"][0])
    if document.get("scheme") == "tms":
        template = template.replace("{y}", "{-y}")
    return TileService(
        template,
        levels=_numbered(int(document.get("maxzoom", DEEPEST))),
        credit={"attribution": re.sub(r"<[^>]*>", "", document.get("attribution") or "")},
    )


def _numbered(deepest: int) -> dict[int, str]:
    return {zoom: str(zoom) for zoom in range(deepest + 1)}


def _parameters(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def _address(url: str, parameters: Mapping[str, str]) -> str:
    """The URL with these parameters, and its own that a standard does not name."""
    own = {name: value for name, value in _parameters(url).items() if name.lower() not in PLAIN}
    query = urlencode(own | dict(parameters), quote_via=quote, safe="{},:/;")
    return urlsplit(url)._replace(query=query).geturl()


def capabilities_url(url: str) -> str:
    """The address of a WMS's or WMTS's capabilities, from any of its addresses."""
    service = {n.lower(): value for n, value in _parameters(url).items()}.get("service", "")
    if service.upper() not in ("WMS", "WMTS"):
        return url
    return _address(url, {"service": service, "request": "GetCapabilities"})


def described_service(url: str, capabilities: bytes, layer: str | None) -> TileService:
    """The service of a WMTS's or WMS's capabilities.

    Args:
        layer: its name; None: the layer that the URL names, or the only layer.

    Raises:
        RemoteError: other XML, no such layer, or none in Web Mercator.
        SyntaxError, ValueError: no XML that can be read, or against WMS and WMTS.
    """
    root = ElementTree.fromstring(capabilities)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    is_wmts = root.tag == "Capabilities"
    if not is_wmts and root.tag not in ("WMS_Capabilities", "WMT_MS_Capabilities"):
        raise RemoteError(
            f"{shown(url)} answers with a {root.tag}, not the capabilities of a WMS or WMTS: "
            f"{' '.join(''.join(root.itertext()).split())[:200]}"
        )
    named = "Identifier" if is_wmts else "Name"
    layers = {name: node for node in root.iter("Layer") if (name := _text(node, named))}
    stated = {name.lower(): value for name, value in _parameters(url).items()}
    only = next(iter(layers)) if len(layers) == 1 else ""
    name = layer or stated.get("layers") or stated.get("layer") or only
    if name not in layers:
        raise RemoteError(
            f"{shown(url)}: {f'no layer is named {name}' if name else 'it has several layers'}: "
            f"give --layer one of these {len(layers)}: {', '.join(sorted(layers)[:20])}"
        )
    return (_wmts if is_wmts else _wms)(url, root, name, layers[name])


def _wmts(url: str, root: Element, name: str, layer: Element) -> TileService:
    sets = {_text(node, "Identifier"): node for node in root.iterfind("Contents/TileMatrixSet")}
    linked = [_text(link, "TileMatrixSet") for link in layer.iterfind("TileMatrixSetLink")]
    matrix_set = next((link for link in linked if link in sets and _levels(sets[link])), None)
    if matrix_set is None:
        raise RemoteError(_no_mercator(url, name, linked))
    styles = {node.get("isDefault"): _text(node, "Identifier") for node in layer.iter("Style")}
    values = {
        "style": styles.get("true") or next(iter(styles.values()), ""),
        "tilematrixset": matrix_set,
        **{_text(n, "Identifier").lower(): _text(n, "Default") for n in layer.iter("Dimension")},
    }
    resources = layer.iterfind("ResourceURL[@resourceType='tile']")
    templates = {node.get("format"): node.get("template", "") for node in resources}
    if templates:
        template = PLACEHOLDER.sub(
            lambda found: values.get(found[1].lower(), found[0]), templates[_best(templates)]
        )
    else:
        parameters = {
            "service": "WMTS", "request": "GetTile", "version": "1.0.0", "layer": name,
            "format": _best(node.text for node in layer.iterfind("Format")), **values,
            "tilematrix": "{TileMatrix}", "tilerow": "{TileRow}", "tilecol": "{TileCol}",
        }  # fmt: skip
        template = _address(url, parameters)
    return TileService(
        template,
        int(_text(sets[matrix_set], "TileMatrix/TileWidth")),
        _levels(sets[matrix_set]),
        _credit(root, "ServiceIdentification", _text(root, "ServiceProvider/ProviderName")),
    )


def _levels(matrix_set: Element) -> dict[int, str]:
    """The names of a tile matrix set's zooms; empty unless these are Web Mercator's."""
    if not MERCATOR.search(_text(matrix_set, "SupportedCRS")):
        return {}
    levels = {}
    for matrix in matrix_set.iterfind("TileMatrix"):
        pixel_m = float(_text(matrix, "ScaleDenominator")) * PIXEL_M
        zoom = math.log2(2.0 * HALF_WORLD_M / (pixel_m * int(_text(matrix, "TileWidth"))))
        corner = map(float, _text(matrix, "TopLeftCorner").split())
        off_m = max(abs(abs(value) - HALF_WORLD_M) for value in corner)
        if abs(zoom - round(zoom)) < 1e-3 and off_m < 1.0:
            levels[round(zoom)] = _text(matrix, "Identifier")
    return levels


def _wms(url: str, root: Element, name: str, layer: Element) -> TileService:
    # A layer has the CRSs of the layers around it, too.
    around = [node for node in root.iter("Layer") if layer in node.iter()]
    known = [e.text or "" for node in around for e in node if e.tag in ("CRS", "SRS")]
    crs = next((f"EPSG:{found[1]}" for text in known if (found := MERCATOR.search(text))), None)
    if crs is None:
        raise RemoteError(_no_mercator(url, name, known))
    version = root.get("version", "1.1.1")
    form = _best(node.text for node in root.iterfind("Capability/Request/GetMap/Format"))
    parameters = {
        "service": "WMS", "request": "GetMap", "version": version, "layers": name, "styles": "",
        "format": form, "transparent": "true", "crs" if version >= "1.3" else "srs": crs,
        "width": str(WMS_SIDE), "height": str(WMS_SIDE), "bbox": "{bbox-epsg-3857}",
    }  # fmt: skip
    credits = [text for node in around if (text := _text(node, "Attribution/Title"))]
    return TileService(
        _address(url, parameters),
        WMS_SIDE,
        credit=_credit(root, "Service", *credits[-1:]),
    )


def _best(formats: Iterable[str | None]) -> str:
    """The first of FORMATS that is offered."""
    offered = {(text or "").partition(";")[0]: text or "" for text in formats}
    return next((offered[form] for form in FORMATS if form in offered), FORMATS[0])


def _no_mercator(url: str, layer: str, known: Sequence[str]) -> str:
    return (
        f"{shown(url)}: {layer} is not offered in Web Mercator (EPSG:3857), but in "
        f"{', '.join(known)[:200]}: write a GeoTIFF with gdal_translate, and ingest the file"
    )


def _text(node: Element, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _credit(root: Element, service: str, attribution: str = "") -> dict[str, str]:
    constraints = _text(root, f"{service}/AccessConstraints")
    licence = "" if constraints.lower() in ("none", "-") else constraints
    return {"licence": licence, "attribution": attribution}
