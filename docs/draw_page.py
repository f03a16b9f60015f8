"""Takes the pictures of the map page in docs/images; run by hand after a change of the page.

`python docs/draw_page.py --url http://127.0.0.1:8000 --images DATA/demo-town/panoramas` takes them
from `make demo`, whose folder is DATA. Needs a Chromium. Knows nothing of what the pictures must
show: look at them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
DESKTOP = {"viewport": {"width": 1280, "height": 860}}
TO_THE_TOP = (
    "() => ['picture', 'map'].forEach((id) => document.getElementById(id).scrollIntoView())"
)
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def review(page: Page, images: list[Path]) -> None:
    """Locate the images, judge two, and open what the network saw of the third."""
    page.goto("/")
    page.get_by_label("images", exact=True).set_input_files(images)
    page.get_by_text(f"{len(images)} without a verdict").wait_for()
    page.locator("#progress").wait_for(state="hidden", timeout=300_000)
    page.locator("#limit").fill("100")
    page.locator("#list").focus()
    for key in ("n", "a", "r"):
        page.keyboard.press(key)
    page.get_by_text("What the network saw").click()
    page.locator("#comparison li").first.wait_for()
    page.evaluate(TO_THE_TOP)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1000)  # tiles fade in


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    arguments = parser.parse_args()
    images = sorted(arguments.images.glob("*.jpg"))[:10]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=arguments.chromium, args=["--no-sandbox"]
        )
        for name, device in (("desktop", DESKTOP), ("phone", PHONE)):
            for scheme in ("light", "dark"):
                page = browser.new_page(base_url=arguments.url, color_scheme=scheme, **device)
                review(page, images)
                path = IMAGES / f"page-{name}-{scheme}.jpg"
                page.screenshot(path=path, type="jpeg", quality=80)
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
