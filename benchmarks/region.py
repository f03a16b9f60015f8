"""Made-up uploads, and a made-up region: what is found in it means nothing."""

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
    """A JPEG with about as many bytes as a photo of its size."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (32, 64, 3), np.uint8)).resize(size)
    noise = random.integers(-8, 8, (size[1], size[0], 1), np.int16)
    pixels = (np.asarray(coarse, np.int16) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_raster(path: Path, seed: int = 1, side: int = 1200) -> Path:
    """A GeoTIFF of random fields, `side` pixels of PIXEL_M wide: 1200 make about 1,000 tiles."""
    cells = np.random.default_rng(seed).integers(0, 256, (3, side // 20, side // 20), np.uint8)
    origin = 500_000.0 + 10_000.0 * seed, 5_540_000.0
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8",
        crs="EPSG:32633", transform=rasterio.transform.from_origin(*origin, PIXEL_M, PIXEL_M),
    ) as raster:  # fmt: skip
        raster.write(cells.repeat(20, axis=1).repeat(20, axis=2))
    return path


def add_source(home: Path, encoder: Encoder, name: str, seed: int = 1, side: int = 1200) -> None:
    """Ingest a made-up raster into the home folder's catalogue."""
    raster = write_raster(home / f"{name}.tif", seed, side)
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, raster, name=name, size_m=encoder.aerial_footprint_m)
