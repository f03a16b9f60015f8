"""Drives of a survey: the folders' images located together."""

from __future__ import annotations

import itertools
import json
import re
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import gpxpy
import pytest
from api_harness import publish
from fakes import FakeEncoder, coloured_region, panorama_of

from model.geo import LatLon
from service.build import build
from service.cli.wiring import open_encoder
from service.index.catalogue import Catalogue
from service.index.live_index import LiveIndex
from service.ingest import ingest
from service.locate.hints import Hints
from service.locate.localizer import Localizer
from service.settings import Settings
from service.survey.drives import survey_drives
from service.survey.formats import FORMATS
from service.survey.images import SurveyImage, find_images
from service.survey.journal import Journal
from service.survey.outcome import Outcome

NORTH = Hints(heading_deg=0.0)
SEEDS = range(6)


@pytest.fixture
def localizer(tmp_path: Path) -> Localizer:
    encoder = FakeEncoder()
    publish(tmp_path / "home", "town", SEEDS, encoder)
    return Localizer(encoder, LiveIndex(tmp_path / "home", encoder.fingerprint), rolls=4)


def drive_of(folder: Path, pauses_s: list[float]) -> list[SurveyImage]:
    """An image more than there are pauses, named against the order of their times."""
    folder.mkdir()
    moments = itertools.accumulate(pauses_s, initial=0.0)
    count = len(pauses_s) + 1
    images = []
    for seed, moment in enumerate(moments):
        path = folder / f"{count - seed}.png"
        path.write_bytes(panorama_of(seed))
        time = datetime(2026, 5, 1) + timedelta(seconds=moment)
        images.append(SurveyImage.at(path, Path(path.name), NORTH, time=time))
    return sorted(images)


def test_each_folder_is_a_drive_and_an_unreadable_image_a_problem(
    localizer: Localizer, tmp_path: Path
) -> None:
    images = [*drive_of(tmp_path / "a", [1.0, 1.0]), *drive_of(tmp_path / "b", [1.0])]
    images[1].path.write_bytes(b"no image")
    found = list(survey_drives(localizer, images, Journal("any")))
    assert [outcome.file for outcome in found] == [image.file for image in images]
    assert [outcome.drive for outcome in found] == [1, None, 1, 2, 2]
    assert [outcome.problem is None for outcome in found] == [True, False, True, True, True]
    assert found[1].latitude is None


def test_images_of_which_none_is_read_end_nothing(localizer: Localizer, tmp_path: Path) -> None:
    """Also a whole batch of problems, and a hint that allows no tile."""
    images = drive_of(tmp_path / "a", [1.0] * 5)
    for image in images[:4]:
        image.path.write_bytes(b"no image")
    nowhere = Hints(near=LatLon(0.0, 0.0))
    images[4] = images[4]._replace(hints=nowhere)
    found = list(survey_drives(localizer, images, Journal("any"), max_batch=2))
    assert [outcome.drive for outcome in found] == [None] * 5 + [1]
    assert "no tile of the index is centred within 500 m of near=0.0" in str(found[4].problem)


def test_a_table_may_mix_the_folders(localizer: Localizer, tmp_path: Path) -> None:
    one, other = (drive_of(tmp_path / name, [1.0]) for name in "ab")
    mixed = [one[0], other[0], one[1], other[1]]
    found = list(survey_drives(localizer, mixed, Journal("any")))
    assert [outcome.file for outcome in found] == [image.file for image in [*one, *other]]
    assert [outcome.drive for outcome in found] == [1, 1, 2, 2]


def test_frames_of_different_cameras_are_read_as_each_says(
    localizer: Localizer, tmp_path: Path
) -> None:
    images = drive_of(tmp_path / "a", [1.0, 1.0])
    lens = {"projection": "rectilinear", "horizontal_fov_deg": 90.0, "heading_deg": 90.0}
    images[1] = images[1]._replace(hints=Hints(**lens))
    images[2] = images[2]._replace(hints=Hints(horizontal_fov_deg=10.0))
    first, second, third = survey_drives(localizer, images, Journal("any"))
    assert (first.drive, second.drive, third.drive) == (1, 1, None)
    assert (first.heading_deg, second.heading_deg) == (0.0, 90.0)
    assert "covering 10 degrees of the horizon would be 5 degrees high" in str(third.problem)


