"""The choice among stated headings, and the notes about the others."""

import pytest
from PIL import Image

from model.stated_heading import choose_heading


def exif_of(direction: object, reference: str = "T") -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({16: reference, 17: direction})
    return exif


@pytest.mark.parametrize("text", ["north", "nan", "inf", "1e9", "", "n/a", "358,88"])
def test_nonsense_in_gpano_is_ignored_and_noted(text: str) -> None:
    stated = choose_heading(None, {"PoseHeadingDegrees": text}, exif_of(120.0))
    assert (stated.degrees, stated.source) == (120.0, "EXIF")
    assert f"PoseHeadingDegrees {text!r} is ignored" in str(stated.note)


@pytest.mark.parametrize("direction", [400.0, -1.0, "n/a", None])
def test_nonsense_in_exif_is_ignored_and_noted(direction: object) -> None:
    stated = choose_heading(None, {}, exif_of(direction))
    assert (stated.degrees, stated.source) == (None, "unknown")
    assert "GPSImgDirection" in str(stated.note)


def test_nothing_is_noted_of_a_heading_that_is_not_needed() -> None:
    stated = choose_heading(90.0, {"PoseHeadingDegrees": "n/a"}, exif_of(400.0))
    assert stated == (90.0, 0.0, "given", None)
    assert choose_heading(None, {}, Image.Exif()) == (None, 180.0, "unknown", None)
