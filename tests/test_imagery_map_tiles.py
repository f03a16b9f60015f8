"""Map tiles land where an independent projection says; holes, levels and bad files are handled."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_tile_samples import HALF_M, ORIGIN, Layout, colour, quadkey, tms, write_map_tiles
from PIL import Image
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from model.geo import offset, wrap_longitude
from service.imagery.grid import GridError
from service.imagery.map_tiles import MapTileSource
from service.imagery.pmtiles_archive import PmtilesSource
from service.imagery.reading import AS_STATED, Reading
from service.imagery.source import Cut, Source, SourceError
from service.imagery.source_kinds import open_again, open_source
from service.index.catalogue import Catalogue
from service.ingest import BadImages, NothingToIngest, ingest


def error_of(source: Source) -> int:
    """The largest error of three tiles' colours; 1 is 0.8 m."""
    errors = []
    for east, north in ((0.0, 0.0), (35.0, -20.0), (-30.0, 25.0)):
        picture = source.read(Cut("t", offset(ORIGIN, east, north), 32.0), 32)
        steps = np.arange(32) - 15.5  # one pixel a metre
        expected = colour(*np.meshgrid(east + steps, north - steps))
        assert picture.valid == 1.0
        errors.append(np.abs(picture.pixels.astype(int) - expected).max())
    return int(max(errors))


@pytest.mark.parametrize("level", [16, 18, 19])
def test_pixels_lie_at_their_positions(tmp_path: Path, level: int) -> None:
    assert error_of(MapTileSource(write_map_tiles(tmp_path / "map", (level,), reach=2))) <= 1


def at_2x(zoom: int, column: int, row: int) -> str:
    return f"{zoom}/{column}/{row}@2x"


def below(zoom: int, column: int, row: int) -> str:
    return f"export/tiles/{zoom}/{column}/{row}"


def in_shards(zoom: int, column: int, row: int) -> str:
    return f"{column % 7}/{quadkey(zoom, column, row)[1:]}"


@pytest.mark.parametrize(
    ("layout", "side", "suffix"),
    [
        (at_2x, 512, "png"),
        (below, 256, "png"),
        (quadkey, 256, "png"),
        (in_shards, 256, "webp"),
        (quadkey, 256, "jpeg"),
    ],
)
def test_other_layouts_show_the_same_ground(
    tmp_path: Path, layout: Layout, side: int, suffix: str
) -> None:
    folder = write_map_tiles(tmp_path / "map", (17, 18), 2, suffix, layout, side)
    source = open_source(folder)
    assert isinstance(source, MapTileSource)
    assert error_of(source) <= (1 if suffix == "png" else 6)
    again = open_again("xyz", folder, "map", source.signature(), AS_STATED)
    assert again.signature() == source.signature()
    assert error_of(again) == error_of(source)


def write_archive(file: Path, folder: Path, kind: TileType = TileType.PNG) -> Path:
    """The map tiles of a folder in a PMTiles archive."""
    files = {tuple(map(int, f.with_suffix("").parts[-3:])): f for f in folder.rglob("*.png")}
    with file.open("wb") as out:
        writer = Writer(out)
        for place in sorted(files, key=lambda place: zxy_to_tileid(*place)):
            writer.write_tile(zxy_to_tileid(*place), files[place].read_bytes())
        writer.finalize(
            {"tile_type": kind, "tile_compression": Compression.NONE}, {"attribution": "© City"}
        )
    return file


def test_an_archive_is_the_folder_that_it_was_made_of(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (17, 18), 2)
    file = write_archive(tmp_path / "map.pmtiles", folder)
    source, plain = open_source(file, "map"), MapTileSource(folder, "map")
    assert isinstance(source, PmtilesSource)
    assert source.attribution == "© City"
    assert list(source.cuts(32.0, 16.0)) == list(plain.cuts(32.0, 16.0))
    assert error_of(source) <= 1
    again = open_again("pmtiles", file, "map", source.signature(), AS_STATED)
    assert again.signature() == source.signature()
    before = source.signature()
    os.utime(file, (1, 1))
    assert source.signature() != before