def test_a_long_pause_begins_another_drive(localizer: Localizer, tmp_path: Path) -> None:
    images = drive_of(tmp_path / "a", [1.0, 500.0, 1.0])
    found = list(survey_drives(localizer, images, Journal("any")))
    assert [outcome.drive for outcome in found] == [2, 2, 1, 1]  # the names run backwards


def test_frames_without_times_keep_their_order(localizer: Localizer, tmp_path: Path) -> None:
    drive_of(tmp_path / "a", [1.0, 1.0])
    found = list(survey_drives(localizer, find_images([tmp_path / "a"], NORTH), Journal("any")))
    assert [Path(outcome.file).name for outcome in found] == ["1.png", "2.png", "3.png"]
    assert {outcome.time for outcome in found} == {None}


def test_a_drive_that_was_located_is_not_located_again(
    localizer: Localizer, tmp_path: Path
) -> None:
    images, out = drive_of(tmp_path / "a", [1.0, 1.0]), tmp_path / "places.csv"
    encoder = localizer.encoder
    assert isinstance(encoder, FakeEncoder)
    with suppress(KeyboardInterrupt), Journal.of(out, "v1 in drives") as journal:
        first = list(survey_drives(localizer, images, journal))
        raise KeyboardInterrupt
    calls = encoder.calls
    with Journal.of(out, "v1 in drives") as journal:
        assert list(survey_drives(localizer, images, journal)) == first
    assert encoder.calls == calls


def test_a_drive_is_a_line_in_every_format_that_has_lines() -> None:
    outcomes = [
        Outcome(f"{k}.jpg", 50.0, 15.0 + k, 9.0, 0.9, True, 0.0, "t", f"2026-05-01T00:00:0{9 - k}")
        for k in range(3)
    ]
    outcomes = [outcome._replace(drive=1) for outcome in outcomes]
    line = [17.0, 16.0, 15.0]  # by time
    features = json.loads(FORMATS[".geojson"](outcomes))["features"]
    assert [place[0] for place in features[-1]["geometry"]["coordinates"]] == line
    (track,) = gpxpy.parse(FORMATS[".gpx"](outcomes)).tracks
    assert [point.longitude for point in track.segments[0].points] == line
    kml = ElementTree.fromstring(FORMATS[".kml"](outcomes))
    (places,) = kml.iterfind(".//{*}LineString/{*}coordinates")
    assert [float(place.split(",")[0]) for place in (places.text or "").split()] == line


def test_a_drive_across_180_degrees_is_cut_in_geojson() -> None:
    """Section 3.1.9 of RFC 7946."""
    outcomes = [
        Outcome(f"{longitude}.jpg", -17.0, longitude, drive=1) for longitude in (179.9, -179.9)
    ]
    *points, track = json.loads(FORMATS[".geojson"](outcomes))["features"]
    assert [point["geometry"]["coordinates"][0] for point in points] == [179.9, -179.9]
    assert track["geometry"]["type"] == "MultiLineString"
    west, east = track["geometry"]["coordinates"]
    assert (west[-1][0], east[0][0]) == (180.0, -180.0)


def test_times_of_different_clocks_leave_a_line_in_the_order_of_the_images() -> None:
    times = ("2026-05-01T10:00:02", "2026-05-01T10:00:01+00:00", "2026-05-01T10:00:00")
    outcomes = [
        Outcome(f"{k}.jpg", 50.0, 15.0 + k, 9.0, 0.9, True, 0.0, "t", time, drive=1)
        for k, time in enumerate(times)
    ]
    features = json.loads(FORMATS[".geojson"](outcomes))["features"]
    assert [place[0] for place in features[-1]["geometry"]["coordinates"]] == [15.0, 16.0, 17.0]
    for write in FORMATS.values():
        assert write(outcomes)


def test_the_python_of_the_documents_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the shipped weights, on a region of six tiles."""
    page = Path(__file__).parents[1] / "docs" / "how-to" / "survey.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    home = tmp_path / "skyfix-data"
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, coloured_region(tmp_path / "town", SEEDS), size_m=64.0)
    build(home, open_encoder(Settings(home=home)))
    (tmp_path / "photo.jpg").write_bytes(panorama_of(0))
    drive_of(tmp_path / "photos", [1.0])
    drive_of(tmp_path / "drive", [1.0, 1.0])
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {})
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("LatLon(")
    assert len(rest) == 5
    assert all("latitude=2" in line for line in rest)
