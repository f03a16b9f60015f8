"""The chosen image on the map page, in a real browser: looking around, and what the network saw."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from api_harness import application, publish
from axe_playwright_python.sync_playwright import Axe
from fakes import FakeEncoder, encoded
from page_harness import choose, opened, survey
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from model.images import Rgb

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    publish(tmp_path, "town", range(12), FakeEncoder())
    return tmp_path


def sphere() -> Rgb:
    """Red tells the degrees from the centre column by 64ths of a turn, green from the top."""
    rows, columns = np.mgrid[0:128, 0:256]
    return np.stack([columns, rows * 2, np.full_like(rows, 40)], axis=-1).astype(np.uint8)


def middle(page: Page) -> list[int]:
    """The colour in the middle of what is seen."""
    image = Image.open(io.BytesIO(page.locator("#picture canvas").screenshot())).convert("RGB")
    return list(image.getpixel((image.width // 2, image.height // 2)))  # type: ignore[arg-type]


def test_a_panorama_is_looked_around_in(browser: Browser, home: Path, tmp_path: Path) -> None:
    file = {"name": "sphere.png", "mimeType": "", "buffer": encoded(sphere())}
    with opened(browser, application(home, FakeEncoder())) as page:
        page.get_by_text("What is known about the images").click()
        page.get_by_label("Heading of the centre").fill("45")
        choose(page, file)
        page.get_by_role("option", name="sphere.png").click()
        sight = page.locator("#map .sight")
        expect(sight).to_have_attribute("style", "transform: rotate(45deg);")
        assert middle(page) == pytest.approx([128, 128, 40], abs=3)
        page.locator("#picture").focus()
        for _ in range(9):
            page.keyboard.press("ArrowRight")
        expect(sight).to_have_attribute("style", "transform: rotate(135deg);")
        assert middle(page) == pytest.approx([192, 128, 40], abs=3)
        for _ in range(3):
            page.keyboard.press("ArrowUp")
        assert middle(page) == pytest.approx([192, 256 / 3, 40], abs=3)
        north = page.locator(".compass span", has_text="N").first
        expect(north).to_be_hidden()
        box = page.locator("#picture canvas").bounding_box()
        assert box
        page.mouse.move(box["x"] + 50, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(
            box["x"] + 50 + 1.5 * box["width"], box["y"] + 100
        )  # 135 degrees to the left
        page.mouse.up()
        expect(sight).to_have_attribute("style", re.compile(r"rotate\((0\.0|0deg|359\.9)"))
        expect(north).to_be_visible()


def test_a_photograph_is_flat(browser: Browser, home: Path, tmp_path: Path) -> None:
    (file,) = survey(tmp_path / "survey", [3])
    with opened(browser, application(home, FakeEncoder())) as page:
        page.get_by_text("What is known about the images").click()
        page.get_by_label("Kind").select_option("photograph")
        page.get_by_label("Horizontal field of view").fill("60")
        choose(page, file)
        page.get_by_role("option", name="0003.png").click()
        expect(page.locator("#picture img")).to_be_visible()
        expect(page.locator("#picture canvas")).to_be_hidden()
        page.locator("#map .arrow").wait_for()
        expect(page.locator("#map .sight")).to_be_hidden()


def test_what_the_network_saw_lies_beside_the_tile(
    browser: Browser, home: Path, tmp_path: Path
) -> None:
    (file,) = survey(tmp_path / "survey", [3])
    with opened(browser, application(home, FakeEncoder())) as page:
        page.get_by_text("What is known about the images").click()
        page.get_by_label("Heading of the centre").fill("0")
        choose(page, file)
        page.get_by_role("option", name="0003.png").click()
        page.get_by_text("What the network saw").click()
        candidates = page.get_by_role("list", name="candidates").get_by_role("button")
        expect(candidates).to_have_count(10)
        expect(page.get_by_alt_text("the image seen from above", exact=True)).to_be_visible()
        tile = page.get_by_alt_text("aerial tile of candidate")
        expect(tile).to_have_attribute("src", "/tiles/t3.jpg?pixels=256")
        sizes = [
            box["width"]
            for image in page.locator(".seen img").all()
            if (box := image.bounding_box())
        ]
        assert sizes == pytest.approx([sizes[0]] * 5, rel=1e-3)  # 64 m of a tile, 64 m of a view
        slider = page.get_by_label("tile – image")
        slider.fill("100")
        over = page.get_by_alt_text("over the tile")
        expect(over).to_have_css("clip-path", "inset(0px 0px 0px 100%)")
        before = page.get_by_label("Longitude", exact=True).input_value()
        candidates.nth(4).hover()
        expect(tile).not_to_have_attribute("src", "/tiles/t3.jpg?pixels=256")
        candidates.nth(4).click()
        expect(page.get_by_label("Longitude", exact=True)).not_to_have_value(before)
        page.keyboard.press("z")
        expect(page.get_by_label("Longitude", exact=True)).to_have_value(before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(browser: Browser, home: Path, tmp_path: Path, scheme: str) -> None:
    survey(tmp_path / "survey", range(3))
    with opened(browser, application(home, FakeEncoder()), color_scheme=scheme) as page:
        choose(page, tmp_path / "survey", "a folder")
        page.get_by_role("option", name="0002.png").click()
        for summary in page.locator("summary").all():
            summary.click()
        page.get_by_role("list", name="candidates").get_by_role("button").first.wait_for()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert "color-contrast" in {rule["id"] for rule in found.response["passes"]}
