"""How far off the demo's answers are, over HTTP: `python -m benchmarks.demo`, beside `make demo`.

Posts every panorama of the demo town to the running service and compares with the true positions.
`--picture FILE` draws the first panorama, its view as the network saw it, and the tile found.
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

from benchmarks.table import heading, row
from model.geo import LatLon, distance_m

SIDE, GAP = 256, 8  # of the picture's parts, pixels
NEAR_M = 30.0


def locate(client: httpx.Client, panorama: Path) -> dict[str, Any]:
    """The service's answer for a panorama, with its explanation."""
    response = client.post(
        "/localize",
        files={"panorama": panorama.read_bytes()},
        params={"top_k": 1, "explain": True},
    )
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


def position(fields: dict[str, Any]) -> LatLon:
    """The position that a match, a fix or a row of poses.csv states."""
    return LatLon(float(fields["latitude"]), float(fields["longitude"]))


def off_m(found: dict[str, Any] | None, true: LatLon) -> float:
    """Metres from the true position; infinite where nothing was found."""
    return math.inf if found is None else distance_m(position(found), true)


def picture(client: httpx.Client, panorama: Path, answer: dict[str, Any]) -> Image.Image:
    """Panorama, projected view and best tile side by side, 4 x 1 squares."""
    view = base64.b64decode(answer["explanation"]["projected"].partition(",")[2])
    tile = client.get(f"/tiles/{answer['matches'][0]['tile_id']}.jpg").raise_for_status().content
    whole = Image.new("RGB", (4 * SIDE + 2 * GAP, SIDE), "white")
    whole.paste(Image.open(panorama).resize((2 * SIDE, SIDE)), (0, 0))
    for number, data in enumerate((view, tile), start=2):
        square = Image.open(io.BytesIO(data)).resize((SIDE, SIDE))
        whole.paste(square, (number * SIDE + (number - 1) * GAP, 0))
    return whole


def main() -> None:
    """Locate all panoramas and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--town", type=Path, default=Path("skyfix-data/demo-town"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    with (arguments.town / "poses.csv").open(newline="") as file:
        poses = list(csv.DictReader(file))
    heading("panorama", "best tile, m off", "position, m off", "confidence", "in index")
    near = 0
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        for number, pose in enumerate(poses):
            panorama, true = arguments.town / pose["file"], position(pose)
            answer = locate(client, panorama)
            tile_off, position_off = (
                off_m(answer["matches"][0], true),
                off_m(answer["position"], true),
            )
            near += position_off <= NEAR_M
            row(pose["id"], f"{tile_off:.1f}", f"{position_off:.1f}",
                answer["confidence"], answer["in_index"])  # fmt: skip
            if arguments.picture and not number:
                picture(client, panorama, answer).save(arguments.picture, quality=88)
    print(f"\n{near} of {len(poses)} within {NEAR_M:g} m")


if __name__ == "__main__":
    main()
