"""Remote rasters and STAC give the tiles of the original, and go on where they stopped."""

from __future__ import annotations

import json
import shutil
import signal
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from imagery_samples import patchwork, write_raster
from imagery_server import (
    Answer,
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
from rasterio.warp import transform_geom

from model.geo import Bounds
from service.imagery.area import Area
from service.imagery.source_kinds import open_source
from service.remote.http_client import RemoteError

AREA = Area.of_bounds(Bounds(15.0007, 50.0109, 15.0011, 50.0111))
FORMS = {
    "bytes": {},
    "masked": {"mask": np.pad(np.full((1500, 1700), 255, np.uint8), ((0, 0), (0, 300)))},
    "nodata": {"nodata": 7},
    "planes": {"interleave": "band"},
    "jpeg": {"compress": "jpeg", "photometric": "ycbcr"},
}


def write_town(path: Path, image: NDArray[Any] | None = None, **options: Any) -> Path:
    """1500 x 2000 pixels of 0.25 m: 9 MB, for the noise does not compress."""
    if image is None:
        noise = np.random.default_rng(0).integers(0, 90, (1500, 2000, 3), np.uint8)
        image = patchwork(1500, 2000, cell=8) // 2 + noise
    tiled = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    return write_raster(path, image, resolution_m=0.25, **tiled, **options)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_town(tmp_path_factory.mktemp("towns") / "town.tif")


@pytest.fixture(scope="session")
def expected(town: Path) -> Tiles:
    """The tiles of AREA."""
    found = tiles(town, AREA)
    assert found
    return found


@pytest.fixture
def server(town: Path) -> Iterator[ImageryServer]:
    with serving(files(town.parent)) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize("form", FORMS)
def test_a_remote_raster_gives_the_tiles_of_the_original(
    tmp_path: Path, server: ImageryServer, home: Path, form: str
) -> None:
    original = write_town(tmp_path / "town.tif", **FORMS[form])
    server.answer = files(tmp_path)
    folder = fetched(home, f"{server.url}/town.tif", AREA)
    assert tiles(folder, AREA) == tiles(original, AREA)
    assert len(server.seen) <= 1 + 0.8 * original.stat().st_size / 2**20
    with rasterio.open(original) as whole, rasterio.open(folder / "town.tif") as part:
        assert part.width * part.height < whole.width * whole.height
        assert (part.profile["nodata"], part.colorinterp) == (whole.nodata, whole.colorinterp)


def test_without_an_area_the_whole_raster_is_the_same(tmp_path: Path, home: Path) -> None:
    image = patchwork(600, 700).astype(np.uint16) * 40
    original = write_town(tmp_path / "town.tif", image, nodata=0)
    with serving(files(tmp_path, ranges=False)) as server:  # a small file needs no ranges
        folder = fetched(home, f"{server.url}/town.tif", None)
    assert tiles(folder, None) == tiles(original, None)


def test_ground_beside_the_area_is_left_out_and_is_no_imagery(tmp_path: Path, home: Path) -> None:
    values = np.random.default_rng(0).integers(9_000, 10_000, (2100, 2100, 1), np.uint16)
    original = write_town(tmp_path / "town.tif", values)
    with rasterio.open(original) as whole:
        corners = [whole.transform @ at for at in ((300, 300), (1500, 300), (300, 1500))]
        place = transform_geom(whole.crs, 4326, {"type": "Polygon", "coordinates": [corners]})
    area = Area.of_text(shapely.Polygon(place["coordinates"][0]).wkt)
    with serving(files(tmp_path)) as server:
        folder = fetched(home, f"{server.url}/town.tif", area)
    with rasterio.open(folder / "town.tif") as part:
        seen = part.dataset_mask() > 0
        assert (part.read(1)[seen] == values[: part.height, : part.width, 0][seen]).all()
    assert seen[300:1500, 300].all()
    assert not seen[1100:, 1100:].any()


def fault_after(good: Answer, requests: int, reply: Reply) -> Answer:
    waiting = [good] * requests
    return lambda seen: waiting.pop()(seen) if waiting else reply


def cut_short(good: Answer) -> Answer:
    """The first range alone comes whole."""
    return lambda seen: good(seen)._replace(
        sent=None if "bytes=0-" in seen.headers["range"] else 99
    )


def test_a_raster_goes_on_from_its_blocks_after_a_fault(
    town: Path, expected: Tiles, server: ImageryServer, home: Path
) -> None:
    good = server.answer
    for fault in (
        fault_after(good, 3, Reply(403)),
        fault_after(good, 2, Reply(500)),
        cut_short(good),
    ):
        server.answer = fault
        with pytest.raises(RemoteError, match=r"answers|IncompleteRead"):
            fetched(home, f"{server.url}/town.tif", AREA)
        assert not list(home.glob("imagery/*/*.tif"))
    fetched_before = {path.name for path in home.glob("imagery/*/.town.blocks/*")}
    assert len(fetched_before) == 3  # two after the header, one after the next start's
    server.answer, server.seen[:] = good, []
    assert tiles(fetched(home, f"{server.url}/town.tif", AREA), AREA) == expected
    again = {f"{int(seen.headers['range'][6:].split('-')[0]) >> 20:06d}" for seen in server.seen}
    assert not again & fetched_before
    assert not list(home.glob("imagery/*/.town*"))


def test_a_raster_that_changes_is_noticed(
    tmp_path: Path, expected: Tiles, server: ImageryServer, home: Path
) -> None:
    good, address = server.answer, f"{server.url}/town.tif"
    before = fetched(home, address, AREA)
    renewed = write_town(tmp_path / "town.tif", patchwork(1500, 2000, seed=9))
    server.answer = fault_after(good, 2, files(tmp_path)(Seen("/town.tif", {"range": "bytes=0-9"})))
    with pytest.raises(RemoteError, match="has changed"):
        fetched(home / "other", address, AREA)
    server.answer = files(tmp_path)
    after = fetched(home, address, AREA)
    assert after != before
    assert tiles(after, AREA) == tiles(renewed, AREA) != expected


@pytest.mark.parametrize(
    ("name", "area", "options", "message"),
    [
        (
            "town.tif",
            Area.of_bounds(Bounds(8.0, 50.0, 8.1, 50.1)),
            {},
            r"area 7\.99\S+ .*spans 15,50",
        ),
        ("town.tif", None, {"max_requests": 3}, "9 requests.*--max-requests 9"),
        ("nowhere.tif", AREA, {}, "answers 404"),
        ("plain.tif", AREA, {}, "does not say where on Earth"),
        ("picture.tif", AREA, {}, "does not say where on Earth"),
        ("broken.tif", AREA, {}, "no GeoTIFF that can be read"),
    ],
)
def test_rasters_that_cannot_be_used_are_refused_first(
    tmp_path: Path, town: Path, home: Path, name: str, area: Area, options: Any, message: str
) -> None:
    shutil.copy(town, tmp_path)
    write_raster(tmp_path / "plain.tif", patchwork(64, 64), crs=None)
    Image.fromarray(patchwork(64, 64)).save(tmp_path / "picture.tif")
    (tmp_path / "broken.tif").write_bytes(b"II*\0" + bytes(range(256)))
    with serving(files(tmp_path)) as server, pytest.raises(RemoteError, match=message):
        planned(home, f"{server.url}/{name}", area, **options)
    assert not home.exists()


def item(name: str, href: str, **more: Any) -> dict[str, Any]:
    assets = {
        "visual": {"href": href, "type": "image/tiff; profile=cloud-optimized"},
        "B04": {"href": "b.tif"},
    }
    box = [15.0, 50.005, 15.007, 50.0125]
    return {"type": "Feature", "id": name, "bbox": box, "assets": assets, **more}


def page(*links: Any, features: Any = ()) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features), "links": list(links)}


