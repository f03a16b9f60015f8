"""Declination against the table of the World Magnetic Model, and EXIF's position and date."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from model.geo import LatLon
from model.magnetic_north import (
    USUAL_DECLINATION_DEG,
    declination_deg,
    exif_position,
    exif_year,
)


def exif_of(gps: dict[int, object], taken: object = None) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(gps)
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken
    return exif


@pytest.mark.parametrize(
    ("position", "declination"),
    [((80.0, 0.0), 1.28), ((0.0, 120.0), -0.16), ((-80.0, -120.0), 68.78)],
)
def test_declination_is_the_table_s(position: tuple[float, float], declination: float) -> None:
    """Test values that the report of WMM2025 states for 2025.0 at height 0."""
    assert declination_deg(LatLon(*position), 2025.0) == pytest.approx(declination, abs=0.005)


def test_a_year_without_model_takes_the_nearest() -> None:
    london = LatLon(51.5, -0.1)
    assert declination_deg(london, 1970.0) == declination_deg(london, 2010.0)
    assert declination_deg(london, 2050.0) == pytest.approx(
        declination_deg(london, 2029.9), abs=0.1
    )


def test_no_compass_is_believed_at_the_magnetic_pole() -> None:
    assert declination_deg(LatLon(86.0, 150.0)) is None


def test_the_usual_declination_covers_nine_tenths_of_the_inhabited_earth() -> None:
    sines = np.linspace(np.sin(np.radians(-58)), np.sin(np.radians(70)), 20)  # of equal areas
    places = product(np.degrees(np.arcsin(sines)), np.arange(-180.0, 180.0, 15.0))
    declinations = [abs(declination_deg(LatLon(*place)) or 180.0) for place in places]
    assert 0.89 < (np.array(declinations) < USUAL_DECLINATION_DEG).mean() < 0.95


SOUTH_WEST = {1: "S", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 15.0, 0.0)}


def test_the_position_is_read_in_degrees_minutes_and_seconds() -> None:
    assert exif_position(exif_of(SOUTH_WEST)) == pytest.approx((-33.51, -70.25))


@pytest.mark.parametrize(
    "wrong",
    [
        {2: None}, {2: (33.0,)}, {2: "33"}, {4: 70.0}, {2: (float("nan"), 0.0, 0.0)},
        {2: (91.0, 0.0, 0.0)}, {2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)},
    ],
)  # fmt: skip
def test_a_position_that_cannot_be_is_none(wrong: dict[int, object]) -> None:
    assert exif_position(exif_of({**SOUTH_WEST, **wrong})) is None
    assert exif_position(Image.Exif()) is None


@pytest.mark.parametrize(
    ("gps_date", "taken", "year"),
    [
        ("2012:07:31", "2020:01:01 10:00:00", 2012 + 6.5 / 12),
        (None, "2020:01:01 10:00:00", 2020 + 0.5 / 12),
        ("0000:00:00", "    :  :  ", 2025.0),
        (b"\xff", 7, 2025.0),
    ],
)
def test_the_date_is_the_satellites_then_the_camera_s(
    gps_date: object, taken: object, year: float
) -> None:
    assert exif_year(exif_of({29: gps_date}, taken)) == pytest.approx(year)
