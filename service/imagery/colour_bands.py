"""Which bands of a raster are red, green and blue, and who says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rasterio import DatasetReader
from rasterio.enums import ColorInterp

from service.imagery.source import SourceError

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
GREY = (ColorInterp.undefined, ColorInterp.gray, *RGB)
# Words in a band's description; B04, B03 and B02 are Sentinel-2's.
WORDS = ({"red", "r", "b04"}, {"green", "g", "b03"}, {"blue", "b", "b02"})
OTHER = {"edge", "coastal", "i"}  # "Red Edge", "Coastal Blue" and "Green I" are other bands


class ColourBands(NamedTuple):
    """numbers: from 1, of the bands of red, green and blue, or of one grey or palette band.

    text: which bands these are, and who says so.
    """

    numbers: tuple[int, ...]
    text: str

    @classmethod
    def by(cls, numbers: tuple[int, ...], why: str) -> ColourBands:
        if len(numbers) == 1:
            return cls(numbers, f"band {numbers[0]} is read as grey: {why}")
        listed = ", ".join(map(str, numbers))
        return cls(numbers, f"bands {listed} are read as red, green, blue: {why}")


def colour_bands(raster: DatasetReader, name: str, stated: tuple[int, ...] | None) -> ColourBands:
    """The bands that the user states, else those that the file names, else the first three.

    Descriptions go before the colour interpretation: many drivers call the first three bands of
    any file red, green and blue.

    Raises:
        SourceError: a stated band does not exist.
    """
    interpretation = raster.colorinterp
    if stated is not None:
        if max(stated) > raster.count:
            numbers = ",".join(map(str, stated))
            raise SourceError(f"{name} has {raster.count} bands: it has no bands {numbers}")
        return ColourBands.by(stated, "--bands says so")
    if named := _named(raster.descriptions):
        return ColourBands.by(named, "their descriptions say so")
    if set(RGB) <= set(interpretation):
        found = tuple(interpretation.index(colour) + 1 for colour in RGB)
        return ColourBands.by(found, "their colour interpretation says so")
    if interpretation[0] == ColorInterp.palette:
        return ColourBands((1,), "band 1 is read by its palette")
    first = [i for i, colour in enumerate(interpretation, 1) if colour in GREY]
    if len(first) >= 3:
        why = f"the first three of {raster.count}, none says its colour; --bands states others"
        return ColourBands.by(tuple(first[:3]), why)
    return ColourBands.by((first[0] if first else 1,), f"the first of {raster.count}")


def _named(descriptions: Sequence[str | None]) -> tuple[int, ...]:
    """The bands whose descriptions say red, green and blue; empty unless each colour has one."""
    words = [set(re.findall("[a-z0-9]+", (text or "").lower())) for text in descriptions]
    found = [
        [i for i, said in enumerate(words, 1) if said & names and not said & OTHER]
        for names in WORDS
    ]
    return tuple(i for [i] in found) if all(len(bands) == 1 for bands in found) else ()
