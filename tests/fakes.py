"""An encoder without a network and made-up images, for tests of everything around them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images import Rgb
from model.panorama import Panorama


class FakeEncoder:
    """An Encoder without weights: a coarse grid of colours through a fixed random projection.

    The street and aerial branches are the same, so the picture of a tile, stretched to a strip
    whose centre faces north, is found as that tile. `calls` counts the images encoded.
    """

    GRID = 8
    at_once = 1

    def __init__(
        self,
        dimension: int = 32,
        fingerprint: str = "fa" * 32,
        aerial_footprint_m: float = 64.0,
        aerial_pixels: int = 64,
    ) -> None:
        self.dimension = dimension
        self.fingerprint = fingerprint
        self.aerial_footprint_m = aerial_footprint_m
        self.aerial_pixels = aerial_pixels
        self.calls = 0
        random = np.random.default_rng(0)
        self._projection = random.standard_normal((3 * self.GRID**2, dimension))

    def encode_aerials(self, images: Sequence[Rgb]) -> NDArray[np.float32]:
        self.calls += len(images)
        return self._project([self._grid(image) for image in images])

    def read_street(self, panorama: Panorama) -> Rgb:
        image = Image.fromarray(panorama.image.decode())
        return np.asarray(image.resize((64, 32), Image.Resampling.BOX))

    def encode_strips(self, strips: Sequence[Rgb], norths: Sequence[float]) -> NDArray[np.float32]:
        self.calls += len(strips)
        rolled = [
            np.roll(strip, round((0.5 - north) * strip.shape[1]), axis=1)
            for strip, north in zip(strips, norths, strict=True)
        ]
        return self._project([self._grid(strip) for strip in rolled])

    def explain_strip(self, strip: Rgb, north: float) -> tuple[Rgb, NDArray[np.float32]]:
        side = self.aerial_pixels
        view = np.asarray(Image.fromarray(strip).resize((side, side), Image.Resampling.BOX))
        return view, np.full((side, side), north, np.float32)

    def _grid(self, image: Rgb) -> NDArray[np.float64]:
        side = (self.GRID, self.GRID)
        small = np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BOX), np.float64)
        return (small / 255.0 - 0.5).ravel()

    def _project(self, grids: list[NDArray[np.float64]]) -> NDArray[np.float32]:
        # One row at a time: BLAS may round a row differently in another batch.
        rows = [grid @ self._projection + 1e-6 for grid in grids]
        units = [row / np.linalg.norm(row) for row in rows]
        return np.array(units, np.float32).reshape(-1, self.dimension)


def colours(seed: int) -> Rgb:
    """A picture that FakeEncoder finds among others: 8x8 random fields, uint8 (64, 64, 3)."""
    fields = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return fields.repeat(8, axis=0).repeat(8, axis=1)


def encoded(image: Rgb, file_format: str = "PNG", **options: object) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **options)
    return buffer.getvalue()


def panorama_of(seed: int) -> bytes:
    """A 2:1 panorama that FakeEncoder finds as tile `colours(seed)` when its heading is 0."""
    return encoded(colours(seed).repeat(2, axis=1))


def coloured_region(folder: Path, seeds: Sequence[int], latitude: float = 25.0) -> Path:
    """A folder for `ingest`: tile `t<seed>` is `colours(seed)`, 64 m wide, 0.001 degrees apart."""
    folder.mkdir(parents=True)
    rows = ["id,latitude,longitude,size_m"]
    for number, seed in enumerate(seeds):
        (folder / f"t{seed}.png").write_bytes(encoded(colours(seed)))
        rows.append(f"t{seed},{latitude},{-80.0 + 0.001 * number:.6f},64")
    (folder / "tiles.csv").write_text("\n".join(rows) + "\n")
    return folder
