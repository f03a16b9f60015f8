"""Catalogue to index version: encode what is new, write, verify, publish.

A build may be killed at any moment. The next build finds the encoded tiles again in shards, and
the live version stays until the new version is verified.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.atomic_write import sync
from model.errors import SkyfixError
from model.images import Rgb
from service.imagery.tile_images import TileImages
from service.index import milvus
from service.index.catalogue import Catalogue
from service.index.engine_choice import EngineChoice
from service.index.flat import Flat, Vectors
from service.index.frozen_tiles import Records, freeze
from service.index.lock import build_lock
from service.index.manifest import TILES, VECTORS, Content, Manifest
from service.index.search import TileIndex, read_version
from service.index.shards import Hashes, Shards
from service.index.stored_calibration import Calibration
from service.index.versions import Versions, verify_folder

log = logging.getLogger(__name__)

BATCH = 64
SHARD_TILES = 1024  # encoded again after a kill: at most this many
MAX_SIZE_MISMATCH = 0.05  # tile size against the footprint that the encoder was trained on
UNIT_TOLERANCE = 1e-3

Progress = Callable[[int, int], None]  # tiles done, tiles in all
Calibrate = Callable[[TileIndex], Calibration]


class AerialEncoder(Protocol):
    """The part of model.encoder.Encoder that a build needs."""

    fingerprint: str
    dimension: int
    aerial_footprint_m: float
    aerial_pixels: int

    def encode_aerials(self, images: Sequence[Rgb]) -> Vectors: ...


class NothingToBuild(SkyfixError):
    """The catalogue holds no tile."""


class FootprintMismatch(SkyfixError):
    """The tiles' ground size is not the one the encoder was trained on."""


class EncodingFailed(SkyfixError):
    """The encoder gave descriptors that cannot be searched."""


class BuildFailed(SkyfixError):
    """The system refused a write; nothing was published."""


@dataclass(frozen=True)
class Version:
    """A published version. `encoded` + `reused` = tiles."""

    name: str
    tiles: int
    encoded: int
    reused: int
    seconds: float


def build(
    home: Path,
    encoder: AerialEncoder,
    *,
    batch: int = BATCH,
    progress: Progress = lambda done, expected: None,
    calibrate: Calibrate = lambda index: index.calibration,
    approximate_from: int | None = None,
    milvus_uri: str | None = None,
) -> Version:
    """Encode the catalogue's tiles and make them the live index version.

    Every content is encoded once, and not at all where the live version or an interrupted build
    has its descriptor by this encoder.

    Args:
        calibrate: gets the finished index before it is published. By default the calibration
            follows from the density of its tiles, and answers state no confidence.
        approximate_from: number of tiles (10,000 or more) from which IVF-PQ searches. None: as for
            the live version; 0: see service.index.engine_choice.FLAT_VALUES.
        milvus_uri: URI of a Milvus server that searches instead, whatever the number of tiles.
            None: as for the live version; empty: no Milvus.

    Raises:
        NothingToBuild, FootprintMismatch, ImageryChanged, EncodingFailed, BuildLocked,
        BuildFailed, CatalogueError, EngineUnavailable, SourceError, and the errors of `calibrate`:
        nothing was published, the live version stays.
    """
    versions = Versions(home)
    try:
        with build_lock(versions.folder), Catalogue.of(home) as catalogue:
            catalogue.verify()
            engine = _engine_choice(versions, approximate_from, milvus_uri)
            return _Build(versions, catalogue, encoder, engine, batch, progress).run(calibrate)
    except OSError as error:
        raise BuildFailed(f"{versions.folder}: the build stopped: {error}") from error


def _engine_choice(
    versions: Versions, approximate_from: int | None, milvus_uri: str | None
) -> EngineChoice:
    """The engine that was asked for; by default that of the live version."""
    live = _live_manifest(versions)
    if live is not None:
        before = live.engine.get("approximate_from")
        if approximate_from is None and before is not None:
            approximate_from = before
            log.info(
                "search is approximate from %d tiles on, as for index version %s: "
                "`build --approximate-from 0` ends this",
                *(before, live.version),
            )
        if milvus_uri is None and live.engine["kind"] == "milvus":
            milvus_uri = milvus.uri_of(live.engine["uri"])
            log.info(
                "Milvus at %s searches, as for index version %s: `build --milvus ''` ends this",
                *(milvus_uri, live.version),
            )
    address = milvus.address_of(milvus_uri, versions.folder) if milvus_uri else None
    return EngineChoice(approximate_from or None, address)


def _live_manifest(versions: Versions) -> Manifest | None:
    """The live version's manifest; without CURRENT, the newest readable one, as servers choose."""
    for name in (versions.current(), *reversed(versions.names())):
        with suppress(SkyfixError):
            return versions.manifest(name or "")
    return None


