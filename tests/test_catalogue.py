"""The catalogue changes whole sources at once, or not at all."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.errors import SkyfixError
from service.index.catalogue import (
    Catalogue,
    CatalogueError,
    Changes,
    SourceRecord,
    SourceUnknown,
    Tile,
    TileIdTaken,
    TileUnknown,
)


def source(name: str = "town") -> SourceRecord:
    return SourceRecord(name, "raster", "/a.tif", 64.0, 16.0, "CC0", "", "1-2", "2026-01-01")


def tiles(numbers: str, content: str = "a", of: str = "town") -> list[Tile]:
    return [Tile(f"t{n}", of, 50.0, 15.0, 64.0, content.encode() * 32) for n in numbers]


def damages(path: Path, step: int) -> Iterator[None]:
    """Flip a bit of every `step`th byte that is not zero, one byte at a time."""
    whole = path.read_bytes()
    for offset in [offset for offset, byte in enumerate(whole) if byte][::step]:
        damaged = bytearray(whole)
        damaged[offset] ^= 4
        path.write_bytes(damaged)
        yield


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.of(tmp_path / "home") as catalogue:
        yield catalogue


def test_replacing_counts_changed_tiles(catalogue: Catalogue) -> None:
    assert catalogue.replace_source(source(), tiles("123")) == Changes(3, 0, 0, 0)
    new = tiles("1") + tiles("2", "b") + tiles("45")
    assert catalogue.replace_source(source(), new) == Changes(2, 1, 1, 1)
    assert list(catalogue.tiles()) == new
    assert len(list(catalogue.tiles())) == 4
    assert catalogue.tile("t2") == new[1]


def test_an_ingest_that_fails_leaves_the_old_tiles(catalogue: Catalogue) -> None:
    def failing() -> Iterator[Tile]:
        yield from tiles("89")
        raise RuntimeError

    catalogue.replace_source(source(), tiles("12"))
    with pytest.raises(RuntimeError):
        catalogue.replace_source(source()._replace(licence="other"), failing())
    assert list(catalogue.tiles()) == tiles("12")
    assert catalogue.source("town").licence == "CC0"
    assert catalogue.replace_source(source(), tiles("1")).removed == 1


def test_readers_see_old_tiles_until_the_new_tiles_are_complete(catalogue: Catalogue) -> None:
    catalogue.replace_source(source(), tiles("12"))

    def while_reading() -> Iterator[Tile]:
        for tile in tiles("345"):
            with Catalogue(catalogue.path) as reader:
                assert list(reader.tiles()) == tiles("12")
            yield tile

    catalogue.replace_source(source(), while_reading())
    assert list(catalogue.tiles()) == tiles("345")


class Overtaken(Catalogue):
    """Another process ingests a second source as soon as the sources have been read."""

    other: threading.Thread | None = None

    def sources(self) -> list[SourceRecord]:
        found = super().sources()
        if self.other is None:
            self.other = threading.Thread(target=self._ingest)
            self.other.start()
            self.other.join(0.3)  # the ingest ends in this time, or waits for the reader
        return found

    def _ingest(self) -> None:
        with Catalogue(self.path) as catalogue:
            catalogue.replace_source(source("later"), tiles("89", of="later"))


def test_a_snapshot_holds_sources_and_tiles_of_one_moment(catalogue: Catalogue) -> None:
    catalogue.replace_source(source(), tiles("12"))
    with Overtaken(catalogue.path) as reader:
        assert reader.snapshot() == ([source()], tiles("12"))
        assert reader.other is not None
        reader.other.join()
        assert reader.snapshot() == (reader.sources(), tiles("12") + tiles("89", of="later"))
    assert [record.name for record in catalogue.sources()] == ["later", "town"]


def test_sources_do_not_change_each_other(catalogue: Catalogue) -> None:
    catalogue.replace_source(source("a"), tiles("12", of="a"))
    catalogue.replace_source(source("b"), tiles("34", of="b"))
    with pytest.raises(TileIdTaken, match="'t2' already belongs to the source 'a'"):
        catalogue.replace_source(source("b"), tiles("23", of="b"))
    assert [s.name for s in catalogue.sources()] == ["a", "b"]
    assert catalogue.remove_source("a") == 2
    assert list(catalogue.tiles()) == tiles("34", of="b")


def test_unknown_names_are_named(catalogue: Catalogue) -> None:
    catalogue.replace_source(source(), tiles("1"))
    with pytest.raises(TileUnknown, match="'t9'"):
        catalogue.tile("t9")
    with pytest.raises(SourceUnknown, match=r"'city'; there are \['town'\]"):
        catalogue.remove_source("city")


def test_a_tile_knows_its_bounds() -> None:
    (tile,) = tiles("1")
    assert tile.bounds.west < 15.0 < tile.bounds.east
    assert tile.bounds.north - tile.bounds.south == pytest.approx(64.0 / 111_229.0, rel=1e-3)


def test_a_flipped_bit_is_found_or_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.replace_source(source(), tiles("123456789"))
    before = (catalogue.sources(), list(catalogue.tiles()))
    found = 0
    for _ in damages(catalogue.path, 3):
        try:
            with Catalogue(catalogue.path) as other:
                other.verify()
                assert (other.sources(), list(other.tiles())) == before
        except CatalogueError:
            found += 1
    assert found > 100


def test_an_ingest_names_a_damaged_file(catalogue: Catalogue) -> None:
    catalogue.replace_source(source(), tiles("123456789"))
    refused = 0
    for _ in damages(catalogue.path, 9):
        try:
            with Catalogue(catalogue.path) as other:
                other.replace_source(source(), tiles("456"))
        except SkyfixError as error:
            refused += str(catalogue.path) in str(error)
    assert refused > 20


def test_a_truncated_file_is_found(catalogue: Catalogue) -> None:
    catalogue.replace_source(source(), tiles("123456789"))
    whole = catalogue.path.read_bytes()
    for share in (0.05, 0.5, 0.99):
        catalogue.path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CatalogueError), Catalogue(catalogue.path) as other:
            other.verify()


@pytest.mark.parametrize("format", [1, 2])
def test_a_former_format_is_converted(catalogue: Catalogue, format: int) -> None:
    catalogue.replace_source(source(), tiles("12"))
    with sqlite3.connect(catalogue.path) as db:
        db.execute("ALTER TABLE sources DROP COLUMN reading")
        if format == 1:
            db.execute("DROP TABLE digests")
        db.execute(f"PRAGMA user_version = {format}")
    db.close()
    with Catalogue(catalogue.path) as old:
        old.verify()
        assert list(old.tiles()) == tiles("12")
        assert old.sources() == [source()]


def test_verify_accepts_a_removed_source(catalogue: Catalogue) -> None:
    catalogue.replace_source(source("a"), tiles("12", of="a"))
    catalogue.replace_source(source("b"), tiles("34", of="b"))
    catalogue.remove_source("a")
    catalogue.verify()
    assert list(catalogue.tiles()) == tiles("34", of="b")


def test_files_other_than_catalogues_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to look at " * 50)
    with pytest.raises(CatalogueError, match="not a usable catalogue"):
        Catalogue(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CatalogueError, match="format 99"):
        Catalogue(tmp_path / "other")
    with pytest.raises(CatalogueError, match="cannot be opened"):
        Catalogue(tmp_path / "text" / "below-a-file")
