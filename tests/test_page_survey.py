"""A survey on the map page, in a real browser: many images, their review, and what it saves."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio
from api_harness import application, listening, publish
from fakes import FakeEncoder
from page_harness import PHONE, choose, opened, survey, viewed
from playwright.sync_api import Browser, Locator, Page, expect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.index.live_index import LiveIndex
from service.locate.known_panoramas import calibrate, read_poses
from service.locate.localizer import Localizer
from training.data.datasets.town_folder import pairs

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    publish(tmp_path, "town", range(12), FakeEncoder())
    return tmp_path


def saved(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    folder.mkdir(exist_ok=True)
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def image(page: Page, name: str) -> Locator:
    return page.get_by_role("option").filter(has_text=name)


def located(page: Page, count: int) -> None:
    page.wait_for_function(
        "count => document.querySelectorAll('[role=option] img[src]').length >= count"
        " && document.getElementById('progress').hidden",
        arg=count,
    )


def test_a_survey_is_reviewed_saved_and_taken_up_again(
    browser: Browser, home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "survey"
    survey(folder, range(6))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    with opened(browser, application(home, FakeEncoder()), statuses=[422, 503]) as page:
        choose(page, folder, "a folder")
        located(page, 6)
        expect(image(page, "broken.jpg")).to_contain_text("not a usable image")
        page.keyboard.press("n")
        page.keyboard.press("a")  # 0000 is accepted, 0001 comes next
        page.keyboard.press("r")
        expect(image(page, "0001.png")).to_contain_text("rejected")
        arrow, handle = page.locator("#map .arrow"), page.locator("#map .handle")
        before = page.get_by_label("Latitude", exact=True).input_value()
        arrow.drag_to(page.locator("#map"), target_position={"x": 300, "y": 120})
        expect(page.get_by_label("Latitude", exact=True)).not_to_have_value(before)
        moved = float(page.get_by_label("Latitude", exact=True).input_value())
        handle.drag_to(arrow, target_position={"x": 90, "y": 26}, force=True)  # due east
        expect(page.get_by_label("Heading, °")).to_have_value("90")
        page.get_by_label("Note", exact=True).fill('by "the" gate, left')
        page.keyboard.press("Tab")
        page.keyboard.press("a")
        page.reload()
        expect(page.locator("#counts")).to_contain_text("2 accepted, 1 rejected, 1 with problems")
        expect(image(page, "0002.png")).to_contain_text('by "the" gate')
        table = saved(page, "poses.csv", folder)
        poses = read_poses(folder)
        assert [pose.file.name for pose in poses] == ["0000.png", "0002.png"]
        assert poses[1].truth.latitude == pytest.approx(moved)
    fresh = tmp_path / "fresh"
    with opened(browser, application(home, FakeEncoder())) as page:
        choose(page, table, "an earlier poses.csv")
        expect(page.locator("#counts")).to_have_text("2 accepted")
        choose(page, folder / "0002.png")
        expect(image(page, "0002.png").locator("img[src]")).to_have_count(1)
        assert saved(page, "poses.csv", fresh).read_text() == table.read_text()


def test_a_drive_is_drawn_and_saved_as_a_track(
    browser: Browser, home: Path, tmp_path: Path
) -> None:
    survey(tmp_path / "drive", range(8))
    app = application(home, FakeEncoder(), max_files=3)  # three forms
    with opened(browser, app) as page:
        page.get_by_label("The images are frames of a drive").check()
        choose(page, tmp_path / "drive", "a folder")
        located(page, 8)
        page.locator("#which").select_option("all but rejected")
        track = json.loads(saved(page, "GeoJSON", tmp_path).read_text())["features"][-1]
        assert track["geometry"]["type"] == "LineString"
        longitudes = [longitude for longitude, _ in track["geometry"]["coordinates"]]
        assert longitudes == pytest.approx([-80 + 0.001 * number for number in range(8)], abs=2e-4)
        text = saved(page, "GPX", tmp_path).read_text()
        assert (text.count("<wpt"), text.count("<trkpt")) == (8, 8)


def test_the_queue_waits_for_a_busy_service(browser: Browser, home: Path, tmp_path: Path) -> None:
    files = survey(tmp_path / "survey", range(3))
    app = application(home, FakeEncoder(), max_in_flight=1, max_files=1)
    with opened(browser, app) as page:
        with app.state.pipeline.admission.reserve() as reservation:
            reservation.start()
            choose(page, files)
            expect(page.locator("#waiting")).to_contain_text("The service is busy")
        located(page, 3)


def test_the_queue_outlives_a_restart_of_the_service(
    browser: Browser, home: Path, tmp_path: Path
) -> None:
    survey(tmp_path / "survey", range(3))
    with ExitStack() as server:
        host, port = server.enter_context(listening(application(home, FakeEncoder())))
        with viewed(browser, f"http://{host}:{port}", statuses=[0, 503]) as page:
            expect(page.locator("#index")).to_contain_text("Index")
            server.close()
            page.get_by_label("The images are frames of a drive").check()
            choose(page, tmp_path / "survey", "a folder")
            expect(page.locator("#waiting")).to_contain_text("The service does not answer")
            with listening(application(home, FakeEncoder()), port=port):
                located(page, 3)


class Watched(FakeEncoder):
    """Calls `before` once, when the first panoramas are about to be encoded."""

    before: Callable[[], None] | None = None

    def encode_strips(self, strips, norths):  # type: ignore[no-untyped-def]
        before, self.before = self.before, None
        if before:
            before()
        return super().encode_strips(strips, norths)


def test_a_forgotten_drive_begins_anew(browser: Browser, home: Path, tmp_path: Path) -> None:
    survey(tmp_path / "drive", range(5))
    encoder = Watched()
    app = application(home, encoder, max_files=2)
    with opened(browser, app, statuses=[404, 503]) as page:
        encoder.before = app.state.drives._drives.clear  # as a restart does
        page.get_by_label("The images are frames of a drive").check()
        choose(page, tmp_path / "drive", "a folder")
        located(page, 5)
        expect(page.locator("#said")).to_be_empty()
        assert len(app.state.drives._drives) == 0


def locked(app: ASGIApp) -> ASGIApp:
    """As deploy/nginx.conf with keys: the page itself needs none."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] != "http" or scope["path"].startswith("/web/")
        if is_open or scope["path"] == "/" or (b"x-api-key", b"k3y") in scope["headers"]:
            await app(scope, receive, send)
            return
        problem = {"title": "X-API-Key is missing or unknown", "status": 401}
        await JSONResponse(problem, 401)(scope, receive, send)

    return checked


