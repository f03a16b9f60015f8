"""The catalogue: all sources and their tiles, with a digest of each tile's pixels, in SQLite.

A source is replaced in one transaction. A reader sees the old tiles or the new tiles, and a process
killed in between leaves the old. The file holds no pixels.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import SkyfixError, public_reason
from model.geo import Bounds, LatLon, bounds_around

FORMAT = 3  # PRAGMA user_version of the file; 1 had no digests, 2 no `reading`

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS sources (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, path TEXT NOT NULL,
    size_m REAL, stride_m REAL,
    licence TEXT NOT NULL, attribution TEXT NOT NULL,
    signature TEXT NOT NULL, ingested_at TEXT NOT NULL, reading TEXT NOT NULL DEFAULT ''
)""",
    """CREATE TABLE IF NOT EXISTS tiles (
    tile_id TEXT PRIMARY KEY, source TEXT NOT NULL REFERENCES sources(name),
    latitude REAL NOT NULL, longitude REAL NOT NULL, size_m REAL NOT NULL,
    sha256 BLOB NOT NULL
) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS tiles_of_source ON tiles (source)",
    # One digest a source and its tiles: SQLite does not notice a value that changed on the disk.
    "CREATE TABLE IF NOT EXISTS digests (source TEXT PRIMARY KEY, sha256 BLOB NOT NULL)",
)


class CatalogueError(SkyfixError):
    """The catalogue's file cannot be used."""


class TileUnknown(SkyfixError):
    """No tile has this id."""


class SourceUnknown(SkyfixError):
    """No source has this name."""


class TileIdTaken(SkyfixError):
    """Another source already holds a tile of this id."""


class Tile(NamedTuple):
    """One square of ground. `sha256`: of its pixels, cut at service.ingest.HASH_PIXELS."""

    tile_id: str
    source: str
    latitude: float
    longitude: float
    size_m: float
    sha256: bytes

    @property
    def centre(self) -> LatLon:
        return LatLon(self.latitude, self.longitude)

    @property
    def bounds(self) -> Bounds:
        return bounds_around(self.centre, self.size_m)


class SourceRecord(NamedTuple):
    """Where tiles come from. `signature` changes with the source's files."""

    name: str
    kind: str
    path: str
    size_m: float | None  # as asked for; None: the images' own
    stride_m: float | None
    licence: str
    attribution: str
    signature: str
    ingested_at: str  # ISO 8601, UTC
    reading: str = ""  # of service.imagery.reading


# Named, not *: a damaged schema has other columns.
SOURCES = f"SELECT {', '.join(SourceRecord._fields)} FROM sources"
TILES = f"SELECT {', '.join(Tile._fields)} FROM tiles"


class Changes(NamedTuple):
    """What replacing a source did, in tiles."""

    added: int
    updated: int
    removed: int
    unchanged: int


