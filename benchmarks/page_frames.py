"""Frames a second while the map page pans: `python -m benchmarks.page_frames --url URL`.

URL is a server with an index, such as `make demo` starts. The page holds 500 images with
thumbnails around the index's middle, and shows 2,000 outlines of candidates, in the system's
Chromium without a window. Prints the mean rate, the longest frame, and the time of the page's own
thread, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time

from playwright.sync_api import CDPSession, Page, sync_playwright

# Saves a survey as the page itself does.
FILL = """async ({ images, outlines }) => {
  const { SurveyStore } = await import("/web/survey_store.js");
  const { bounds: [west, south, east, north] } = await (await fetch("/index")).json();
  const canvas = new OffscreenCanvas(240, 120);
  const pen = canvas.getContext("2d");
  const somewhere = () => ({
    latitude: south + Math.random() * (north - south),
    longitude: west + Math.random() * (east - west),
  });
  const saved = [];
  for (let number = 0; number < images; number += 1) {
    pen.fillStyle = `hsl(${number} 70% 50%)`;
    pen.fillRect(0, 0, 240, 120);
    const matches = Array.from({ length: number ? 0 : outlines }, (_, rank) => {
      const { latitude, longitude } = somewhere();
      const bounds = [longitude, latitude, longitude + 0.001, latitude + 0.0006];
      return { rank: rank + 1, tile_id: `t${rank}`, latitude, longitude, distance: 1, bounds };
    });
    const sure = { radius_m: 9, confidence: 0.5, in_index: true, heading_deg: 90, notes: [] };
    const thumbnail = await canvas.convertToBlob({ type: "image/jpeg" });
    const name = `${String(number).padStart(4, "0")}.jpg`;
    const fix = { ...sure, position: somewhere(), matches };
    saved.push({ name, stage: "located", fix, thumbnail });
  }
  (await SurveyStore.open()).save(saved);
}"""
COUNT = """() => {
  window.frames_ms = [];
  let last = performance.now();
  const tick = (now) => {
    window.frames_ms.push(now - last);
    last = now;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}"""


def pan(page: Page, seconds: float) -> list[float]:
    """Drag the map around in circles. Returns the milliseconds from frame to frame."""
    box = page.locator("#map").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(COUNT)
    begun = time.monotonic()
    while (gone := time.monotonic() - begun) < seconds:
        turn = 2 * math.pi * gone / 2.0
        page.mouse.move(x + 100 * math.sin(turn), y + 60 * math.cos(turn))
    frames: list[float] = page.evaluate("() => window.frames_ms")
    page.mouse.up()
    return frames[1:]


def thread_ms(session: CDPSession) -> float:
    """Time that the page's thread has worked, in milliseconds of a processor."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return 1000.0 * float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


def main() -> None:
    """Print the rate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--outlines", type=int, default=2000)
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=arguments.chromium, args=["--no-sandbox"]
        )
        page = browser.new_page(base_url=arguments.url, viewport={"width": 1280, "height": 800})
        page.goto("/")
        page.evaluate(FILL, {"images": arguments.images, "outlines": arguments.outlines})
        page.reload()
        page.get_by_role("option", name="0000.jpg").click()
        page.locator("#map .arrow").wait_for()
        page.wait_for_load_state("networkidle")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = thread_ms(session)
        frames = pan(page, arguments.seconds)
        own = (thread_ms(session) - before) / len(frames)
        browser.close()
    rate, longest = 1000.0 * len(frames) / sum(frames), max(frames)
    print(f"{rate:.0f} frames a second, the longest {longest:.0f} ms; own thread {own:.1f} ms each")


if __name__ == "__main__":
    main()
