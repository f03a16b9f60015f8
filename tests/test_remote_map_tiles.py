"""Services of map tiles give the tiles of the original; what fails publishes nothing."""

from __future__ import annotations

import fcntl
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from imagery_samples import patchwork
from imagery_server import (
    ImageryServer,
    Reply,
    Seen,
    Tiles,
    fetched,
    files,
    planned,
    serving,
    tiles,
)
from numpy.typing import NDArray
from PIL import Image

from model.geo import Bounds
from service.imagery.area import Area
from service.imagery.map_tile_levels import mercator_latitude
from service.imagery.source import stated_credit
from service.imagery.source_kinds import open_source
from service.remote.http_client import NoImagery, RemoteError
from service.remote.map_tile_copy import places_in

ZOOM, COLUMN, ROW, SIDE = 19, 284_000, 178_000, 4  # SIDE x SIDE map tiles near 50 N, 15 E


def degrees(column: float, row: float) -> tuple[float, float]:
    """Longitude and latitude of a map tile's corner at ZOOM."""
    return column / 2**ZOOM * 360.0 - 180.0, mercator_latitude(row / 2**ZOOM)


def box(left: float, top: float, right: float, bottom: float) -> Area:
    """In map tiles from COLUMN and ROW on."""
    west, north = degrees(COLUMN + left, ROW + top)
    east, south = degrees(COLUMN + right, ROW + bottom)
    return Area.of_bounds(Bounds(west, south, east, north))


MIDDLE, ALL = box(1.6, 1.6, 2.4, 2.4), box(0.1, 0.1, SIDE - 0.1, SIDE - 0.1)


def png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, x: int, y: int, body: bytes) -> None:
    """A map tile, counted from COLUMN and ROW."""
    file = folder / f"{ZOOM}/{COLUMN + x}/{ROW + y}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of SIDE x SIDE map tiles."""
    folder, image = tmp_path_factory.mktemp("original"), patchwork(SIDE * 256, SIDE * 256)
    for x, y in np.ndindex(SIDE, SIDE):
        write(folder, x, y, png(image[y * 256 :, x * 256 :][:256, :256]))
    return folder


@pytest.fixture(scope="session")
def expected(original: Path) -> Tiles:
    """The tiles of MIDDLE."""
    found = tiles(original, MIDDLE)
    assert found
    return found


@pytest.fixture
def server(original: Path) -> Iterator[ImageryServer]:
    with serving(files(original)) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def quadkey(z: int, x: int, y: int) -> str:
    return "".join(str((x >> k & 1) + 2 * (y >> k & 1)) for k in range(z)[::-1])


