"""Encoder: images to unit descriptors. The only class of the model that the service sees.

Numpy outside, torch inside. One thread at a time may encode; `prepare_street` and `read_street`
touch no weights and are safe in any thread.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.checkpoint import Checkpoint
from model.images import Rgb
from model.lanes import Lanes
from model.network import SiameseNetwork
from model.panorama import PanoramaGeometry
from model.precision import MIN_COSINE, fast_formats, fastest_runs
from model.preprocessing import to_tensor

log = logging.getLogger(__name__)

Descriptors = NDArray[np.float32]
BATCH = 64
WORTH = 0.9  # of float32's time: a format that takes more is not worth its rounding


class Encoder:
    """A checkpoint ready to describe images.

    Attributes:
        fingerprint: of weights and preprocessing; descriptors of different fingerprints must
            never be compared.
        dimension: D, the length of a descriptor.
        aerial_footprint_m: ground width of the tiles that the aerial branch expects.
        aerial_pixels: side to which tiles are resampled; larger ones gain nothing.
        dtype: number format of the network: float32 until `accelerate`.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        self.config = checkpoint.config
        self.fingerprint = checkpoint.fingerprint
        self.dimension = checkpoint.config.dimension
        self.aerial_footprint_m = checkpoint.config.aerial_footprint_m
        self.aerial_pixels = checkpoint.config.preprocessing.input_size
        self.device = torch.device(device)
        self.dtype = torch.float32
        self._network = checkpoint.network().requires_grad_(False).to(self.device)
        self._lanes = Lanes.of(self.device)

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> Encoder:
        """Read a checkpoint file and put it on "cpu" or "cuda".

        Raises:
            CheckpointError: the file is not a usable checkpoint.
        """
        return cls(Checkpoint.load(path), device)

    def accelerate(
        self,
        formats: Sequence[torch.dtype] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Switch to the number format that is fastest here, of those that have proved right.

        A format whose descriptors of made-up images have a cosine below MIN_COSINE with those in
        float32 is not used, and the log says so. The others are timed: what a processor claims to
        do is no measure (docs/decisions.md). The fingerprint stays.

        Args:
            formats: those to try beside float32; None: `precision.fast_formats`.
        """
        exact, expected = self._network, self._probe()
        if formats is None:
            formats = fast_formats(self.device)
        usable: dict[torch.dtype, SiameseNetwork] = {}
        for dtype in (*formats, torch.float32):
            network = copy.deepcopy(exact).to(dtype)
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._use(dtype, network)
            cosine = float((self._probe() * expected).sum(1).min())
            if cosine >= MIN_COSINE:  # false for NaN
                usable[dtype] = network
            else:
                log.warning("%s is not used: cosine %.6f with float32", dtype, cosine)
        if not usable:  # not even float32 agrees with itself: its descriptors are no numbers
            self._use(torch.float32, exact)
            return

        def run(dtype: torch.dtype) -> None:
            self._use(dtype, usable[dtype])
            self._probe()

        seconds = fastest_runs(list(usable), run, clock)
        best = min(seconds, key=seconds.__getitem__)
        if torch.float32 in seconds and seconds[best] > WORTH * seconds[torch.float32]:
            best = torch.float32  # not now this one, now the other, by the machine's noise
        self._use(best, usable[best])
        times = ", ".join(f"{dtype} {1e3 * spent:.1f} ms" for dtype, spent in seconds.items())
        log.info("encoding in %s on %s (a few images: %s)", best, self.device, times)

    def _use(self, dtype: torch.dtype, network: SiameseNetwork) -> None:
        self.dtype, self._network = dtype, network

    def _probe(self) -> Descriptors:
        """Descriptors of the same made-up images by both branches, unturned."""
        random = np.random.default_rng(0)
        height, width = self.config.preprocessing.strip_size
        coarse = random.integers(0, 256, (8, 8, 16, 3), np.uint8)
        blocks = coarse.repeat(-(-height // 8), axis=1).repeat(-(-width // 16), axis=2)
        strips = list(blocks[:, :height, :width])
        streets = self._described_strips(strips, [0.5] * len(strips))
        return np.concatenate([streets, self._described_tiles(strips)])

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
        """Strips and, for each, the fraction of the turn that faces north, to (N, D).

        With turns, norths count as the same when they differ by less than 1e-6 of a turn.
        """
        if self.config.turns == 1:
            return self._described_strips(strips, norths)
        strips = list(strips)  # an array's rows would be other objects each time
        # The views of one roll are other rolls turned: each is described once.
        views: dict[tuple[int, float], int] = {}
        rows = [
            [
                views.setdefault((which, round((north + turn) % 1.0, 6) % 1.0), len(views))
                for which, north in zip(_first_of_each(strips), norths, strict=True)
            ]
            for turn in self._turns()
        ]
        described = self._described_strips(
            [strips[which] for which, _ in views], [north for _, north in views]
        )
        return self._side_by_side([described[one] for one in rows])

    def _described_strips(self, strips: Sequence[Rgb], norths: Sequence[float]) -> Descriptors:
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

    def explain_strip(self, strip: Rgb, north: float) -> tuple[Rgb, NDArray[np.float32] | None]:
        """What the street branch sees of a strip, unturned, and how it weighs the parts of it.

        Returns:
            The projected image, uint8 (S, S, 3), north up; the attention's mask in 0..1, float32
            (S, S), upsampled bilinearly, or None for a network without attention.
        """
        side = self.config.preprocessing.input_size
        with torch.inference_mode():
            view = self.config.preprocessing.project(to_tensor([strip], self.device), north)
            pixels = self._input(self.config.preprocessing.normalise(view))
            mask = self._network.street.attention_mask(pixels)
            if mask is not None:
                mask = functional.interpolate(mask.float(), (side, side), mode="bilinear")
        picture = (view[0].permute(1, 2, 0) * 255.0).round().to(torch.uint8).cpu().numpy()
        return picture, None if mask is None else mask[0, 0].cpu().numpy()

    def encode_rolls(self, image: Rgb, geometry: PanoramaGeometry, rolls: int) -> Descriptors:
        """One panorama of unknown north, supposed at north = i / rolls, to (rolls, D)."""
        strip = self.prepare_street(image, geometry)
        return self.encode_strips([strip] * rolls, [i / rolls for i in range(rolls)])

    def encode_aerials(self, images: Sequence[Rgb]) -> Descriptors:
        """North-up tiles, uint8 (H, W, 3), to descriptors: float32 (N, D), rows of length 1."""
        turned = [self._described_tiles(images, round(4 * turn)) for turn in self._turns()]
        return self._side_by_side(turned)

    def _described_tiles(self, images: Sequence[Rgb], quarters: int = 0) -> Descriptors:
        """Turned by so many of np.rot90's quarters: IPT(strip, north + quarters / 4) is so too."""

        def branch(batch: slice) -> Tensor:
            tiles = [self.config.preprocessing.tile(image) for image in images[batch]]
            pixels = self.config.preprocessing.normalise(to_tensor(tiles, self.device))
            turned = pixels.rot90(quarters, (2, 3))
            described: Tensor = self._network.aerial(self._input(turned))
            return described

        return self._in_batches(len(images), branch)

    def _turns(self) -> list[float]:
        """Fractions of a full turn."""
        return [turn / self.config.turns for turn in range(self.config.turns)]

    def _side_by_side(self, turned: Sequence[Descriptors]) -> Descriptors:
        """A squared distance is then the mean of the turned views' own."""
        if len(turned) == 1:
            return turned[0]
        return np.concatenate(turned, axis=1) / np.float32(math.sqrt(len(turned)))

    def _street_descriptors(self, views: Tensor) -> Tensor:
        pixels = self.config.preprocessing.normalise(views)
        described: Tensor = self._network.street(self._input(pixels))
        return described

    def _input(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _in_batches(self, count: int, branch: Callable[[slice], Tensor]) -> Descriptors:
        described = np.empty((count, self.config.network.dimension), np.float32)

        def describe(batch: slice) -> None:
            with torch.inference_mode():
                described[batch] = branch(batch).cpu().numpy()

        self._lanes.run(describe, count, BATCH)
        return described


def _first_of_each(strips: Sequence[Rgb]) -> list[int]:
    """For each strip the first place at which it stands itself."""
    places: dict[int, int] = {}
    return [places.setdefault(id(strip), place) for place, strip in enumerate(strips)]