def test_a_large_archive_is_listed_whole(tmp_path: Path) -> None:
    """Its directory has directories below, and one entry stands for runs of equal pictures."""
    pictures = [io.BytesIO(), io.BytesIO()]
    for number, picture in enumerate(pictures):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(picture, "PNG")
    random = np.random.default_rng(0)
    numbers = np.flatnonzero(random.random(100_000) < 0.3).tolist()  # too irregular for the root
    first = zxy_to_tileid(18, 1000, 2000)
    with (tmp_path / "large.pmtiles").open("wb") as out:
        writer = Writer(out)
        for number in numbers:
            writer.write_tile(first + number, pictures[random.integers(2)].getvalue())
        header = {"tile_type": TileType.PNG, "tile_compression": Compression.NONE}
        writer.finalize(header, {})
    assert f"{len(numbers)} of level 18" in open_source(tmp_path / "large.pmtiles").notes[0]


def test_archives_without_pictures_are_refused(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,))
    vector = write_archive(tmp_path / "vector.pmtiles", folder, TileType.MVT)
    with pytest.raises(SourceError, match=r"holds MVT map tiles: pictures are needed"):
        open_source(vector)
    whole = write_archive(tmp_path / "whole.pmtiles", folder)
    with pytest.raises(SourceError, match="count their rows from the north: leave out"):
        open_source(whole, reading=Reading(scheme="tms"))
    for number, data in enumerate((whole.read_bytes()[:140], b"PMTiles\2", b"<html></html>")):
        file = tmp_path / f"{number}.pmtiles"
        file.write_bytes(data)
        with pytest.raises(SourceError, match=r"no PMTiles archive of version 3, or damaged"):
            open_source(file)
    whole.write_bytes(whole.read_bytes()[:-3000])
    with pytest.raises(SourceError, match=r"whole.pmtiles: the picture of .* is not an image"):
        list(map(open_source(whole).read, open_source(whole).cuts(32.0, 16.0), [32] * 9999))


def test_the_signature_of_plain_map_tiles_is_that_of_earlier_versions(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (17, 18))
    digest = hashlib.sha256()
    for zoom in (17, 18):
        files = (folder / str(zoom)).rglob("*.png")
        for place, stat in sorted(((int(f.parent.name), int(f.stem)), f.stat()) for f in files):
            digest.update(f"{zoom} {place} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    assert MapTileSource(folder).signature() == digest.hexdigest()


BOUNDS = "179.99,59.99,-179.99,60.01"
OF_GDAL2TILES = """<TileMap version="1.0.0"><SRS>EPSG:3857</SRS>
<BoundingBox minx="{}" miny="{}" maxx="{}" maxy="{}"/><TileSets profile="mercator"/></TileMap>"""


@pytest.mark.parametrize(
    ("file", "text", "given"),
    [
        ("metadata.json", json.dumps({"scheme": "tms"}), None),
        ("metadata.json", json.dumps({"scheme": "xyz"}), "tms"),
        ("metadata.json", json.dumps({"bounds": BOUNDS}), None),
        ("tiles.json", json.dumps({"bounds": [179.9, 59.9, -179.9, 60.1]}), None),
        ("tilemapresource.xml", OF_GDAL2TILES.format(179.9, 59.9, 180.1, 60.1), None),
        ("tilemapresource.xml", OF_GDAL2TILES.format(59.9, 179.9, 60.1, 180.1), None),  # GDAL 1
        ("tilemapresource.xml", OF_GDAL2TILES.format(2.00e7, 8.38e6, 2.01e7, 8.41e6), None),
        ("note.txt", "", "tms"),
    ],
)
def test_rows_from_the_south_show_the_same_ground(
    tmp_path: Path, file: str, text: str, given: Any
) -> None:
    folder = write_map_tiles(tmp_path / "map", (17, 18), 2, layout=tms)
    (folder / file).write_text(text)
    source = open_source(folder, "map", reading=Reading(scheme=given))
    plain = MapTileSource(write_map_tiles(tmp_path / "plain", (17, 18), 2), "map")
    assert re.search(r"south \(tms\), as .*: the imagery lies around 60\.0", source.notes[1])
    assert error_of(source) <= 1
    assert list(source.cuts(32.0, 16.0)) == list(plain.cuts(32.0, 16.0))
    (folder / file).unlink()  # the scheme of the ingest holds until the next
    again = open_again("xyz", folder, "map", source.signature(), AS_STATED)
    assert again.signature() == source.signature()
    assert error_of(again) <= 1


@pytest.mark.parametrize(
    ("said", "given", "reason"),
    [
        ({"scheme": "tms", "bounds": BOUNDS}, None, r"metadata.json says tms, but .*bounds 179.99"),
        ({"bounds": BOUNDS}, "tms", r"--scheme says tms, but .*xyz puts the rows around 60\.0"),
        ({"bounds": "59.99,179,60.01,180"}, None, r"tms puts the rows around -60\.0"),
        ({"bounds": [10, 20, 11, 21]}, None, "state the right scheme with --scheme, or mend"),
        ({"bounds": "everywhere"}, None, "bounds .*everywhere.*west, south, east, north"),
        ({"scheme": "zyx"}, None, "scheme 'zyx': xyz or tms"),
        ({"profile": "geodetic"}, None, r"'geodetic': Web Mercator .* is needed"),
        ({"crs": "EPSG:4326"}, None, r"'EPSG:4326': Web Mercator"),
    ],
)
def test_statements_that_contradict_are_refused(
    tmp_path: Path, said: dict[str, Any], given: Any, reason: str
) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,))
    (folder / "metadata.json").write_text(json.dumps(said))
    with pytest.raises(SourceError, match=reason):
        open_source(folder, reading=Reading(scheme=given))


