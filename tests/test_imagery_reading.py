"""The user's statements about imagery are kept with the source."""

from __future__ import annotations

import math

import pytest

from service.imagery.reading import AS_STATED, Reading, ReadingError


def test_stated_values_survive_the_catalogue() -> None:
    assert AS_STATED.text() == ""
    assert Reading.stored("") == AS_STATED
    reading = Reading(bands=(4, 3, 2), nodata=math.inf, crs="EPSG:32633", scheme="tms")
    assert Reading.stored(reading.text()) == reading
    assert math.isnan(Reading.stored(Reading(nodata=math.nan).text()).nodata or 0.0)


def test_new_values_replace_former_ones() -> None:
    former = Reading(bands=(1,), crs="EPSG:4326")
    assert Reading(bands=(3, 2, 1)).over(former) == Reading(bands=(3, 2, 1), crs="EPSG:4326")


def test_a_text_of_another_version_is_refused() -> None:
    with pytest.raises(ReadingError, match="ingest it again"):
        Reading.stored('{"colour": 1}')