class Catalogue:
    """A context manager over the file; only the thread that opened it may use it."""

    def __init__(self, path: Path) -> None:
        """Opens the catalogue, creating an empty one (and its folder) where there is none.

        Raises:
            CatalogueError: not a catalogue, damaged, or of another format.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise CatalogueError(
                f"{path}: the catalogue cannot be opened: {error}",
                public=f"{path.name}: the catalogue cannot be opened: {public_reason(error)}",
            ) from error
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def of(cls, home: Path, *, create: bool = True) -> Catalogue:
        """The catalogue of a home folder.

        Raises:
            CatalogueError: see the constructor; without `create`, also when there is none.
        """
        path = home / "catalogue.sqlite"
        if not create and not path.exists():
            raise CatalogueError(
                f"{path} is not there: put back a copy, or run `skyfix ingest` again",
                public=f"{path.name} is not there: put back a copy, or run `skyfix ingest` again",
            )
        return cls(path)

    def _prepare(self) -> None:
        try:
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found not in range(FORMAT + 1):
                raise self._error(
                    f"is a catalogue of format {found}, this program writes {FORMAT}: ingest into "
                    "a new home"
                )
            if found < FORMAT:
                self._upgrade()
            self._number("SELECT count(*) FROM sqlite_master")  # fails now if that is damaged
        except sqlite3.Error as error:
            raise self._error(f"is not a usable catalogue: {error}") from error

    def _upgrade(self) -> None:
        with self._transaction("BEGIN IMMEDIATE"):
            if self._number("PRAGMA user_version") == FORMAT:  # another process was faster
                return
            for statement in SCHEMA:
                self._db.execute(statement)
            if "reading" not in (row[1] for row in self._rows("PRAGMA table_info(sources)")):
                self._db.execute("ALTER TABLE sources ADD COLUMN reading TEXT NOT NULL DEFAULT ''")
            for source in self.sources():
                self._seal(source.name)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def replace_source(self, source: SourceRecord, tiles: Iterable[Tile]) -> Changes:
        """Replace a source's tiles by `tiles`, which are all read before anything changes.

        Raises:
            TileIdTaken: a tile id belongs to another source.
            CatalogueError: the file is locked, damaged, or its disk is full.
        """
        db = self._db
        with self._transaction("BEGIN"):  # separate: the last transaction locks the file
            db.execute("DROP TABLE IF EXISTS temp.incoming")
            db.execute("CREATE TEMP TABLE incoming AS SELECT * FROM tiles LIMIT 0")
            db.execute("CREATE UNIQUE INDEX temp.incoming_id ON incoming (tile_id)")
        with self._transaction("BEGIN"):
            db.executemany("INSERT INTO incoming VALUES (?, ?, ?, ?, ?, ?)", tiles)
        with self._transaction("BEGIN IMMEDIATE"):
            changes = self._compare(source.name)
            db.execute("INSERT OR REPLACE INTO sources VALUES (?,?,?,?,?,?,?,?,?,?)", source)
            db.execute("DELETE FROM tiles WHERE source = ?", (source.name,))
            db.execute("INSERT INTO tiles SELECT * FROM incoming")
            self._seal(source.name)
            db.execute("DROP TABLE temp.incoming")
        return changes

    def _compare(self, name: str) -> Changes:
        joined = "incoming AS new JOIN tiles AS old USING (tile_id)"
        others = f"SELECT tile_id, old.source FROM {joined} WHERE old.source <> ? LIMIT 1"
        taken = next(self._rows(others, name), None)
        if taken:
            raise TileIdTaken(
                f"tile id {taken[0]!r} already belongs to the source {taken[1]!r}: remove that "
                f"source, or ingest under its name, or rename the tiles"
            )
        same = "new.sha256 = old.sha256 AND new.size_m = old.size_m"
        unchanged = self._number(f"SELECT count(*) FROM {joined} WHERE {same}")
        common = self._number(f"SELECT count(*) FROM {joined}")
        before = self._number("SELECT count(*) FROM tiles WHERE source = ?", name)
        incoming = self._number("SELECT count(*) FROM incoming")
        return Changes(incoming - common, common - unchanged, before - common, unchanged)

    def remove_source(self, name: str) -> int:
        """Removes a source and its tiles; returns how many.

        Raises:
            SourceUnknown: there is none of this name.
        """
        self.source(name)
        with self._transaction("BEGIN IMMEDIATE"):
            removed = self._db.execute("DELETE FROM tiles WHERE source = ?", (name,)).rowcount
            self._db.execute("DELETE FROM sources WHERE name = ?", (name,))
            self._db.execute("DELETE FROM digests WHERE source = ?", (name,))
        return removed

    def verify(self) -> None:
        """Reads every row: SQLite finds damaged structure, the digests find changed values.

        Raises:
            CatalogueError: saying what is damaged, and what to do.
        """
        (state,) = next(self._rows("PRAGMA integrity_check(1)"))
        if state != "ok":
            raise self._damaged(state)
        # One snapshot: an ingest that ends in between would look like damage.
        with self._transaction("BEGIN"):
            sealed = dict(self._rows("SELECT source, sha256 FROM digests"))
            for source in self.sources():
                if sealed.pop(source.name, None) != self._digest(source.name):
                    raise self._damaged(f"source {source.name!r} is not what was ingested")
            if sealed:
                raise self._damaged(f"the sources {sorted(sealed)} are lost")

    def _seal(self, name: str) -> None:
        digest = self._digest(name)
        self._db.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (name, digest))

    def _digest(self, name: str) -> bytes:
        digest = hashlib.sha256(repr(tuple(self.source(name))).encode())
        for row in self._rows(f"{TILES} WHERE source = ? ORDER BY tile_id", name):
            digest.update(repr(row).encode())
        return digest.digest()

    def sources(self) -> list[SourceRecord]:
        """All sources, by name."""
        return [SourceRecord(*row) for row in self._rows(f"{SOURCES} ORDER BY name")]

    def source(self, name: str) -> SourceRecord:
        """Raises SourceUnknown when there is none of this name."""
        row = next(self._rows(f"{SOURCES} WHERE name = ?", name), None)
        if row is None:
            known = [source.name for source in self.sources()]
            raise SourceUnknown(f"no source is named {name!r}; there are {known}")
        return SourceRecord(*row)

    def tiles(self) -> Iterator[Tile]:
        """All tiles in the order of their ids, as of one moment."""
        return (Tile(*row) for row in self._rows(f"{TILES} ORDER BY tile_id"))

    def snapshot(self) -> tuple[list[SourceRecord], list[Tile]]:
        """All sources and all tiles as of one moment: of each tile, its source is there."""
        with self._transaction("BEGIN"):
            return self.sources(), list(self.tiles())

    def around(self, name: str) -> dict[str, int]:
        """How many tiles of each other source are centred in the box around a source's tiles."""
        box = (
            "SELECT min(latitude) AS south, max(latitude) AS north, min(longitude) AS west, "
            "max(longitude) AS east FROM tiles WHERE source = ?1"
        )
        inside = "latitude BETWEEN south AND north AND longitude BETWEEN west AND east"
        query = f"SELECT source, count(*) FROM tiles, ({box}) WHERE source <> ?1 AND {inside}"
        return dict(self._rows(f"{query} GROUP BY source", name))

    def tiles_by_source(self) -> dict[str, int]:
        """How many tiles each source has."""
        return dict(self._rows("SELECT source, count(*) FROM tiles GROUP BY source"))

    def tile(self, tile_id: str) -> Tile:
        """Raises TileUnknown when there is none of this id."""
        row = next(self._rows(f"{TILES} WHERE tile_id = ?", tile_id), None)
        if row is None:
            raise TileUnknown(f"no tile has the id {tile_id!r}")
        return Tile(*row)

    def _number(self, query: str, *values: str) -> int:
        return int(next(self._rows(query, *values))[0])

    def _rows(self, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(query, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite may quote damaged text
            raise self._unusable(error) from error

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        try:
            self._db.execute(begin)
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._unusable(error) from error
            raise

    def _unusable(self, error: Exception) -> CatalogueError:
        return self._error(f"cannot be read or written: {error}")

    def _damaged(self, what: str) -> CatalogueError:
        return self._error(
            f"is damaged: {what}. Put back a copy, or delete it and run `skyfix ingest` again; "
            "the live index is searched without it"
        )

    def _error(self, text: str) -> CatalogueError:
        """SQLite's own texts name no path."""
        return CatalogueError(f"{self.path} {text}", public=f"{self.path.name} {text}")
