"""Encoder: images to unit descriptors. The only class of the model that the service sees.

Numpy outside, torch inside. One thread at a time may encode; `prepare_street` and `read_street`
touch no weights and are safe in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoint import Checkpoint
from model.images import Rgb
from model.panorama import PanoramaGeometry
from model.preprocessing import to_tensor

Descriptors = NDArray[np.float32]
BATCH = 64


class Encoder:
    """A checkpoint ready to describe images.

    Attributes:
        fingerprint: of weights and preprocessing; descriptors of different fingerprints must
            never be compared.
        dimension: D, the length of a descriptor.
        aerial_footprint_m: ground width of the tiles that the aerial branch expects.
        aerial_pixels: side to which tiles are resampled; larger ones gain nothing.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        self.config = checkpoint.config
        self.fingerprint = checkpoint.fingerprint
        self.dimension = checkpoint.config.network.dimension
        self.aerial_footprint_m = checkpoint.config.aerial_footprint_m
        self.aerial_pixels = checkpoint.config.preprocessing.input_size
        self.device = torch.device(device)
        self._network = checkpoint.network().requires_grad_(False).to(self.device)

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> Encoder:
        """Read a checkpoint file and put it on "cpu" or "cuda".

        Raises:
            CheckpointError: the file is not a usable checkpoint.
        """
        return cls(Checkpoint.load(path), device)

    def read_street(self, data: bytes, geometry: PanoramaGeometry) -> Rgb:
        """Encoded panorama to strip; see `Preprocessing.read_strip`."""
        return self.config.preprocessing.read_strip(data, geometry)

    def prepare_street(self, image: Rgb, geometry: PanoramaGeometry) -> Rgb:
        """uint8 (H, W, 3) panorama to the uint8 strip that the street branch starts from.

        Raises:
            GeometryError: the geometry is impossible for this image.
        """
        return self.config.preprocessing.strip(image, geometry)

    def encode_strips(self, strips: Sequence[Rgb], norths: Sequence[float]) -> Descriptors:
        """Strips and, for each, the fraction of the turn that faces north, to (N, D)."""

        def branch(batch: slice) -> Tensor:
            north = torch.tensor(norths[batch], dtype=torch.float64, device=self.device)
            views = self.config.preprocessing.project(to_tensor(strips[batch], self.device), north)
            return self._street_descriptors(views)

        return self._in_batches(len(strips), branch)

    def encode_streets(
        self, images: Sequence[Rgb], geometries: Sequence[PanoramaGeometry] | None = None
    ) -> Descriptors:
        """Panoramas, uint8 (H, W, 3), to descriptors: float32 (N, D), rows of length 1.

        Args:
            geometries: one for each image; None: full turns with north in the centre column.

        Raises:
            GeometryError: impossible geometry, or north unknown (see `encode_rolls`).
        """
        if geometries is None:
            geometries = [PanoramaGeometry()] * len(images)
        norths = [one.strip_north for one in geometries]
        strips = [self.prepare_street(*pair) for pair in zip(images, geometries, strict=True)]
        return self.encode_strips(strips, norths)

    def encode_rolls(self, image: Rgb, geometry: PanoramaGeometry, rolls: int) -> Descriptors:
        """One panorama of unknown north, supposed at north = i / rolls, to (rolls, D)."""
        strip = self.prepare_street(image, geometry)
        return self.encode_strips([strip] * rolls, [i / rolls for i in range(rolls)])

    def encode_aerials(self, images: Sequence[Rgb]) -> Descriptors:
        """North-up tiles, uint8 (H, W, 3), to descriptors: float32 (N, D), rows of length 1."""

        def branch(batch: slice) -> Tensor:
            tiles = [self.config.preprocessing.tile(image) for image in images[batch]]
            pixels = self.config.preprocessing.normalise(to_tensor(tiles, self.device))
            described: Tensor = self._network.aerial(
                pixels.contiguous(memory_format=torch.channels_last)
            )
            return described

        return self._in_batches(len(images), branch)

    def _street_descriptors(self, views: Tensor) -> Tensor:
        pixels = self.config.preprocessing.normalise(views)
        described: Tensor = self._network.street(
            pixels.contiguous(memory_format=torch.channels_last)
        )
        return described

    def _in_batches(self, count: int, branch: Callable[[slice], Tensor]) -> Descriptors:
        described = np.empty((count, self.dimension), np.float32)
        with torch.inference_mode():
            for start in range(0, count, BATCH):
                batch = slice(start, min(start + BATCH, count))
                described[batch] = branch(batch).cpu().numpy()
        return described
