"""Made-up uploads, and a made-up region to find them in: nothing is learnt from what is found."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from model.encoder import Encoder
from service.index.catalogue import Catalogue
from service.ingest import ingest

SIZES = {"small": (1232, 224), "medium": (4096, 2048), "large": (8192, 4096)}
PIXEL_M = 0.5


def panorama(size: tuple[int, int]) -> bytes:
    """A JPEG about as large as a photo of its size."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (32, 64, 3), np.uint8)).resize(size)
    noise = random.integers(-8, 8, (size[1], size[0], 1), np.int16)
    pixels = (np.asarray(coarse, np.int16) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def add_source(home: Path, encoder: Encoder, name: str, seed: int = 1, side: int = 1200) -> None:
    """Cut a raster of random fields into the home folder's catalogue.

    side: of the raster in pixels of PIXEL_M; 1200 makes about 1,000 tiles.
    """
    cells = np.random.default_rng(seed).integers(0, 256, (3, side // 20, side // 20), np.uint8)
    image = cells.repeat(20, axis=1).repeat(20, axis=2)
    place = rasterio.transform.from_origin(
        500_000.0 + 10_000.0 * seed, 5_540_000.0, PIXEL_M, PIXEL_M
    )
    with rasterio.open(
        home / f"{name}.tif", "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8",
        crs="EPSG:32633", transform=place,
    ) as raster:  # fmt: skip
        raster.write(image)
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, home / f"{name}.tif", name=name, size_m=encoder.aerial_footprint_m)
