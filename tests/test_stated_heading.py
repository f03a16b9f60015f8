"""The choice among stated headings, and the notes about the others."""

import math

import pytest
from PIL import Image

from model.stated_heading import BELIEVED, HeadingTrust, StatedHeading, choose_heading

SEATTLE = {1: "N", 2: (47.0, 37.0, 13.8), 3: "W", 4: (122.0, 20.0, 57.5), 29: "2025:04:01"}
SEATTLE_DECLINATION_DEG = 15.07  # NOAA's calculator, April 2025


def exif_of(direction: object, reference: str = "T") -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({16: reference, 17: direction})
    return exif


def chosen(
    gpano: str | None = None,
    exif: Image.Exif | None = None,
    *,
    given: float | None = None,
    tolerance: float | None = None,
    trust: HeadingTrust = BELIEVED,
) -> StatedHeading:
    fields = {} if gpano is None else {"PoseHeadingDegrees": gpano}
    return choose_heading(
        given, tolerance, trust, fields, exif if exif is not None else Image.Exif()
    )


@pytest.mark.parametrize("text", ["north", "nan", "inf", "1e9", "", "n/a", "0/0", "358,88", "0.00"])
def test_what_is_no_heading_in_gpano_is_ignored_and_noted(text: str) -> None:
    stated = chosen(text, exif_of(120.0))
    assert (stated.degrees, stated.source) == (120.0, "EXIF")
    assert f"GPano's PoseHeadingDegrees {text!r} is ignored" in str(stated.note)


@pytest.mark.parametrize("direction", [400.0, -1.0, "n/a", None, (1.0, 2.0), math.nan, 0.0])
def test_what_is_no_heading_in_exif_is_ignored_and_noted(direction: object) -> None:
    stated = chosen(exif=exif_of(direction))
    assert (stated.degrees, stated.tolerance_deg, stated.source) == (None, 180.0, "unknown")
    assert "EXIF's GPSImgDirection" in str(stated.note)


def test_nothing_is_noted_of_a_heading_that_is_not_needed() -> None:
    assert chosen("n/a", exif_of(400.0), given=90.0) == (90.0, 0.0, "given", None)
    assert chosen() == (None, 180.0, "unknown", None)
    assert "EXIF" not in str(chosen("12", exif_of(400.0)).note)


@pytest.mark.parametrize(
    ("sources", "source"),
    [(("GPano", "EXIF"), "GPano"), (("EXIF",), "EXIF"), (("none",), "unknown")],
)
def test_only_trusted_sources_are_believed(sources: tuple[str, ...], source: str) -> None:
    assert chosen("12", exif_of(120.0), trust=HeadingTrust(sources)).source == source


def test_a_caller_s_tolerance_holds_for_every_heading() -> None:
    assert chosen("12").tolerance_deg == BELIEVED.tolerance_deg
    assert "within 7.5 degrees" in str(chosen("12", tolerance=7.5).note)
    assert chosen("12", tolerance=0.0) == (12.0, 0.0, "GPano", None)
    assert chosen(given=90.0, tolerance=7.5)[:3] == (90.0, 7.5, "given")
    assert chosen(given=90.0, tolerance=180.0)[:3] == (None, 180.0, "unknown")


def test_a_magnetic_heading_is_turned_by_the_declination_of_its_position() -> None:
    exif = exif_of(100.0, "M")
    exif.get_ifd(0x8825).update(SEATTLE)
    stated = chosen(exif=exif)
    assert stated.degrees == pytest.approx(100.0 + SEATTLE_DECLINATION_DEG, abs=0.05)
    assert (stated.tolerance_deg, stated.source) == (BELIEVED.tolerance_deg, "EXIF, magnetic")
    assert "declination +15.1" in str(stated.note)


def test_a_magnetic_heading_without_position_is_searched_wider() -> None:
    stated = chosen(exif=exif_of(100.0, "M"))
    assert (stated.degrees, stated.source) == (100.0, "EXIF, magnetic")
    assert stated.tolerance_deg == BELIEVED.tolerance_deg + 25.0


def test_a_magnetic_heading_at_the_magnetic_pole_is_ignored() -> None:
    exif = exif_of(100.0, "M")
    exif.get_ifd(0x8825).update({1: "N", 2: (86.0, 0.0, 0.0), 3: "E", 4: (150.0, 0.0, 0.0)})
    assert chosen(exif=exif).degrees is None