def test_an_assumed_scheme_is_stated_with_both_positions(tmp_path: Path) -> None:
    (_, note) = open_source(write_map_tiles(tmp_path / "map", (17, 18))).notes
    assert "9 of level 17, 9 of level 18" in note
    assert re.search(r"no file says otherwise.*-60\.0\d+, .*lies around 60\.0\d+, ", note)


def test_map_tiles_of_another_projection_are_refused(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,))
    (folder / "tilemapresource.xml").write_text(
        '<TileMap><SRS>EPSG:4326</SRS><TileSets profile="local"/></TileMap>'
    )
    with pytest.raises(SourceError, match="'local': Web Mercator"):
        open_source(folder)
    (folder / "tilemapresource.xml").write_text("<TileMap")
    with pytest.raises(SourceError, match="cannot be read as XML"):
        open_source(folder)
    (folder / "tilemapresource.xml").unlink()
    column = next((folder / "18").iterdir())
    column.rename(column.with_name(str(2**18 + 5)))  # geodetic levels are twice as wide
    with pytest.raises(SourceError, match=r"the number 262149, .*geodetic \(EPSG:4326\)"):
        open_source(folder)


def test_cuts_cover_the_deepest_level_across_the_dateline(tmp_path: Path) -> None:
    source = MapTileSource(write_map_tiles(tmp_path / "map", (15, 18)))
    longitudes = {wrap_longitude(cut.centre.longitude) > 0 for cut in source.cuts(32.0, 16.0)}
    assert longitudes == {True, False}
    with Catalogue.of(tmp_path) as catalogue:
        report = ingest(catalogue, tmp_path / "map", size_m=32.0, stride_m=16.0)
        assert catalogue.source("map").kind == "xyz"
    side_m = 3 * 256 * 2 * HALF_M / 2**18 / 256 * 0.501
    assert report.tiles == pytest.approx((side_m / 16.0) ** 2, rel=0.1)
    assert report.skipped_empty <= 4


def repaint(folder: Path, *colour: int, alike: bool = False) -> None:
    """Fills every map tile with a colour; no two files are alike, unless asked for."""
    for number, file in enumerate(folder.rglob("*.png")):
        picture = Image.new("RGBA", (256, 256), (*colour, 255)[:4])
        if not alike:
            picture.putpixel((number, 0), (*colour[:2], 200, *colour[3:])[:4])
        picture.save(file)