def documents(server: ImageryServer, texts: dict[str, Any]) -> None:
    """Makes the server answer with these, and with its files."""
    static = server.answer
    server.answer = lambda seen: (
        Reply(body=json.dumps(texts[seen.path]).encode()) if seen.path in texts else static(seen)
    )


CREDIT = {"license": "CC-BY-4.0", "providers": [{"name": "The City"}, {"name": "A Flyer"}]}


@pytest.mark.parametrize("form", ["item", "search", "collection"])
def test_stac_gives_the_tiles_and_the_credit_of_its_rasters(
    server: ImageryServer, home: Path, expected: Tiles, form: str
) -> None:
    far = {**item("far", "nowhere.tif"), "bbox": [8.0, 50.0, 8.1, 50.1]}
    link = [{"rel": "collection", "href": "/c.json"}]
    near = item("near", "../town.tif", links=link)
    following = {"rel": "next", "href": "/s/2?token=x"}
    texts = {
        "/s/item": near,
        "/s/search": page(following, features=[far]),
        "/s/2?token=x": page(features=[near]),
        "/s/collection": {"type": "Collection", "links": [{"rel": "item", "href": "item"}]},
        "/c.json": {"type": "Collection", **CREDIT},
    }
    documents(server, texts)
    folder = fetched(home, f"{server.url}/s/{form}", AREA)
    assert tiles(folder, AREA) == expected
    with closing(open_source(folder)) as source:
        assert (source.licence, source.attribution) == ("CC-BY-4.0", "The City, A Flyer")


def test_a_local_item_names_local_rasters(town: Path, home: Path, expected: Tiles) -> None:
    document = town.parent / "item.json"
    document.write_text(json.dumps(item("near", "./town.tif", properties=CREDIT)))
    assert planned(home, str(document), AREA, max_requests=0).copy.requests == 0
    assert tiles(fetched(home, str(document), AREA), AREA) == expected


@pytest.mark.parametrize(
    ("document", "options", "message"),
    [
        (item("a", "file:///etc/passwd.tif"), {}, "only http and https"),
        (item("a", "s3://bucket/a.tif"), {}, "only http and https"),
        (item("a", "town.tif"), {"asset": "red"}, "has no red: give --asset one of visual, B04"),
        ({**item("a", "town.tif"), "assets": {}}, {}, "--asset one of"),
        (page(), {}, "names 0 items"),
        ({**item("a", "town.tif"), "bbox": [8.0, 50.0, 8.1, 50.1]}, {}, "names 0 items"),
        (page({"rel": "next", "method": "POST", "href": "/"}), {}, "search by GET"),
        (page({"rel": "next", "href": "/s"}), {}, "more than 200 pages"),
    ],
)  # fmt: skip
def test_stac_that_cannot_be_used_is_refused(
    server: ImageryServer, home: Path, document: Any, options: Any, message: str
) -> None:
    documents(server, {"/s": document})
    with pytest.raises(RemoteError, match=message):
        planned(home, f"{server.url}/s", AREA, **options)


def test_ctrl_c_while_gdal_reads_is_ctrl_c(
    expected: Tiles, server: ImageryServer, home: Path
) -> None:
    good = server.answer

    def interrupting(seen: Seen) -> Reply:
        if len(server.seen) == 3:
            interrupt_main()
        return good(seen)

    server.answer = interrupting
    # A shell starts background jobs with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fetched(home, f"{server.url}/town.tif", AREA)
    finally:
        signal.signal(signal.SIGINT, before)
    server.answer = good
    assert tiles(fetched(home, f"{server.url}/town.tif", AREA), AREA) == expected
