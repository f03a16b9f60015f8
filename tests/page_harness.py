"""The map page in the system's Chromium, over a server in a thread."""

from __future__ import annotations

import re
import shutil
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_harness import listening
from fakes import panorama_of
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, sync_playwright
from uvicorn._types import ASGIApplication

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}
_NOT_LOADED = re.compile(r"Failed to load resource: (?:net::ERR|the server.*status of (\d+))")


@contextmanager
def launched() -> Iterator[Browser]:
    """The system's Chromium; skips the test without one."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    options = ["--no-sandbox", "--disable-dev-shm-usage"]  # root and small containers need them
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Browser, app: ASGIApplication, **options: Any) -> Iterator[Page]:
    """The page of an application; see `viewed`."""
    with (
        listening(app) as (host, port),
        viewed(browser, f"http://{host}:{port}", **options) as page,
    ):
        yield page


@contextmanager
def viewed(
    browser: Browser,
    address: str,
    *,
    statuses: Container[int] = (503,),
    hosts: Iterable[str] = (),
    **options: Any,
) -> Iterator[Page]:
    """The page in a fresh profile; fails on other hosts, console errors and CSP reports.

    statuses: of answers that Chromium reports as errors, and the test allows. 0: none came.
    hosts: other hosts that the page may ask. They answer with a picture.
    """
    wrong: list[str] = []

    def watch(message: ConsoleMessage) -> None:
        status = _NOT_LOADED.match(message.text)
        expected = status is not None and int(status[1] or 0) in statuses
        expected |= "GL Driver Message" in message.text  # a screenshot of WebGL in software
        if message.type in ("error", "warning") and not expected:
            wrong.append(f"{message.type}: {message.text}")

    def elsewhere(route: Route, request: Request) -> None:
        if not any(request.url.startswith(f"https://{name}/") for name in hosts):
            wrong.append(f"another host: {request.url}")
        route.fulfill(body=panorama_of(0), content_type="image/png")

    options = {"viewport": DESKTOP, "reduced_motion": "reduce", **options}
    with browser.new_context(base_url=address, **options) as context:
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", watch)
        page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
        page.route(lambda url: not url.startswith((address, "blob:", "data:")), elsewhere)
        page.goto("/")
        yield page
    assert not wrong, wrong


def survey(folder: Path, seeds: Iterable[int]) -> list[Path]:
    """A folder with panoramas that FakeEncoder finds as tiles t<seed>."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in seeds:
        file = folder / f"{seed:04}.png"
        file.write_bytes(panorama_of(seed))
        files.append(file)
    return files


def choose(page: Page, files: object, kind: str = "images") -> None:
    """Give files to the page. kind: images, a folder or an earlier poses.csv."""
    page.get_by_label(kind, exact=True).set_input_files(files)  # type: ignore[arg-type]
