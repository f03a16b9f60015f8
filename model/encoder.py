"""Encoder: images to unit descriptors. The only class of the model that the service sees.

Numpy outside, torch inside. `at_once` threads may encode at the same time. `prepare_street` and
`read_street` touch no weights, `explain_strip` only reads them: all three are safe in any thread
meanwhile.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.backend import (
    EXACT,
    MIN_COSINE,
    Backend,
    Runner,
    TorchNetwork,
    fast_backends,
    fastest_runs,
    run_network,
)
from model.checkpoint import Checkpoint
from model.core_pool import CorePool
from model.images import Rgb
from model.openvino_network import CompileError
from model.panorama import Panorama, PanoramaGeometry
from model.preprocessing import to_pixels, to_tensor

log = logging.getLogger(__name__)

Descriptors = NDArray[np.float32]
WORTH = 0.9  # a backend that takes longer than this share of EXACT's time is not worth it


class Encoder:
    """A checkpoint ready to encode images.

    Attributes:
        fingerprint: of weights and preprocessing; descriptors of different fingerprints must
            never be compared.
        dimension: D, the length of a descriptor.
        at_once: how many threads may encode at the same time, to keep the device busy.
        aerial_footprint_m: ground width of the tiles that the aerial branch expects.
        aerial_pixels: side to which tiles are resampled; larger tiles gain nothing.
        backend: EXACT until `accelerate`.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        self.config = checkpoint.config
        self.fingerprint = checkpoint.fingerprint
        self.dimension = checkpoint.config.dimension
        self.aerial_footprint_m = checkpoint.config.aerial_footprint_m
        self.aerial_pixels = checkpoint.config.preprocessing.input_size
        self.device = torch.device(device)
        self.backend = EXACT
        self._exact = checkpoint.network().requires_grad_(False).to(self.device)
        self._runner: Runner = TorchNetwork(self._exact, EXACT.dtype)
        self._pool = CorePool(torch.get_num_threads() if self.device.type == "cpu" else 1)
        self.at_once = self._pool.at_once

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> Encoder:
        """Read a checkpoint file and put it on "cpu" or "cuda".

        Raises:
            CheckpointError: the file is not a usable checkpoint.
        """
        return cls(Checkpoint.load(path), device)

    def accelerate(
        self,
        backends: Sequence[Backend] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Switch to the backend that is fastest on this machine and has proved right.

        A backend whose descriptors of made-up images have a cosine below MIN_COSINE with EXACT's
        is not used, and the log says so. The others are timed: the features that a processor
        states are no measure (docs/decisions.md). The fingerprint stays.

        Args:
            backends: backends to try beside EXACT; None: `fast_backends`.
        """
        expected = self._probe()
        runners: dict[Backend, Runner] = {}
        for backend in fast_backends(self.device) if backends is None else backends:
            try:
                self._use(backend, run_network(self._exact, backend, self.aerial_pixels))
                cosine = float((self._probe() * expected).sum(1).min())
            except CompileError as error:
                log.warning("%s is not used: %s", backend, error)
                continue
            if cosine >= MIN_COSINE:  # false for NaN
                runners[backend] = self._runner
            else:
                log.info("%s is not used: cosine %.6f with %s", backend, cosine, EXACT)
        runners[EXACT] = run_network(self._exact, EXACT, self.aerial_pixels)

        def probe(backend: Backend) -> None:
            self._use(backend, runners[backend])
            self._probe()

        seconds = fastest_runs(list(runners), probe, clock)
        best = min(seconds, key=seconds.__getitem__)
        if seconds[best] > WORTH * seconds[EXACT]:
            best = EXACT  # else noise would choose a different backend at each start
        self._use(best, runners[best])
        times = ", ".join(f"{backend} {1e3 * spent:.1f} ms" for backend, spent in seconds.items())
        log.info("encoding by %s on %s (a few images: %s)", best, self.device, times)

    def _use(self, backend: Backend, runner: Runner) -> None:
        self.backend, self._runner = backend, runner

    def _probe(self) -> Descriptors:
        """Descriptors of the same made-up images by both branches."""
        random = np.random.default_rng(0)
        height, width = self.config.preprocessing.strip_size
        coarse = random.integers(0, 256, (8, 8, 16, 3), np.uint8)
        blocks = coarse.repeat(-(-height // 8), axis=1).repeat(-(-width // 16), axis=2)
        strips = list(blocks[:, :height, :width])
        streets = self.encode_strips(strips, [0.5] * len(strips))
        return np.concatenate([streets, self.encode_aerials(strips)])

    def read_street(self, panorama: Panorama) -> Rgb:
        """Decode a panorama to its strip; see `Preprocessing.read_strip`."""
        return self.config.preprocessing.read_strip(panorama)

    def prepare_street(self, image: Rgb, geometry: PanoramaGeometry) -> Rgb:
        """uint8 (H, W, 3) panorama to the uint8 strip that the street branch starts from.

        Raises:
            GeometryError: the geometry is impossible for this image.
        """
        return self.config.preprocessing.strip(image, geometry)

    def encode_strips(self, strips: Sequence[Rgb], norths: Sequence[float]) -> Descriptors:
        """Strips and, for each strip, the fraction of the turn that faces north, to (N, D).

        Norths count as the same when they differ by less than 1e-6 of a turn.
        """
        strips = list(strips)  # an array's rows would be other objects each time
        rows_by_id = {id(strip): row for row, strip in enumerate(strips)}
        # The views of one roll are quarter turns of other rolls: each view is encoded once.
        turns = self.config.turns
        wanted = [
            self._view(rows_by_id[id(strip)], north + turn / turns)
            for strip, north in zip(strips, norths, strict=True)
            for turn in range(turns)
        ]
        views = sorted(set(wanted))  # views of one projection are neighbours
        rows = {view: row for row, view in enumerate(views)}
        descriptors = self._encode_views(strips, views)[[rows[view] for view in wanted]]
        if not self.config.network.half:
            return self._joined_turns(descriptors)
        return self._joined_turns(descriptors, self._seen(strips, wanted))

    def _seen(self, strips: Sequence[Rgb], views: Sequence[_View]) -> NDArray[np.float32]:
        """The share of each half view that the camera saw: (len(views),)."""
        fill, (_, width) = self.config.preprocessing.fill, self.config.preprocessing.strip_size
        columns = np.zeros((len(strips), width), bool)
        for row in {view.strip for view in views}:
            columns[row] = (strips[row] != fill).any((0, 2))
        norths = np.array([view.north + view.quarters / 4.0 for view in views])
        return share_ahead(columns, np.array([view.strip for view in views], int), norths)

    def _view(self, strip: int, north: float) -> _View:
        north = round(north % 1.0, 6) % 1.0
        # A projection by another quarter of the turn is the same image turned; a resize is not.
        quarters = int(4.0 * north) if self.config.preprocessing.projection != "none" else 0
        return _View(strip, round(north - quarters / 4.0, 6), quarters)

    def _encode_views(self, strips: Sequence[Rgb], views: Sequence[_View]) -> Descriptors:
        preprocessing = self.config.preprocessing

        def encode(batch: slice) -> Tensor:
            projections = list(dict.fromkeys((view.strip, view.north) for view in views[batch]))
            norths = [north for _, north in projections]
            images = to_tensor([strips[strip] for strip, _ in projections], self.device)
            images = preprocessing.project(
                images, torch.tensor(norths, dtype=torch.float64, device=self.device)
            )
            images = preprocessing.normalise(images)
            rows = {projection: row for row, projection in enumerate(projections)}
            return self._runner.street(
                _turned(
                    images,
                    [rows[view.strip, view.north] for view in views[batch]],
                    [view.quarters for view in views[batch]],
                )
            )

        return self._in_batches(len(views), encode)

    def encode_streets(
        self, images: Sequence[Rgb], geometries: Sequence[PanoramaGeometry] | None = None
    ) -> Descriptors:
        """Panoramas, uint8 (H, W, 3), to descriptors: float32 (N, D), rows of length 1.

        Args:
            geometries: one for each image; None: full turns with north in the centre column.

        Raises:
            GeometryError: impossible geometry, or north unknown.
        """
        if geometries is None:
            geometries = [PanoramaGeometry()] * len(images)
        norths = [geometry.strip_north for geometry in geometries]
        strips = [self.prepare_street(*pair) for pair in zip(images, geometries, strict=True)]
        return self.encode_strips(strips, norths)

    def explain_strip(self, strip: Rgb, north: float) -> tuple[Rgb, NDArray[np.float32] | None]:
        """The view of a strip that the street branch reads, unturned, and the attention's mask.

        Returns:
            The view, uint8 (S, S, 3), north up; the mask in 0..1, float32 (S, S), upsampled
            bilinearly, or None for a network without attention.
        """
        side = self.config.preprocessing.input_size
        with torch.inference_mode():
            view = self.config.preprocessing.project(to_tensor([strip], self.device), north)
            pixels = self.config.preprocessing.normalise(view)
            mask = self._exact.street.attention_mask(pixels)
            if mask is not None:
                mask = functional.interpolate(mask, (side, side), mode="bilinear")
        return to_pixels(view), None if mask is None else mask[0, 0].cpu().numpy()

    def encode_aerials(self, images: Sequence[Rgb]) -> Descriptors:
        """North-up tiles, uint8 (H, W, 3), to descriptors: float32 (N, D), rows of length 1."""
        turns = self.config.turns
        views = range(turns * len(images))

        def encode(batch: slice) -> Tensor:
            first, last = (view // turns for view in (views[batch][0], views[batch][-1]))
            tiles = [self.config.preprocessing.tile(image) for image in images[first : last + 1]]
            pixels = self.config.preprocessing.normalise(to_tensor(tiles, self.device))
            rows = [view // turns - first for view in views[batch]]
            # As the projection turns with its north: by np.rot90's quarters.
            quarters = [view % turns * 4 // turns for view in views[batch]]
            return self._runner.aerial(_turned(pixels, rows, quarters))

        return self._joined_turns(self._in_batches(len(views), encode))

    def _joined_turns(
        self, descriptors: Descriptors, weights: NDArray[np.float32] | None = None
    ) -> Descriptors:
        """(N * turns, D) to (N, turns * D): a squared distance is the mean over the views.

        weights: (N * turns,), of the views in this mean; the result still has rows of length 1.
        """
        turns = self.config.turns
        if weights is None:
            return descriptors.reshape(-1, self.dimension) / np.float32(math.sqrt(turns))
        by_street = weights.reshape(-1, turns)
        # A camera that saw nothing at all counts all views: it must not divide by 0.
        by_street = np.where(by_street.any(1, keepdims=True), by_street, np.float32(1.0))
        by_street = by_street / np.linalg.norm(by_street, axis=1, keepdims=True)
        joined: Descriptors = (descriptors * by_street.reshape(-1, 1)).reshape(-1, self.dimension)
        return joined

    def _in_batches(self, count: int, encode: Callable[[slice], Tensor]) -> Descriptors:
        descriptors = np.empty((count, self.config.network.dimension), np.float32)

        def encode_batch(batch: slice) -> None:
            with torch.inference_mode():
                descriptors[batch] = encode(batch).cpu().numpy()

        self._pool.run(encode_batch, count, self._runner.batch)
        return descriptors


def share_ahead(
    seen: NDArray[np.bool_], strips: NDArray[np.int64], norths: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The share of the half turn around `norths`, (M,), that a strip shows.

    seen: (N, w), whether a camera saw the strip's columns. strips: (M,), rows of `seen`. norths:
    fractions of the width.
    """
    width = seen.shape[1]
    before = np.cumsum(np.concatenate([seen, seen], axis=1), axis=1)
    before = np.concatenate([np.zeros((len(seen), 1), before.dtype), before], axis=1)
    first = np.round((norths - 0.25) * width).astype(np.int64) % width
    count = before[strips, first + width // 2] - before[strips, first]
    share: NDArray[np.float32] = (count / (width // 2)).astype(np.float32)
    return share


class _View(NamedTuple):
    """A strip by its row, its north within 0 to 0.25, and the quarter turns of its projection."""

    strip: int
    north: float
    quarters: int


def _turned(images: Tensor, rows: Sequence[int], quarters: Sequence[int]) -> Tensor:
    """Rows of images (N, 3, S, S), each turned by np.rot90's quarters, channels last.

    In few operations: each operation waits for Python's lock, which the service keeps busy.
    """
    turns = sorted(set(quarters))
    last = images.permute(0, 2, 3, 1).contiguous()
    turned = last.new_empty((len(last), len(turns), *last.shape[1:]))
    for column, turn in enumerate(turns):
        turned[:, column] = last.rot90(turn, (1, 2))
    views = turned.flatten(0, 1)
    wanted = [
        row * len(turns) + turns.index(turn) for row, turn in zip(rows, quarters, strict=True)
    ]
    if wanted != list(range(len(views))):
        views = views[wanted]
    return views.permute(0, 3, 1, 2)
