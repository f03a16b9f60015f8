"""Encoder: images to unit descriptors. The only class of the model that the service sees.

Numpy outside, torch inside. `at_once` threads may encode at the same time; `prepare_street` and
`read_street` touch no weights, `explain_strip` only reads them, and all three are safe in any
thread meanwhile.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.checkpoint import Checkpoint
from model.compiled import CompiledNetwork, CompileError
from model.images import Rgb
from model.network import SiameseNetwork
from model.panorama import Panorama, PanoramaGeometry
from model.parallel import Lanes
from model.precision import EXACT, MIN_COSINE, Way, fast_ways, fastest_runs
from model.preprocessing import to_pixels, to_tensor

log = logging.getLogger(__name__)

Descriptors = NDArray[np.float32]
BATCH = 64
WORTH = 0.9  # of torch's time in float32: a way that takes more is not worth its rounding


class Encoder:
    """A checkpoint ready to describe images.

    Attributes:
        fingerprint: of weights and preprocessing; descriptors of different fingerprints must
            never be compared.
        dimension: D, the length of a descriptor.
        aerial_footprint_m: ground width of the tiles that the aerial branch expects.
        aerial_pixels: side to which tiles are resampled; larger ones gain nothing.
        way: who runs the network, in which number format: torch in float32 until `accelerate`.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        self.config = checkpoint.config
        self.fingerprint = checkpoint.fingerprint
        self.dimension = checkpoint.config.dimension
        self.aerial_footprint_m = checkpoint.config.aerial_footprint_m
        self.aerial_pixels = checkpoint.config.preprocessing.input_size
        self.device = torch.device(device)
        self.way = EXACT
        self._exact = checkpoint.network().requires_grad_(False).to(self.device)
        self._network: Runner = _Eager(self._exact, torch.float32)
        self._lanes = Lanes.of(self.device)

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> Encoder:
        """Read a checkpoint file and put it on "cpu" or "cuda".

        Raises:
            CheckpointError: the file is not a usable checkpoint.
        """
        return cls(Checkpoint.load(path), device)

    @property
    def at_once(self) -> int:
        """How many threads may encode at the same time: what keeps the device busy."""
        return self._lanes.at_once

    def accelerate(
        self,
        ways: Sequence[Way] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Switch to the way of running the network that is fastest here, if it has proved right.

        One whose descriptors of made-up images have a cosine below MIN_COSINE with torch's in
        float32 is not used, and the log says so. The others are timed: what a processor claims to
        do is no measure (docs/decisions.md). The fingerprint stays.

        Args:
            ways: those to try beside EXACT; None: `precision.fast_ways`.
        """
        plain, expected = self._network, self._probe()
        if ways is None:
            ways = fast_ways(self.device)
        usable: dict[Way, Runner] = {}
        for way in (*ways, EXACT):
            try:
                network = self._run_by(way)
                self._use(way, network)
                cosine = float((self._probe() * expected).sum(1).min())
            except CompileError as error:
                log.warning("%s is not used: %s", way, error)
                continue
            if cosine >= MIN_COSINE:  # false for NaN
                usable[way] = network
            else:
                log.info("%s is not used: cosine %.6f with %s", way, cosine, EXACT)
        if not usable:  # not even torch agrees with itself: its descriptors are no numbers
            self._use(EXACT, plain)
            return

        def run(way: Way) -> None:
            self._use(way, usable[way])
            self._probe()

        seconds = fastest_runs(list(usable), run, clock)
        best = min(seconds, key=seconds.__getitem__)
        if EXACT in seconds and seconds[best] > WORTH * seconds[EXACT]:
            best = EXACT  # not now this one, now the other, by the machine's noise
        self._use(best, usable[best])
        times = ", ".join(f"{way} {1e3 * spent:.1f} ms" for way, spent in seconds.items())
        log.info("encoding by %s on %s (a few images: %s)", best, self.device, times)

    def _run_by(self, way: Way) -> Runner:
        if way.engine == "openvino":
            side = self.config.preprocessing.input_size
            return CompiledNetwork(self._exact, side, way.dtype)
        network = copy.deepcopy(self._exact).to(way.dtype)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return _Eager(network, way.dtype)

    def _use(self, way: Way, network: Runner) -> None:
        self.way, self._network = way, network

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
        """Strips and, for each, the fraction of the turn that faces north, to (N, D).

        Norths count as the same when they differ by less than 1e-6 of a turn.
        """
        strips = list(strips)  # an array's rows would be other objects each time
        # The views of one roll are other rolls turned: each is described once.
        turns = self.config.turns
        wanted = [
            self._view(which, north + turn / turns)
            for which, north in zip(_first_of_each(strips), norths, strict=True)
            for turn in range(turns)
        ]
        views = sorted(set(wanted))  # those of one projection side by side
        place = {view: at for at, view in enumerate(views)}
        described = self._described_views(strips, views)
        return self._side_by_side(described[[place[view] for view in wanted]])

    def _view(self, which: int, north: float) -> _View:
        north = round(north % 1.0, 6) % 1.0
        # To another quarter of the turn the projection turns as a whole; a mere resize does not.
        quarters = int(4.0 * north) if self.config.preprocessing.projection != "none" else 0
        return _View(which, round(north - quarters / 4.0, 6), quarters)

    def _described_views(self, strips: Sequence[Rgb], views: Sequence[_View]) -> Descriptors:
        def branch(batch: slice) -> Tensor:
            bases = list(dict.fromkeys((which, north) for which, north, _ in views[batch]))
            north = torch.tensor([one for _, one in bases], dtype=torch.float64, device=self.device)
            shown = to_tensor([strips[which] for which, _ in bases], self.device)
            shown = self.config.preprocessing.project(shown, north)
            shown = self.config.preprocessing.normalise(shown)
            at = {base: row for row, base in enumerate(bases)}
            rows = [at[which, north] for which, north, _ in views[batch]]
            return self._network.street(_turned(shown, rows, [one[2] for one in views[batch]]))

        return self._in_batches(len(views), branch)

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
            pixels = self.config.preprocessing.normalise(view)
            mask = self._exact.street.attention_mask(pixels)
            if mask is not None:
                mask = functional.interpolate(mask, (side, side), mode="bilinear")
        return to_pixels(view), None if mask is None else mask[0, 0].cpu().numpy()

    def encode_rolls(self, image: Rgb, geometry: PanoramaGeometry, rolls: int) -> Descriptors:
        """One panorama of unknown north, supposed at north = i / rolls, to (rolls, D)."""
        strip = self.prepare_street(image, geometry)
        return self.encode_strips([strip] * rolls, [i / rolls for i in range(rolls)])

    def encode_aerials(self, images: Sequence[Rgb]) -> Descriptors:
        """North-up tiles, uint8 (H, W, 3), to descriptors: float32 (N, D), rows of length 1."""
        turns = self.config.turns
        views = range(turns * len(images))

        def branch(batch: slice) -> Tensor:
            first, last = (view // turns for view in (views[batch][0], views[batch][-1]))
            tiles = [self.config.preprocessing.tile(image) for image in images[first : last + 1]]
            pixels = self.config.preprocessing.normalise(to_tensor(tiles, self.device))
            rows = [view // turns - first for view in views[batch]]
            # As the projection turns with its north: by np.rot90's quarters.
            quarters = [view % turns * 4 // turns for view in views[batch]]
            return self._network.aerial(_turned(pixels, rows, quarters))

        return self._side_by_side(self._in_batches(len(views), branch))

    def _side_by_side(self, described: Descriptors) -> Descriptors:
        """(N * turns, D) to (N, turns * D): a squared distance is the mean of the turned views'."""
        turns = self.config.turns
        return described.reshape(-1, self.dimension) / np.float32(math.sqrt(turns))

    def _in_batches(self, count: int, branch: Callable[[slice], Tensor]) -> Descriptors:
        described = np.empty((count, self.config.network.dimension), np.float32)

        def describe(batch: slice) -> None:
            with torch.inference_mode():
                described[batch] = branch(batch).cpu().numpy()

        self._lanes.run(describe, count, self._network.batch)
        return described


class _View(NamedTuple):
    """A strip by its number, where its north lies, 0 to a quarter of a turn, and how many quarters
    what it then shows is turned by."""

    strip: int
    north: float
    quarters: int


class Runner(Protocol):
    """Each branch: normalised images, float32 (N, 3, S, S), N up to `batch`, to (N, D)."""

    batch: int

    @property
    def street(self) -> Callable[[Tensor], Tensor]: ...

    @property
    def aerial(self) -> Callable[[Tensor], Tensor]: ...


class _Eager:
    """torch runs it, operation by operation."""

    batch = BATCH

    def __init__(self, network: SiameseNetwork, dtype: torch.dtype) -> None:
        self._network, self._dtype = network, dtype

    def street(self, images: Tensor) -> Tensor:
        described: Tensor = self._network.street(self._input(images))
        return described

    def aerial(self, images: Tensor) -> Tensor:
        described: Tensor = self._network.aerial(self._input(images))
        return described

    def _input(self, pixels: Tensor) -> Tensor:
        return pixels.to(self._dtype).contiguous(memory_format=torch.channels_last)


def _turned(images: Tensor, rows: Sequence[int], quarters: Sequence[int]) -> Tensor:
    """Rows of images (N, 3, S, S), each turned by so many of np.rot90's quarters, channels last.

    In few operations: every one of them waits for Python's lock, which the service is busy with.
    """
    ways = sorted(set(quarters))
    last = images.permute(0, 2, 3, 1).contiguous()
    every = last.new_empty((len(last), len(ways), *last.shape[1:]))
    for at, quarter in enumerate(ways):
        every[:, at] = last.rot90(quarter, (1, 2))
    views = every.flatten(0, 1)
    wanted = [row * len(ways) + ways.index(way) for row, way in zip(rows, quarters, strict=True)]
    if wanted != list(range(len(views))):
        views = views[wanted]
    return views.permute(0, 3, 1, 2)


def _first_of_each(strips: Sequence[Rgb]) -> list[int]:
    """For each strip the first place at which it stands itself."""
    places: dict[int, int] = {}
    return [places.setdefault(id(strip), place) for place, strip in enumerate(strips)]