def test_a_key_is_sent_with_every_request(browser: Browser, home: Path, tmp_path: Path) -> None:
    (file,) = survey(tmp_path / "survey", [3])
    app = locked(application(home, FakeEncoder()))
    with opened(browser, app, statuses=[401]) as page:
        expect(page.locator("#said")).to_contain_text("X-API-Key is missing")
        choose(page, file)
        expect(page.locator("#said")).to_contain_text("Enter the key")
        page.get_by_label("X-API-Key").fill("k3y")
        page.keyboard.press("Tab")
        page.locator("#map img[src^='blob:']").first.wait_for()
        page.get_by_role("button", name="that wait").click()
        located(page, 1)
        image(page, "0003.png").click()
        page.locator("#map .arrow").wait_for()


def test_thousands_of_files_leave_the_page_usable(
    browser: Browser, home: Path, tmp_path: Path
) -> None:
    (first,) = survey(tmp_path / "many", [0])
    for number in range(1, 5000):
        (first.parent / f"{number:04}.png").hardlink_to(first)
    with opened(browser, application(home, FakeEncoder())) as page:
        choose(page, first.parent, "a folder")
        expect(page.locator("#done")).to_contain_text("of 5000")
        expect(image(page, "0003.png").locator("img[src]")).to_have_count(1)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("button", name="that wait")).to_be_visible()
        page.get_by_role("listbox").focus()
        page.keyboard.press("End")
        expect(image(page, "4999.png")).to_have_attribute("aria-selected", "true")
        assert page.get_by_role("option").count() < 60