TEMPLATES = {
    "/{z}/{x}/{y}.png": "/{z}/{x}/{y}.png",
    "/%7Bz%7D/%7Bx%7D/%7By%7D.png": "/{z}/{x}/{y}.png",
    "/{zoom}/{x}/{-y}": "/{z}/{x}/{south}",
    "/${z}/{switch:a,b}{x}/{y}?key=1": "/{z}/a{x}/{y}?key=1",
    "/{s}/{q}.png": "/a/{q}.png",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_gives_the_tiles_of_the_original(
    original: Path, expected: Tiles, server: ImageryServer, home: Path, template: str
) -> None:
    places, static = {}, files(original)
    for x, y in np.ndindex(SIDE, SIDE):
        z, x, y = ZOOM, COLUMN + x, ROW + y
        asked = TEMPLATES[template].format(z=z, x=x, y=y, south=2**z - 1 - y, q=quadkey(z, x, y))
        places[asked] = f"/{z}/{x}/{y}.png"
    server.answer = lambda seen: static(Seen(places[seen.path], {}))
    assert tiles(fetched(home, server.url + template, MIDDLE), MIDDLE) == expected
    assert len(server.seen) == len(set(server.paths())) <= 16


def picture(bounds: tuple[float, ...], pixels: int) -> bytes:
    """What a WMS draws: colours that say the place."""
    west, south, east, north = bounds
    xs = west + (np.arange(pixels) + 0.5) / pixels * (east - west)
    ys = north - (np.arange(pixels) + 0.5) / pixels * (north - south)
    waves = [127.5 + 127.0 * np.sin(at / 7.0) for at in np.meshgrid(xs, ys)]
    rgb = np.stack([*waves, np.full_like(waves[0], 90.0)], axis=-1).round().astype(np.uint8)
    return png(rgb)


WMS = """<WMS_Capabilities version="1.3.0" xmlns="http://www.opengis.net/wms">
<Service><AccessConstraints>CC BY 4.0</AccessConstraints></Service><Capability>
<Request><GetMap><Format>image/jpeg</Format><Format>image/png</Format></GetMap></Request>
<Layer><CRS>EPSG:4326</CRS><CRS>EPSG:3857</CRS><Attribution><Title>The City</Title></Attribution>
<Layer><Name>ortho</Name></Layer><Layer><Name>roads</Name></Layer></Layer></Capability>
</WMS_Capabilities>"""


def wms(seen: Seen) -> Reply:
    asked = {name: values[0] for name, values in parse_qs(urlsplit(seen.path).query).items()}
    if asked["request"] == "GetCapabilities":
        return Reply(body=WMS.encode(), headers={"Content-Type": "text/xml"})
    assert (asked["layers"], asked["crs"], asked["format"]) == ("ortho", "EPSG:3857", "image/png")
    assert asked["map"] == "/a.map"
    bounds = tuple(map(float, asked["bbox"].split(",")))
    return Reply(body=picture(bounds, int(asked["width"])))


def test_a_wms_gives_the_tiles_of_its_ground(
    server: ImageryServer, home: Path, tmp_path: Path
) -> None:
    server.answer = wms
    address = f"{server.url}/wms?map=/a.map&SERVICE=WMS"
    folder = fetched(home, address, MIDDLE, layer="ortho", zoom=ZOOM)
    with pytest.raises(RemoteError, match="--layer one of these 2: ortho, roads"):
        planned(home, address, MIDDLE)
    with closing(open_source(folder)) as source:
        assert (source.licence, source.attribution) == ("CC BY 4.0", "The City")
    half, width = 20037508.342789244, 2 * 20037508.342789244 / 2**ZOOM
    for x, y in np.ndindex(SIDE, SIDE):
        west, north = (COLUMN + x) * width - half, half - (ROW + y) * width
        write(tmp_path / "drawn", x, y, picture((west, north - width, west + width, north), 512))
    assert tiles(folder, MIDDLE) == tiles(tmp_path / "drawn", MIDDLE)


def wmts(url: str, resource: bool) -> str:
    matrix = "".join(
        f"<TileMatrix><Identifier>L{z}</Identifier><TileWidth>256</TileWidth>"
        f"<ScaleDenominator>{559082264.0287178 / 2**z}</ScaleDenominator>"
        "<TopLeftCorner>-20037508.3428 20037508.3428</TopLeftCorner></TileMatrix>"
        for z in range(15, 20)
    )
    template = f"{url}/{{Style}}/{{TileMatrixSet}}/{{TileMatrix}}/{{TileRow}}/{{TileCol}}.png"
    return f"""<Capabilities xmlns="http://www.opengis.net/wmts/1.0">
    <ServiceIdentification><AccessConstraints>none</AccessConstraints></ServiceIdentification>
    <Contents><Layer><Identifier>ortho</Identifier><Style isDefault="true">
    <Identifier>plain</Identifier></Style><Format>image/png</Format>
    <TileMatrixSetLink><TileMatrixSet>lisbon</TileMatrixSet></TileMatrixSetLink>
    <TileMatrixSetLink><TileMatrixSet>web</TileMatrixSet></TileMatrixSetLink>
    {f'<ResourceURL format="image/png" resourceType="tile" template="{template}"/>' * resource}
    </Layer><TileMatrixSet><Identifier>lisbon</Identifier>
    <SupportedCRS>EPSG:3763</SupportedCRS></TileMatrixSet><TileMatrixSet>
    <Identifier>web</Identifier><SupportedCRS>urn:ogc:def:crs:EPSG::3857</SupportedCRS>{matrix}
    </TileMatrixSet></Contents></Capabilities>"""


@pytest.mark.parametrize("resource", [True, False])
def test_a_wmts_gives_the_tiles_of_the_original(
    original: Path, expected: Tiles, server: ImageryServer, home: Path, resource: bool
) -> None:
    static = files(original)

    def answer(seen: Seen) -> Reply:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(seen.path).query).items()}
        if asked.get("request") == "GetCapabilities":
            return Reply(body=wmts(server.url, resource).encode())
        if resource:
            row, column = re.fullmatch(r"/plain/web/L19/(\d+)/(\d+)\.png", seen.path).groups()
        else:
            assert (asked["layer"], asked["style"], asked["tilematrix"]) == (
                "ortho",
                "plain",
                "L19",
            )
            row, column = asked["tilerow"], asked["tilecol"]
        return static(Seen(f"/{ZOOM}/{column}/{row}.png", {}))

    server.answer = answer
    folder = fetched(home, f"{server.url}/wmts?service=WMTS&request=GetTile&layer=ortho", MIDDLE)
    assert tiles(folder, MIDDLE) == expected


