"""Draws docs/images/flows.svg and docs/images/polar.svg; run by hand after a change here.

Knows nothing of the code: the words in the boxes are checked by eye.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes

IMAGES = Path(__file__).parent / "images"
STREET, AERIAL, PLAIN = "#dbe9f6", "#dff0dc", "#f4f1e8"
QUERY = [
    ("upload", "service/api"),
    ("geometry", "model/panorama"),
    ("decode", "model/images"),
    ("project", "model/polar"),
    ("encode street", "model/encoder"),
    ("search", "service/index"),
    ("fuse", "service/locate"),
    ("fix", "service/api"),
]
MAP = [
    ("imagery", "GeoTIFF, folder"),
    ("cut tiles", "service/imagery"),
    ("catalogue", "service/index"),
    ("encode aerial", "model/encoder"),
    ("write version", "service/index"),
    ("verify", "service/index"),
    ("CURRENT", "live version"),
]


def _box(axes: Axes, x: float, y: float, title: str, where: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.28", "facecolor": colour, "edgecolor": "#555555"}
    axes.text(x, y, f"{title}\n{where}", ha="center", va="center", fontsize=7.5, bbox=box)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1.0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def draw_flows() -> None:
    """The query and the map, and the two things they share."""
    figure, axes = pyplot.subplots(figsize=(11.5, 3.4))
    for y, flow, colour in ((3.0, QUERY, STREET), (1.0, MAP, AERIAL)):
        for x, (title, where) in enumerate(flow):
            _box(axes, x, y, title, where, colour)
            if x:
                _arrow(axes, (x - 0.58, y), (x - 0.42, y))
    _box(axes, 3.5, 2.0, "checkpoint", "weights, calibration", PLAIN)
    _box(axes, 1.5, 2.0, "skyfix-train", "training/", PLAIN)
    _arrow(axes, (2.05, 2.0), (2.9, 2.0))
    _arrow(axes, (3.7, 2.25), (3.95, 2.7))
    _arrow(axes, (3.4, 1.75), (3.1, 1.3))
    _arrow(axes, (5.95, 1.3), (5.1, 2.7))
    axes.text(-0.45, 3.55, "Query: a panorama in, a fix out", fontsize=9, weight="bold")
    axes.text(-0.45, 0.35, "Map: imagery in, an index version out", fontsize=9, weight="bold")
    axes.set(xlim=(-0.6, 7.6), ylim=(0.2, 3.8))
    axes.axis("off")
    _save(figure, "flows")


def draw_polar() -> None:
    """Which row and column of a panorama each ring and ray of the square comes from."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.4), width_ratios=(2, 1))
    colours = pyplot.get_cmap("viridis")(np.linspace(0.1, 0.85, 4))
    for share, colour in zip((0.2, 0.4, 0.6, 0.8), colours, strict=True):
        left.axhline(share, color=colour, linewidth=2)
        right.add_patch(
            pyplot.Circle((0, 0), share * np.sqrt(2), fill=False, color=colour, linewidth=2)
        )
    for share, name, (dx, dy) in (
        (0.0, "S", (0, -1)),
        (0.25, "W", (-1, 0)),
        (0.5, "N", (0, 1)),
        (0.75, "E", (1, 0)),
    ):
        left.axvline(share, color="#999999", linestyle="--", linewidth=1)
        left.text(share + 0.01, 0.93, name)
        right.plot([0, dx], [0, dy], color="#999999", linestyle="--", linewidth=1)
        right.text(dx * 0.88 + 0.03, dy * 0.88 + 0.03, name)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="column / W", ylabel="height above the last row / H")
    left.set_title("panorama, north in the middle", fontsize=10)
    right.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal")
    right.set_title("square, north up", fontsize=10)
    _save(figure, "polar")


def _save(figure: pyplot.Figure, name: str) -> None:
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(IMAGES / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw_flows()
    draw_polar()