class _Build:
    """One run: the state that its steps share."""

    def __init__(
        self,
        versions: Versions,
        catalogue: Catalogue,
        encoder: AerialEncoder,
        engine: EngineChoice,
        batch: int,
        progress: Progress,
    ) -> None:
        self.versions, self.encoder, self.engine = versions, encoder, engine
        self.batch, self.progress = batch, progress
        sources, self.tiles = catalogue.snapshot()  # an ingest may end in between
        self.sources = {source.name: source for source in sources}
        self.shards = Shards(versions.folder, encoder.fingerprint, encoder.dimension)

    def run(self, calibrate: Calibrate) -> Version:
        began = time.monotonic()
        self._check()
        name = self.versions.next_name(datetime.now(UTC))
        records = freeze(self.tiles, len(self.tiles))
        self.versions.sweep()
        folder = self.versions.folder / f".new-{name}"
        folder.mkdir()
        try:
            encoded = self._write(folder, name, records, calibrate)
            verify_folder(folder)
            self.versions.publish(folder, name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            self.engine.undo(self.versions.names())
            raise
        self.shards.clear()
        version = Version(
            name, len(records), encoded, len(records) - encoded, time.monotonic() - began
        )
        log.info("published %s", version)
        return version

    def _check(self) -> None:
        if not self.tiles:
            raise NothingToBuild("the catalogue holds no tile: run `skyfix ingest` first")
        wanted = self.encoder.aerial_footprint_m
        wrong = [t for t in self.tiles if abs(t.size_m / wanted - 1.0) > MAX_SIZE_MISMATCH]
        if wrong:
            raise FootprintMismatch(
                f"{len(wrong)} of {len(self.tiles)} tiles do not fit the encoder, which was "
                f"trained on {wanted:g} m of ground; the first is {wrong[0].tile_id!r} with "
                f"{wrong[0].size_m:g} m: ingest {wrong[0].source!r} again with --size-m {wanted:g}"
            )

    def _write(self, folder: Path, name: str, records: Records, calibrate: Calibrate) -> int:
        np.save(folder / TILES, records)
        vectors = Flat.create(folder / VECTORS, len(records), self.encoder.dimension)
        encoded = self._fill(records["sha256"], vectors)
        vectors.flush()
        for file in (TILES, VECTORS):
            sync(folder / file)
        engine = self.engine.prepare(folder, name, self.versions.names())
        manifest = self._manifest(folder, name, engine)
        manifest.write(folder)
        calibration = calibrate(TileIndex.open(folder))
        replace(manifest, calibration=calibration.as_dict()).write(folder)
        return encoded

    def _fill(self, hashes: Hashes, vectors: Vectors) -> int:
        """Write row i's descriptor into vectors[i]; return how many tiles were encoded."""
        contents, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        done = np.zeros(len(contents), dtype=bool)
        for known_hashes, known_vectors in self._known():
            places = np.searchsorted(contents, known_hashes).clip(max=len(contents) - 1)
            rows = np.flatnonzero((contents[places] == known_hashes) & ~done[places])
            vectors[first[places[rows]]] = known_vectors[rows]
            done[places[rows]] = True
        todo = np.sort(first[~done])
        self._encode(hashes, vectors, todo)
        copies = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
        vectors[copies] = vectors[first[inverse[copies]]]
        return len(todo)

    def _known(self) -> Iterator[tuple[Hashes, Vectors]]:
        """Descriptors of this encoder by content: the shards', then the live version's."""
        yield from self.shards.read()
        name = self.versions.current()
        if name is None:
            return
        try:
            manifest, tiles, flat = read_version(self.versions.path(name))
            manifest.check(self.versions.path(name), digests=True)
        except SkyfixError as error:
            log.error("the live version is not reused, its tiles are encoded anew: %s", error)
            return
        if manifest.encoder == self.encoder.fingerprint:
            yield tiles.records["sha256"], flat.vectors

    def _encode(self, hashes: Hashes, vectors: Vectors, todo: NDArray[np.intp]) -> None:
        """Encode in this thread while others read the images; save a shard every SHARD_TILES."""
        unsaved: list[NDArray[np.intp]] = []
        finished = len(hashes) - len(todo)
        with TileImages(self.sources, self.tiles, self.encoder.aerial_pixels) as reader:
            for rows, images in reader.batches(todo, self.batch):
                vectors[rows] = self._checked(self.encoder.encode_aerials(images), len(rows))
                unsaved.append(rows)
                finished += len(rows)
                if sum(map(len, unsaved)) >= SHARD_TILES:
                    saved = np.concatenate(unsaved)
                    reader.check()  # a shard outlives a build that fails at its end
                    self.shards.add(hashes[saved], vectors[saved])
                    unsaved.clear()
                self.progress(finished, len(hashes))

    def _checked(self, vectors: Vectors, count: int) -> Vectors:
        expected = (count, self.encoder.dimension)
        if vectors.shape != expected:
            raise EncodingFailed(f"the encoder gave {vectors.shape} for {expected} descriptors")
        lengths = np.linalg.norm(vectors, axis=1)
        if not (np.abs(lengths - 1.0) <= UNIT_TOLERANCE).all():  # also false for NaN
            raise EncodingFailed(
                f"the encoder gave descriptors of length {lengths.min():g} to {lengths.max():g}, "
                "not 1: its weights are damaged, or its number format overflows"
            )
        return vectors

    def _manifest(self, folder: Path, name: str, engine: dict[str, Any]) -> Manifest:
        sizes = [tile.size_m for tile in self.tiles]
        return Manifest(
            version=name,
            encoder=self.encoder.fingerprint,
            preprocessing={
                "aerial_footprint_m": self.encoder.aerial_footprint_m,
                "aerial_pixels": self.encoder.aerial_pixels,
            },
            dimension=self.encoder.dimension,
            count=len(self.tiles),
            tile_size_m=(min(sizes), max(sizes)),
            sources=self._credits(),
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            files={file.name: Content.of(file) for file in sorted(folder.iterdir())},
            engine=engine,
        )

    def _credits(self) -> list[dict[str, Any]]:
        counts = Counter(tile.source for tile in self.tiles)
        kept = ("name", "kind", "stride_m", "licence", "attribution", "ingested_at")
        return [
            {**{key: getattr(source, key) for key in kept}, "tiles": counts[source.name]}
            for source in self.sources.values()
            if counts[source.name]
        ]
