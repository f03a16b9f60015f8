"""The bands shown are those that the user, the descriptions or the file names, and it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from imagery_samples import patchwork, write_raster
from rasterio.enums import ColorInterp

from service.imagery.raster import RasterSource
from service.imagery.reading import Reading
from service.imagery.source import SourceError


def write_bands(path: Path, descriptions: list[str], colours: str = "") -> Path:
    write_raster(path, patchwork(64, 64)[..., np.arange(len(descriptions)) % 3])
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = descriptions
        if colours:
            raster.colorinterp = [ColorInterp[colour] for colour in colours.split()]
    return path


@pytest.mark.parametrize(
    ("descriptions", "colours", "numbers"),
    [
        (["", "", "", ""], "", (1, 2, 3)),
        (["Blue", "Green", "Red", "NIR"], "", (3, 2, 1)),
        (["Blue", "Green", "Red", "NIR"], "red green blue alpha", (3, 2, 1)),
        (["B02", "B03", "B04", "B08"], "", (3, 2, 1)),
        (["Coastal Blue", "blue", "green_i", "green", "yellow", "red", "rededge"], "", (6, 4, 2)),
        (["Band 1 R", "Band 2 G", "Band 3 B"], "", (1, 2, 3)),
        (["red", "red", "green", "blue"], "", (1, 2, 3)),  # which red?
        (["", "", "", ""], "nir red green blue", (2, 3, 4)),
        (["", "", "", ""], "nir undefined undefined undefined", (2, 3, 4)),
        (["", ""], "", (1,)),
        (["", ""], "alpha gray", (2,)),
    ],
)
def test_bands_are_found_by_name(
    descriptions: list[str], colours: str, numbers: tuple[int, ...], tmp_path: Path
) -> None:
    source = RasterSource(write_bands(tmp_path / "a.tif", descriptions, colours))
    assert source.bands.colours.numbers == numbers
    said = ", ".join(map(str, numbers))
    assert source.notes[0].startswith((f"bands {said} are read as red", f"band {said} is read as"))


def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    path = write_bands(tmp_path / "a.tif", ["red", "green", "blue", "nir"])
    source = RasterSource(path, reading=Reading(bands=(4, 1, 2)))
    assert source.notes == ["bands 4, 1, 2 are read as red, green, blue: --bands says so"]
    with pytest.raises(SourceError, match=r"a\.tif has 4 bands: it has no bands 3,2,5"):
        RasterSource(path, reading=Reading(bands=(3, 2, 5)))