def test_a_tile_json_says_its_deepest_zoom_its_rows_and_its_credit(
    original: Path, expected: Tiles, server: ImageryServer, home: Path
) -> None:
    static = files(original)
    document = {
        "tiles": ["t/{z}/{x}/{y}.png"],
        "scheme": "tms",
        "maxzoom": ZOOM,
        "attribution": "<a>The City</a>",
    }

    def answer(seen: Seen) -> Reply:
        if seen.path == "/tiles.json":
            return Reply(body=json.dumps(document).encode())
        z, x, y = map(int, re.findall(r"\d+", seen.path))
        return static(Seen(f"/{z}/{x}/{2**z - 1 - y}.png", {}))

    server.answer = answer
    folder = fetched(home, f"{server.url}/tiles.json", MIDDLE)
    assert tiles(folder, MIDDLE) == expected
    assert stated_credit(folder) == ("", "The City")


GOOD = png(patchwork(256, 256))
GREY, CLEAR = (png(np.full((256, 256, 4), value, np.uint8)) for value in (200, 0))
WEB_PAGE = Reply(body=b"<html>Are you human?</html>", headers={"Content-Type": "text/html"})
FAULTS = {
    "forbidden": (Reply(403), "answers 403: give a key"),
    "too many": (Reply(429), "answers 429: lower --rate"),
    "broken": (Reply(500), "answers 500"),
    "web page": (WEB_PAGE, "text/html, '<html>Are you human"),
    "nothing": (Reply(), "0 bytes"),
    "half a body": (Reply(body=GOOD, sent=900), "IncompleteRead"),
    "half an image": (Reply(body=GOOD[: len(GOOD) // 2]), "no whole image"),
    "oblong": (Reply(body=png(patchwork(256, 200))), "200x256 pixels"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_nothing_is_published_and_the_fetch_goes_on(
    original: Path, expected: Tiles, server: ImageryServer, home: Path, fault: str
) -> None:
    good = files(original)
    reply, message = FAULTS[fault]
    server.answer = lambda seen: good(seen) if len(set(server.paths())) <= 5 else reply
    address = server.url + "/{z}/{x}/{y}.png?key=hidden"
    with pytest.raises(RemoteError, match=message) as raised:
        fetched(home, address, MIDDLE)
    assert "hidden" not in str(raised.value)
    assert not planned(home, address, MIDDLE).folder.joinpath("metadata.json").exists()
    failed = server.paths()[-1]
    server.answer = good
    assert tiles(fetched(home, address, MIDDLE), MIDDLE) == expected
    assert all(server.paths().count(path) == 1 for path in set(server.paths()) - {failed})
    requests = len(server.seen)
    fetched(home, address, MIDDLE)
    assert len(server.seen) == requests


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(404), "has no imagery in the middle of the area"),
        (Reply(204), "has no imagery"),
        (Reply(body=CLEAR), "has no imagery"),
        (Reply(body=GREY), "shows one picture, or single colours, in all"),
        (Reply(body=GOOD), "shows one picture, or single colours, in all"),
    ],
)
def test_a_service_without_imagery_is_refused(
    server: ImageryServer, home: Path, reply: Reply, message: str
) -> None:
    server.answer = lambda _: reply
    with pytest.raises(NoImagery, match=message):
        fetched(home, server.url + "/{z}/{x}/{y}.png", MIDDLE)
    assert list(home.glob("imagery/*")) == []  # the service may have imagery another day


@pytest.mark.parametrize("hole", [Reply(404), Reply(204), Reply(body=CLEAR)])
def test_holes_are_counted_and_said(
    original: Path,
    server: ImageryServer,
    home: Path,
    tmp_path: Path,
    hole: Reply,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good, west = files(original), f"/{ZOOM}/{COLUMN}/"
    server.answer = lambda seen: hole if seen.path.startswith(west) else good(seen)
    folder = fetched(home, server.url + "/{z}/{x}/{y}.png", ALL)
    known = tmp_path / "known"
    shutil.copytree(original, known, ignore=lambda *_: [str(COLUMN)])
    assert tiles(folder, ALL) == tiles(known, ALL)
    every = len(set(server.paths()))
    assert f"no imagery at {every - 12} of {every} map tiles" in caplog.text


def test_an_interrupted_fetch_goes_on(expected: Tiles, server: ImageryServer, home: Path) -> None:
    fetch = planned(home, server.url + "/{z}/{x}/{y}.png", MIDDLE)

    def interrupt(done: int, expected: int) -> None:
        if done == 5:
            (
                fetch.folder / f"{ZOOM}" / f"{COLUMN + 1}" / ".7.png.99.tmp"
            ).touch()  # of a killed process
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.run(interrupt)
    with (fetch.folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RemoteError, match="another process"):
            fetch.run(interrupt)
    fetch.run(lambda done, expected: None)
    assert tiles(fetch.folder, MIDDLE) == expected
    assert len(server.seen) == len(set(server.paths())) == fetch.copy.requests


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("/{z}/{x}/{y}.png", {"area": None}, "give --bbox or --area"),
        ("/{z}/{x}/{y}.png", {"zoom": 30}, "--zoom is 30: give 0 to 22"),
        ("/{z}/{x}/{y}.png", {"max_requests": 3}, "requests in .*--max-requests"),
        ("/{z}/{x}/{y}/{time}.png", {}, "known are"),
        ("/page.html", {}, "Are you human.*no GeoTIFF"),
        ("/other.xml", {}, "answers with a feed"),
        ("/broken.xml", {}, "breaks its own standard: ParseError"),
        ("/none.json", {}, "breaks its own standard"),
        ("/deep.json", {}, "breaks its own standard"),
        ("/item.json", {}, "breaks its own standard"),
        ("/list.json", {}, "breaks its own standard"),
        ("/half.json", {}, "breaks its own standard: JSONDecodeError"),
        ("/wmts.xml", {}, "breaks its own standard"),
        ("/lisbon.xml", {}, "not offered in Web Mercator.*lisbon, web"),
        ("/{z}/{x}/{y}.png", {"area": Area.of_bounds(Bounds(0, 86, 1, 87))}, "beyond Web Mercator"),
    ],
)
def test_what_cannot_be_fetched_is_refused_first(
    server: ImageryServer, home: Path, path: str, options: dict[str, Any], message: str
) -> None:
    bodies = {
        "/page.html": WEB_PAGE.body,
        "/other.xml": b"<feed/>",
        "/broken.xml": b"<feed>",
        "/none.json": b'{"tiles": []}',
        "/deep.json": b'{"tiles": ["{z}/{x}/{y}"], "maxzoom": "deep"}',
        "/item.json": b'{"type": "Feature", "assets": {"visual": {"type": "image/tiff"}}}',
        "/list.json": b'{"type": "FeatureCollection", "features": 7}',
        "/half.json": b'{"type": ',
        "/wmts.xml": wmts("", True).replace("256", "wide").encode(),
        "/lisbon.xml": wmts("", True).replace("3857", "3763").encode(),
    }
    server.answer = lambda seen: Reply(200, bodies[seen.path], WEB_PAGE.headers)
    with pytest.raises(RemoteError, match=message):
        planned(home, server.url + path, options.pop("area", MIDDLE), **options)
    assert not home.exists()


def test_the_zoom_follows_from_the_pixel_and_the_places_from_the_area(
    server: ImageryServer, home: Path
) -> None:
    copy = planned(home, server.url + "/{z}/{x}/{y}", MIDDLE).copy
    zoom = int(re.search(r"zoom (\d+)", copy.summary)[1])
    metres = 40_075_016.7 * np.cos(np.radians(degrees(COLUMN, ROW)[1])) / 256 / 2**zoom
    assert 0.1 < metres <= 0.2
    around = Area.of_bounds(Bounds(179.999, 60.0, -179.999, 60.001))
    columns = {column for column, _ in places_in(around, zoom)}
    assert {0, 2**zoom - 1} <= columns
    assert len(columns) < 20
