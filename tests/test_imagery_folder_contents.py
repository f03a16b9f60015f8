"""A folder is taken for what it holds, or refused with what was found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from imagery_samples import EAST_M, NORTH_M, UTM_33N, patchwork, write_folder, write_raster
from map_tile_samples import write_map_tiles
from PIL import Image

from model.images import Rgb
from service.imagery.folder_contents import FolderContents
from service.imagery.image_folder import ImageFolderSource
from service.imagery.map_tiles import MapTileSource
from service.imagery.mosaic import MosaicSource
from service.imagery.raster import RasterSource
from service.imagery.reading import AS_STATED, Reading
from service.imagery.source import Source, SourceError
from service.imagery.source_kinds import open_again, open_source
from service.index.catalogue import Catalogue
from service.ingest import ingest


def write_picture(file: Path, image: Rgb, world: str, east_m: float = 0.0) -> Path:
    """A picture with a world file and its CRS in a sidecar, half a metre a pixel."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)
    lines = [0.5, 0.0, 0.0, -0.5, EAST_M + east_m + 0.25, NORTH_M - 0.25]
    file.with_suffix(world).write_text("\n".join(map(str, lines)))
    crs = f"<PAMDataset><SRS>{UTM_33N}</SRS></PAMDataset>"
    file.with_name(f"{file.name}.aux.xml").write_text(crs)
    return file


def write_tif(file: Path, image: Rgb, east_m: float = 0.0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.Affine(0.5, 0.0, EAST_M + east_m, 0.0, -0.5, NORTH_M)
    return write_raster(file, image, transform=transform)


def same_tiles(source: Source, whole: Source, seam: float = 0.0) -> bool:
    """Whether both cut the same tiles; `seam` is the share of pixels that may differ."""
    cuts = list(whole.cuts(48.0, 24.0))
    assert sorted(source.cuts(48.0, 24.0)) == sorted(cuts)
    for cut in cuts:
        pair = [each.read(cut, 96).pixels.astype(int) for each in (source, whole)]
        if (np.abs(pair[0] - pair[1]).max(axis=2) > 2).mean() > seam:
            return False
    return True


@pytest.mark.parametrize("name", ["a.png:.pgw", "B.PNG:.PGW", "c.tif:.tfw", "d.bmp:.wld"])
def test_pictures_with_a_world_file_are_sheets(tmp_path: Path, name: str) -> None:
    image = patchwork(300, 300)
    file, _, world = name.partition(":")
    write_picture(tmp_path / "sheets" / file, image, world)
    source = open_source(tmp_path / "sheets", "town")
    assert isinstance(source, MosaicSource)
    assert same_tiles(source, RasterSource(write_tif(tmp_path / "whole.tif", image), "town"))


def test_sheets_in_folders_of_several_formats_are_one_source(tmp_path: Path) -> None:
    """The folder also holds the other files of a delivery."""
    image, folder = patchwork(300, 600), tmp_path / "town"
    write_tif(folder / "2024" / "west" / "a.tif", image[:, :300])
    write_picture(folder / "2024" / "east" / "a.png", image[:, 300:], ".pgw", east_m=150.0)
    for name in ("._a.tif", "__MACOSX/a.tif", ".cache/18/1/1.png", "Thumbs.db", "2024/list.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("tile,year\na,2024\n")
    (folder / "again").symlink_to(folder)
    Image.new("RGB", (9, 9)).save(folder / "2024" / "east" / "a_thumb.png")
    source = open_source(folder, "town")
    assert source.notes[0] == (
        "town/: 2 rasters in 2 folders, 1 picture that nothing places (.png), "
        "1 CSV without the columns of tiles.csv"
    )
    whole = RasterSource(write_tif(tmp_path / "whole.tif", image), "town")
    assert same_tiles(source, whole, seam=0.04)
    again = open_again("mosaic", folder, "town", source.signature(), AS_STATED)
    assert again.signature() == source.signature()


def test_a_raster_without_a_known_suffix_is_found(tmp_path: Path) -> None:
    image = patchwork(300, 300)
    whole = write_tif(tmp_path / "whole.tif", image)
    (tmp_path / "town").mkdir()
    rasterio.shutil.copy(whole, tmp_path / "town" / "scene", driver="ENVI")
    source = open_source(tmp_path / "town", "town")
    assert same_tiles(source, RasterSource(whole, "town"))


def beside_map_tiles(folder: Path) -> None:
    write_map_tiles(folder / "tiles", (18,))
    write_tif(folder / "a.tif", patchwork(50, 50))


def beside_a_list(folder: Path) -> None:
    write_folder(folder)
    write_tif(folder / "a.tif", patchwork(50, 50))


def some_placed(folder: Path) -> None:
    for number in range(3):
        write_picture(folder / f"{number}.png", patchwork(50, 50), ".pgw")
    (folder / "1.pgw").unlink()


def two_pyramids(folder: Path) -> None:
    write_map_tiles(folder / "a", (18,))
    write_map_tiles(folder / "b", (18,))


def two_lists(folder: Path) -> None:
    write_folder(folder / "a", 2)
    write_folder(folder / "b", 2)


def photographs(folder: Path) -> None:
    Image.fromarray(patchwork(50, 50)).save(folder / "a.png")
    (folder / "notes.txt").touch()


def arcgis_cache(folder: Path) -> None:
    write_map_tiles(folder, (18,), layout=lambda z, x, y: f"L{z}/R{y:08x}/C{x:08x}")


def archives(folder: Path) -> None:
    (folder / "sheets.zip").touch()


def columns_missing(folder: Path) -> None:
    photographs(folder)
    (folder / "tiles.csv").write_text("id,latitude\na,1\n")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (beside_map_tiles, r"1 raster, 9 map tiles z/x/y: one source is of one kind"),
        (beside_a_list, r"1 raster, 1 list of images \(tiles.csv\), 4 pictures .*: one source"),
        (some_placed, r"2 rasters, 1 picture that nothing places \(.png\).* add the world files"),
        (two_pyramids, r"18 map tiles z/x/y: give the folder above the levels, .*/a or .*/b"),
        (two_lists, r"2 lists of images .*a/tiles.csv, b/tiles.csv\): give the folder of one"),
        (photographs, r"1 picture that nothing places \(.png\), 1 other file \(.txt\): imagery is"),
        (arcgis_cache, r"9 map tiles of an ArcGIS cache: .* tile package \(.tpkx\)"),
        (archives, r"1 other file \(.zip\): unpack the archives"),
        (columns_missing, r"tiles.csv lacks the columns \['longitude', 'size_m'\]"),
        (lambda folder: None, r"holds no file: imagery is a raster"),
    ],
)
def test_other_folders_are_refused_with_their_content(
    tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    write(tmp_path)
    with Catalogue.of(tmp_path / ".home") as catalogue:
        with pytest.raises(SourceError, match=reason):
            ingest(catalogue, tmp_path, size_m=32.0)
        assert list(catalogue.sources()) == []


def test_one_level_alone_points_to_the_folder_above(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,))
    with pytest.raises(SourceError, match=f"give the folder above the levels, {folder}$"):
        open_source(folder / "18")


