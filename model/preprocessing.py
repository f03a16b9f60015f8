"""From decoded images to the network's inputs: one definition, stored in the checkpoint.

Training and serving call these same functions; a change here is a change of the encoder, so the
fingerprint covers this configuration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from model.images import Rgb
from model.panorama import Band, GeometryError, Panorama, PanoramaGeometry
from model.polar import North, ground_plane_projection, inverse_polar_transform
from model.strip import cut_band, is_plain

Projection = Literal["polar", "ground", "none"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The elevations that street and tile both show; on towns no other setting mattered more.
DEFAULT_BAND = Band(15.0, -45.0)


@dataclass(frozen=True)
class Preprocessing:
    """How both views become square inputs.

    Attributes:
        input_size: side of both network inputs in pixels.
        strip_size: (height, width) to which a panorama is resampled before the projection.
        band: elevations the strip covers; None: the whole image, as in the paper.
        projection: "polar" is the paper's IPT; "ground" a metric ground plane; "none" only
            resizes the strip (the paper's ablation "w/o IPT").
        ground_span_m, ground_camera_height_m: for "ground" only.
        mean, std: of RGB in 0..1; the mean also fills what a panorama lacks.
    """

    input_size: int = 128
    strip_size: tuple[int, int] = (96, 512)
    band: Band | None = DEFAULT_BAND
    projection: Projection = "polar"
    ground_span_m: float = 64.0
    ground_camera_height_m: float = 2.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.projection not in get_args(Projection):
            raise ValueError(
                f"projection {self.projection!r} is unknown; known: {get_args(Projection)}"
            )

    @property
    def fill(self) -> tuple[int, int, int]:
        """The uint8 RGB of pixels that the camera did not see."""
        red, green, blue = (round(255.0 * value) for value in self.mean)
        return red, green, blue

    def sufficient_size(self, panorama: Panorama) -> tuple[int, int]:
        """(height, width) of the panorama beyond which the strip gains nothing.

        Raises:
            GeometryError: the geometry is impossible for this image.
        """
        extent = panorama.extent
        rows, columns = self.strip_size
        if not is_plain(panorama.geometry):
            return self._sufficient_for_projecting(panorama)
        columns = math.ceil(columns * panorama.geometry.horizontal_fov_deg / 360.0)
        if self.band is not None:
            share = (extent.top_deg - extent.bottom_deg) / (
                self.band.top_deg - self.band.bottom_deg
            )
            rows = math.ceil(rows * share)
        return rows, columns

    def _sufficient_for_projecting(self, panorama: Panorama) -> tuple[int, int]:
        """1.5 times as dense as the strip, both ways, where the image's pixels are farthest apart.

        At the same density, projecting would blur: 2.3 grey levels of a photograph in place of 1.4.
        """
        rows, columns = self.strip_size
        band = self.band or panorama.extent
        per_degree = 1.5 * max(rows / (band.top_deg - band.bottom_deg), columns / 360.0)
        height, width = panorama.image.size
        own = panorama.geometry.pixels_per_radian(height, width)
        own_rows, own_columns = (math.radians(per_radian) for per_radian in own)  # per degree
        return (
            math.ceil(height * per_degree / own_rows),
            math.ceil(width * per_degree / own_columns),
        )

    def read_strip(self, panorama: Panorama) -> Rgb:
        """Decode a panorama to its strip, and no more pixels than the strip can use.

        Raises:
            ImageError: damaged pixels. GeometryError: impossible for this image.
        """
        image = panorama.image.decode(
            min_size=self.sufficient_size(panorama), rows=self._rows_used(panorama)
        )
        return self.strip(image, panorama.geometry)

    def _rows_used(self, panorama: Panorama) -> int:
        """How many of the panorama's rows the strip uses, from the top.

        Averaging reaches into two of the strip's rows below the band.
        """
        height, _ = panorama.image.size
        if self.band is None or panorama.geometry.projection != "equirectangular":
            return height
        extent = panorama.extent
        row_deg = (self.band.top_deg - self.band.bottom_deg) / self.strip_size[0]
        lowest_deg = self.band.bottom_deg - panorama.geometry.tilt.angle_deg
        used_deg = extent.top_deg - (lowest_deg - 2.0 * row_deg)
        share = used_deg / (extent.top_deg - extent.bottom_deg)
        return math.ceil(min(max(share, 0.0), 1.0) * height)

    def strip(self, image: Rgb, geometry: PanoramaGeometry) -> Rgb:
        """uint8 (H, W, 3) panorama to uint8 (*strip_size, 3); see `strip.cut_band`."""
        return cut_band(image, geometry, self.band, self.strip_size, self.fill)

    def tile(self, image: Rgb) -> Rgb:
        """uint8 (H, W, 3) aerial tile to uint8 (input_size, input_size, 3), area-averaged."""
        side = self.input_size
        if image.shape[:2] == (side, side):
            return image
        return np.asarray(
            Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
        )

    def project(self, strips: Tensor, north: North) -> Tensor:
        """Strips in 0..1, (N, 3, *strip_size), to the street branch's view, (N, 3, S, S)."""
        if self.projection == "polar":
            return inverse_polar_transform(strips, self.input_size, north=north)
        if self.projection == "ground":
            if self.band is None:
                raise GeometryError("projection 'ground' needs a band: the strip's elevations")
            return ground_plane_projection(
                strips,
                self.input_size,
                band=self.band,
                span_m=self.ground_span_m,
                camera_height_m=self.ground_camera_height_m,
                north=north,
            )
        size = (self.input_size, self.input_size)
        return functional.interpolate(_rolled(strips, north), size, mode="area")

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in 0..1 to zero mean and unit deviation per channel."""
        mean, std = (
            torch.tensor(values, dtype=images.dtype)
            .view(3, 1, 1)
            .to(images.device, non_blocking=True)  # else this waits for the GPU's earlier work
            for values in (self.mean, self.std)
        )
        return (images - mean) / std


def to_tensor(images: Sequence[Rgb], device: torch.device | str = "cpu") -> Tensor:
    """uint8 (H, W, 3) arrays of one size to float (N, 3, H, W) in 0..1."""
    stacked = torch.from_numpy(np.stack(images)).to(device)
    return stacked.permute(0, 3, 1, 2).float().div_(255.0)


def to_pixels(view: Tensor) -> Rgb:
    """One image as `to_tensor` gives it, (1, 3, H, W), back to uint8 (H, W, 3)."""
    pixels: Rgb = (view[0].permute(1, 2, 0) * 255.0).round().to(torch.uint8).cpu().numpy()
    return pixels


def _rolled(strips: Tensor, north: North) -> Tensor:
    """Roll each strip by whole columns so that north is its centre column."""
    width = strips.shape[-1]
    norths = torch.as_tensor(north, dtype=torch.float64).expand(strips.shape[0])
    shifts = ((0.5 - norths) * width).round().long().tolist()
    return torch.stack([strip.roll(shift, -1) for strip, shift in zip(strips, shifts, strict=True)])
