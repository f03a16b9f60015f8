"""The map page in the system's Chromium, over a server in a thread."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from api_harness import listening
from fakes import encoded, panorama_of
from fastapi import FastAPI
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}
_STATUS = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a process."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    options = ["--no-sandbox", "--disable-dev-shm-usage"]  # root and small containers need them
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield launched
        launched.close()


@contextmanager
def opened(
    browser: Browser,
    app: FastAPI,
    *,
    statuses: Iterable[int] = (),
    hosts: Iterable[str] = (),
    **options: object,
) -> Iterator[Page]:
    """The page in a fresh profile; fails on other hosts, console errors and CSP reports.

    statuses: of answers that the test provokes, and that Chromium reports as errors.
    hosts: other hosts that the page may ask. They answer with a picture.
    """
    wrong: list[str] = []
    with listening(app) as (host, port):
        base = f"http://{host}:{port}"

        def watch(message: ConsoleMessage) -> None:
            status = _STATUS.match(message.text)
            expected = status is not None and int(status[1]) in statuses
            if message.type in ("error", "warning") and not expected:
                wrong.append(f"{message.type}: {message.text}")

        def elsewhere(route: Route, request: Request) -> None:
            if not any(request.url.startswith(f"https://{name}/") for name in hosts):
                wrong.append(f"another host: {request.url}")
            route.fulfill(body=panorama_of(0), content_type="image/png")

        options = {"viewport": DESKTOP, "reduced_motion": "reduce", **options}
        with browser.new_context(base_url=base, **options) as context:  # type: ignore[arg-type]
            context.set_default_timeout(20_000)
            page = context.new_page()
            page.on("console", watch)
            page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
            page.route(lambda url: not url.startswith((base, "blob:", "data:")), elsewhere)
            page.goto("/")
            yield page
    assert wrong == []


def survey(folder: Path, seeds: Iterable[int]) -> list[Path]:
    """Panoramas that FakeEncoder finds as tiles t<seed>, which face north by their name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in seeds:
        file = folder / f"{seed:04}.png"
        file.write_bytes(panorama_of(seed))
        files.append(file)
    return files


__all__ = ["DESKTOP", "PHONE", "browser", "encoded", "opened", "survey"]
