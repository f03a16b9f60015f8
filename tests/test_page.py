"""The map page in a real browser: the map, its layers, and no other host."""

from pathlib import Path

import pytest
from api_harness import application, publish
from fakes import FakeEncoder, coloured_region
from page_harness import choose, opened, survey
from playwright.sync_api import Browser, expect

from service.build import build
from service.index.catalogue import Catalogue
from service.ingest import ingest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    publish(tmp_path, "town", range(12), FakeEncoder())
    return tmp_path


def test_the_map_shows_the_region_and_a_fix(browser: Browser, home: Path, tmp_path: Path) -> None:
    (file,) = survey(tmp_path / "drive", [3])
    with opened(browser, application(home, FakeEncoder())) as page:
        page.locator("#map img.leaflet-tile-loaded").first.wait_for()
        expect(page.locator(".leaflet-control-scale-line")).to_contain_text("m")
        choose(page, file)
        page.get_by_role("option", name="0003.png").click()
        page.locator("#map .arrow").wait_for()


def test_the_keyboard_moves_the_map(browser: Browser, home: Path) -> None:
    with opened(browser, application(home, FakeEncoder())) as page:
        scale = page.locator(".leaflet-control-scale-line")
        before = scale.text_content()
        page.locator("#map").focus()
        page.keyboard.press("-")
        expect(scale).not_to_have_text(str(before))
        pane = page.locator("#map .leaflet-map-pane")
        place = pane.get_attribute("style")
        page.keyboard.press("ArrowRight")
        expect(pane).not_to_have_attribute("style", str(place))


def test_the_region_may_lie_across_the_180th_meridian(browser: Browser, tmp_path: Path) -> None:
    folder = coloured_region(tmp_path / "fiji", range(6))
    table = (folder / "tiles.csv").read_text()
    for number, longitude in enumerate((179.998, 179.999, -180.0, -179.999, -179.998, -179.997)):
        table = table.replace(f"{-80.0 + 0.001 * number:.6f}", f"{longitude:.6f}")
    (folder / "tiles.csv").write_text(table)
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, folder, name="fiji", size_m=64.0)
    build(tmp_path, FakeEncoder())
    (file,) = survey(tmp_path / "drive", [5])
    with opened(browser, application(tmp_path, FakeEncoder())) as page:
        choose(page, file)
        page.get_by_role("option", name="0005.png").click()
        arrow, frame = page.locator("#map .arrow"), page.locator("#map").bounding_box()
        arrow.wait_for()
        place = arrow.bounding_box()
        assert place
        assert frame
        assert frame["x"] < place["x"] < frame["x"] + frame["width"]
        columns = {
            int(str(address).split("/")[-2]) / 2 ** int(str(address).split("/")[-3])
            for image in page.locator("#map img").all()
            if (address := image.get_attribute("src"))
        }
        assert min(columns) < 0.01
        assert max(columns) > 0.99


def test_only_a_base_map_that_is_set_is_asked(browser: Browser, home: Path) -> None:
    app = application(
        home,
        FakeEncoder(),
        basemap_url="https://maps.example/{z}/{x}/{y}.png",
        basemap_attribution="© A <b>Map</b>",
    )
    with opened(browser, app, hosts=["maps.example"]) as page:
        page.locator("img[src^='https://maps.example/'].leaflet-tile-loaded").first.wait_for()
        expect(page.locator(".leaflet-control-attribution")).to_contain_text("© A <b>Map</b>")
        page.locator(".leaflet-control-layers").hover()
        page.get_by_label("Base map").uncheck()
        expect(page.locator("img[src^='https://maps.example/']")).to_have_count(0)