def test_what_was_reviewed_outlives_a_table_that_is_none(
    browser: Browser, home: Path, tmp_path: Path
) -> None:
    files = survey(tmp_path / "survey", range(2))
    tables = {
        "photo.csv": (files[0].read_bytes(), "lacks the columns file, latitude, longitude"),
        "empty.csv": (b"file,latitude,longitude\n", "has no places"),
        "poles.csv": (
            b'file,latitude,longitude\n"a,\n""b.jpg",1,2\nc.jpg,95,2\n',
            "line 4: latitude is 95: give -90 to 90. Nothing was imported",
        ),
    }
    with opened(browser, application(home, FakeEncoder())) as page:
        choose(page, files)
        located(page, 2)
        page.keyboard.press("n")
        page.keyboard.press("a")
        for name, (data, message) in tables.items():
            choose(page, {"name": name, "mimeType": "", "buffer": data}, "an earlier poses.csv")
            expect(page.locator("#said")).to_contain_text(message)
            expect(page.locator("#said")).to_have_class("problem")
            expect(page.locator("#counts")).to_contain_text("1 accepted")
        choose(page, {"name": "notes.txt", "mimeType": "", "buffer": b"x"})
        expect(page.locator("#said")).to_contain_text("notes.txt: no image, left out")
        same = {"name": "0001.png", "mimeType": "", "buffer": b"other"}
        choose(page, same)
        expect(page.locator("#said")).to_contain_text("has another image of this name")
        expect(page.locator("#list").get_by_role("option")).to_have_count(2)


def test_places_of_an_earlier_index_are_named(browser: Browser, home: Path, tmp_path: Path) -> None:
    files = survey(tmp_path / "survey", range(3))
    app = application(home, FakeEncoder())
    with opened(browser, app) as page:
        choose(page, files)
        located(page, 3)
        page.keyboard.press("n")
        page.keyboard.press("a")
        version = publish(home, "more", range(20, 22), FakeEncoder())
        app.state.live.activate(version)
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#index")).to_contain_text("2 places without a verdict")
        page.get_by_role("button", name="Locate them again").click()
        expect(page.locator("#index")).not_to_contain_text("another index")
        expect(page.locator("#counts")).to_contain_text("1 accepted")


def test_a_phone_shows_all_of_the_page(browser: Browser, home: Path, tmp_path: Path) -> None:
    (file,) = survey(tmp_path / "survey", [3])
    app = application(home, FakeEncoder())
    with opened(browser, app, viewport=PHONE, is_mobile=True, has_touch=True) as page:
        choose(page, file)
        image(page, "0003.png").tap()
        page.locator("#review [name=accept]").tap()
        expect(page.locator("#counts")).to_contain_text("1 accepted")
        width = page.evaluate("() => document.documentElement.scrollWidth")
        assert width == PHONE["width"]


def test_a_hundred_reviewed_places_calibrate_and_train(browser: Browser, tmp_path: Path) -> None:
    encoder, folder = FakeEncoder(), tmp_path / "survey"
    publish(tmp_path, "town", range(110), encoder)
    survey(folder, range(100))
    size = {"width": 640, "height": 480}  # less to draw
    with opened(browser, application(tmp_path, encoder), viewport=size) as page:
        page.get_by_text("What is known about the images").click()
        page.get_by_label("Heading of the centre").fill("0")
        choose(page, folder, "a folder")
        expect(page.locator("#counts")).to_contain_text("100 doubtful", timeout=60_000)
        page.locator("#list").focus()
        page.keyboard.press("n")
        for _ in range(100):
            page.keyboard.press("a")
        expect(page.locator("#counts")).to_have_text("100 accepted")
        expect(page.locator("#said")).to_contain_text("Nothing doubtful is left")
        saved(page, "poses.csv", folder)
    localizer = Localizer(encoder, LiveIndex(tmp_path, encoder.fingerprint), rolls=4)
    calibration = calibrate(localizer.live.get(), localizer, [folder])
    assert calibration.source == "100 panoramas of survey"
    grid = {"width": 64, "height": 64, "count": 3, "dtype": "uint8", "crs": "EPSG:32617"}
    place = rasterio.Affine(1.0, 0.0, 600_000.0, 0.0, -1.0, 2_765_000.0)
    with rasterio.open(folder / "aerial.tif", "w", driver="GTiff", transform=place, **grid) as file:
        file.write(np.zeros((3, 64, 64), np.uint8))
    assert [pair.street.name for pair in pairs(folder, "all")] == [
        f"{n:04}.png" for n in range(100)
    ]