def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (16, 18))
    repaint(folder / "16", 9, 9, 9)
    source = MapTileSource(folder)
    cut = Cut("t", ORIGIN, 64.0)
    assert (source.read(cut, 32).pixels == 9).all()  # 2 m a pixel, level 16 has 1.2
    assert (source.read(cut, 128).pixels[..., 2] == 128).all()
    repaint(folder / "16", 9, 9, 9, 0)
    hole = MapTileSource(folder).read(cut, 32)
    assert (hole.pixels[..., 2] == 128).all()
    assert hole.valid == 1.0


def test_a_coarser_level_shows_the_ground_that_finer_levels_leave_out(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (17,), reach=2)
    coarse = list(MapTileSource(folder, "map").cuts(32.0, 16.0))
    write_map_tiles(folder, (19,), reach=0)
    source = MapTileSource(folder, "map")
    assert list(source.cuts(32.0, 16.0)) == coarse
    assert error_of(source) <= 2  # partly from 1.2 m a pixel
    only_fine = MapTileSource(write_map_tiles(tmp_path / "fine", (12, 19), reach=0), "map")
    assert 0 < len(list(only_fine.cuts(32.0, 16.0))) < len(coarse) / 20  # 12 is too coarse


def test_a_picture_that_stands_for_many_places_is_no_imagery(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (17, 18), reach=2)
    plain = MapTileSource(folder, "map")
    repaint(folder / "18", 200, 60, 60, alike=True)  # "no imagery at this zoom"
    source = open_source(folder, "map")
    assert re.search(r"about 25 of level 18 are one picture, such as .*png", source.notes[-1])
    again = open_again("xyz", folder, "map", source.signature(), AS_STATED)
    for each in (source, again):
        assert error_of(each) <= 2  # level 17's pixels
    assert again.signature() == source.signature() != plain.signature()
    repaint(folder / "17", 200, 60, 60, alike=True)
    with Catalogue.of(tmp_path) as catalogue, pytest.raises(NothingToIngest):
        ingest(catalogue, folder, size_m=64.0, stride_m=64.0)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"<html>404</html>", "an HTML page"),
        (b"\x89PNG\r\n\x1a\n half", "a PNG image"),
    ],
)
def test_damaged_map_tiles_are_named_and_nothing_is_ingested(
    tmp_path: Path, data: bytes, kind: str
) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,))
    file = sorted(folder.rglob("*.png"))[4]
    file.write_bytes(data)
    with Catalogue.of(tmp_path) as catalogue:
        with pytest.raises(
            (BadImages, SourceError), match=f"{file}.*copy it again, or delete it. It is {kind}"
        ):
            ingest(catalogue, folder, size_m=32.0, stride_m=16.0)
        assert list(catalogue.sources()) == []


def test_missing_map_tiles_are_counted_as_empty(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,), reach=0)
    source = MapTileSource(folder)
    cuts = list(source.cuts(64.0, 16.0))
    valid = [source.read(cut, 32).valid for cut in cuts]
    assert 0.2 < min(valid) < 0.5 < max(valid) <= 1.0


def test_unusable_map_tiles_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (12,))
    with pytest.raises(GridError, match=r"19\.1 m per pixel .* deeper levels"):
        list(MapTileSource(folder).cuts(64.0, 16.0))
    (folder / "13").mkdir()
    with pytest.raises(SourceError, match=r"13 holds no map tile: expected 13/x/y\.png"):
        open_source(folder)
    (folder / "13").rmdir()
    file = next(folder.rglob("*.png"))
    Image.new("RGB", (256, 128)).save(file)
    with pytest.raises(SourceError, match="256x128"):
        [MapTileSource(folder).read(Cut("t", ORIGIN, 900.0), 64) for _ in (1,)]


def test_a_damaged_map_tile_is_named(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,), reach=0)
    source = MapTileSource(folder)
    file = next(folder.rglob("*.png"))
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(SourceError, match=file.name):
        source.read(Cut("t", ORIGIN, 32.0), 32)
    before = source.signature()
    file.write_bytes(b"")
    assert source.signature() != before