def test_numbered_folders_above_make_no_map_tiles(tmp_path: Path) -> None:
    """As of a dataset in /data/18/2024, whose pictures are numbered."""
    write_folder(tmp_path / "18" / "2024" / "listed")
    assert isinstance(open_source(tmp_path / "18" / "2024" / "listed"), ImageFolderSource)
    write_folder(tmp_path / "18" / "2025")
    assert isinstance(open_source(tmp_path / "18" / "2025"), ImageFolderSource)
    write_picture(tmp_path / "18" / "2026" / "1.png", patchwork(200, 200), ".pgw")
    assert isinstance(open_source(tmp_path / "18" / "2026"), MosaicSource)


def test_options_of_other_kinds_are_said_to_be_unused(tmp_path: Path) -> None:
    write_map_tiles(tmp_path / "map", (18,))
    options = Reading(bands=(3, 2, 1), crs="EPSG:32633", scheme="xyz")
    note = open_source(tmp_path / "map", reading=options).notes[-1]
    assert note == "map: nothing uses --bands and --crs here"
    write_tif(tmp_path / "a.tif", patchwork(50, 50))
    note = open_source(tmp_path / "a.tif", reading=Reading(scheme="tms")).notes[-1]
    assert note == "a.tif: nothing uses --scheme here"


def test_a_list_one_folder_too_deep_is_found(tmp_path: Path) -> None:
    write_folder(tmp_path / "export" / "tiles")
    source = open_source(tmp_path)
    assert isinstance(source, ImageFolderSource)
    assert source.path == tmp_path / "export" / "tiles"


def test_pictures_of_a_list_need_no_georeference(tmp_path: Path) -> None:
    write_folder(tmp_path)
    shutil.copy(tmp_path / "tiles.csv", tmp_path / "other.CSV")
    (tmp_path / "0.pgw").write_text("0.5\n0\n0\n-0.5\n0\n0\n")
    assert isinstance(open_source(tmp_path), ImageFolderSource)


def test_a_million_map_tiles_are_counted_by_their_names_alone(tmp_path: Path) -> None:
    """A thousand map tiles stand in for them here."""
    for row in range(1000):
        file = tmp_path / "18" / str(row % 10) / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert FolderContents(tmp_path).map_tiles == {tmp_path: 1000}
    assert str(FolderContents(tmp_path)) == "1000 map tiles z/x/y"


def test_field_cases_become_tiles_at_their_position(field_cases: Path, tmp_path: Path) -> None:
    """All show the demo town, at 55.64 north, 164.99 west; tiff and JPEG the same ground."""
    folders = field_cases / "folders-not-recognised"
    kinds = {"tifcsv": MosaicSource, "jgw": MosaicSource, "at2x": MapTileSource}
    for name, kind in kinds.items():
        source = open_source(folders / name)
        assert isinstance(source, kind)
        cut = next(source.cuts(32.0, 16.0))
        assert cut.centre == pytest.approx((55.637, -164.992), abs=0.003)
    tms = open_source(field_cases / "tms-rows-without-xml" / "tiles")
    assert "south (tms), as metadata.json says" in tms.notes[-1]
    assert next(tms.cuts(32.0, 16.0)).centre == pytest.approx((55.6375, -164.9905), abs=0.003)
