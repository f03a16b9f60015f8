"""How far off the demo's answers are, over HTTP: `python -m benchmarks.demo`, beside `make demo`.

Posts every panorama of the demo town to the running service and compares with the true places.
`--picture FILE` draws the first: the panorama, its view as the network saw it, the tile found.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import math
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from model.geo import LatLon, distance_m

SIDE, GAP = 256, 8  # of the picture's parts, pixels
NEAR_M = 30.0


def located(client: httpx.Client, panorama: Path) -> dict[str, Any]:
    """The service's answer for one panorama, with its explanation."""
    response = client.post(
        "/localize",
        files={"panorama": panorama.read_bytes()},
        params={"top_k": 1, "explain": True},
    )
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def place(of: dict[str, Any]) -> LatLon:
    return LatLon(float(of["latitude"]), float(of["longitude"]))


def off_m(found: dict[str, Any] | None, true: LatLon) -> float:
    """Metres between the places; without end where nothing was found."""
    return math.inf if found is None else distance_m(place(found), true)


def picture(client: httpx.Client, panorama: Path, answer: dict[str, Any]) -> Image.Image:
    """Panorama, projected view and best tile side by side, 4 x 1 squares."""
    view = base64.b64decode(answer["explanation"]["projected"].partition(",")[2])
    tile = client.get(f"/tiles/{answer['matches'][0]['tile_id']}.jpg").raise_for_status().content
    parts = [
        Image.open(panorama).resize((2 * SIDE, SIDE)),
        *(Image.open(io.BytesIO(one)).resize((SIDE, SIDE)) for one in (view, tile)),
    ]
    whole = Image.new("RGB", (4 * SIDE + 2 * GAP, SIDE), "white")
    left = 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width + GAP
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--town", type=Path, default=Path("skyfix-data/demo-town"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    with (arguments.town / "poses.csv").open(newline="") as file:
        poses = list(csv.DictReader(file))
    print("| panorama | best tile, m off | position, m off | confidence | in index |")
    print("|---|---|---|---|---|")
    near = 0
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        for number, pose in enumerate(poses):
            panorama = arguments.town / pose["file"]
            answer = located(client, panorama)
            tile_off, position_off = (
                off_m(one, place(pose)) for one in (answer["matches"][0], answer["position"])
            )
            near += position_off <= NEAR_M
            print(
                f"| {pose['id']} | {tile_off:.1f} | {position_off:.1f} | {answer['confidence']} "
                f"| {answer['in_index']} |"
            )
            if arguments.picture and not number:
                picture(client, panorama, answer).save(arguments.picture, quality=88)
    print(f"\n{near} of {len(poses)} within {NEAR_M:g} m")


if __name__ == "__main__":
    main()
