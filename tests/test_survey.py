"""Surveys: many images in one run, each located once and as POST /localize locates it."""

import csv
import io
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import gpxpy
import pytest
from api_harness import publish
from fakes import FakeEncoder, panorama_of
from PIL import Image

from model.capture_time import capture_time
from service.index.live_index import LiveIndex
from service.locate.hints import Hints
from service.locate.localizer import Localizer
from service.survey.formats import FORMATS
from service.survey.images import SurveyError, find_images
from service.survey.journal import Journal, journal_path
from service.survey.outcome import Outcome
from service.survey.run import survey

NORTH = Hints(heading_deg=0.0)
SEEDS = range(12)


@pytest.fixture
def localizer(tmp_path: Path) -> Localizer:
    encoder = FakeEncoder()
    publish(tmp_path / "home", "town", SEEDS, encoder)
    return Localizer(encoder, LiveIndex(tmp_path / "home", encoder.fingerprint), rolls=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve panoramas, in two folders, among other files."""
    folder = tmp_path / "drive"
    (folder / "later" / ".thumbnails").mkdir(parents=True)
    for seed in SEEDS:
        (folder / ("later" if seed > 8 else "") / f"{seed:02d}.png").write_bytes(panorama_of(seed))
    for hidden in (".00.png", "later/.thumbnails/00.png", "notes.txt"):
        (folder / hidden).write_bytes(panorama_of(0))
    return folder


def test_a_folder_is_answered_in_order_as_each_image_alone(
    localizer: Localizer, folder: Path
) -> None:
    images = find_images([folder], NORTH)
    found = list(survey(localizer, images, Journal("any")))
    assert [outcome.file for outcome in found] == [str(image.path) for image in images]
    assert [outcome.tile_id for outcome in found] == [f"t{seed}" for seed in SEEDS]
    for image, outcome in zip(images, found, strict=True):
        fix = localizer.locate(image.path.read_bytes(), NORTH)
        assert fix.position is not None
        assert (outcome.latitude, outcome.longitude) == pytest.approx(fix.position, abs=1e-7)
        assert outcome.radius_m == pytest.approx(fix.radius_m, abs=0.1)


def test_a_run_that_was_stopped_goes_on(localizer: Localizer, folder: Path, tmp_path: Path) -> None:
    images, out = find_images([folder], NORTH), tmp_path / "places.csv"
    encoder = localizer.encoder
    assert isinstance(encoder, FakeEncoder)

    def stop(done: int, expected: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Journal.of(out, "v1") as journal:
        list(survey(localizer, images, journal, progress=stop))
    with journal_path(out).open("a") as file:
        file.write('\n["cut sh')
    first = encoder.calls
    with Journal.of(out, "v1") as journal:
        assert len(list(survey(localizer, images, journal))) == len(images)
    assert encoder.calls - first == len(images) - 5
    assert not journal_path(out).exists()


def test_a_changed_image_hint_or_index_is_located_again(folder: Path, tmp_path: Path) -> None:
    (image, *_), out = find_images([folder], NORTH), tmp_path / "places.csv"
    outcome = Outcome(image.file, 1.0, 2.0)
    with Journal.of(out, "v1") as journal:
        journal.add(image, outcome)
        journal_path(out).rename(tmp_path / "kept")
        (tmp_path / "kept").rename(journal_path(out))
        known = journal_path(out).read_bytes()
    for version, hints, time, same in (
        ("v1", NORTH, None, True),
        ("v2", NORTH, None, False),
        ("v1", Hints(), None, False),
        ("v1", NORTH, 1, False),
    ):
        journal_path(out).write_bytes(known)
        if time:
            os.utime(image.path, (time, time))
        with Journal.of(out, version) as journal:
            expected = outcome if same else None
            assert journal.recall(image._replace(hints=hints)) == expected


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    with (
        Journal.of(tmp_path / "a.csv", "v1"),
        pytest.raises(SurveyError, match="another run"),
        Journal.of(tmp_path / "a.csv", "v1"),
    ):
        pass


def test_an_image_with_a_problem_ends_nothing(localizer: Localizer, folder: Path) -> None:
    (folder / "05.png").write_bytes(b"no image")
    (folder / "06.png").unlink()
    (folder / "06.png").symlink_to("nowhere.png")
    found = list(survey(localizer, find_images([folder], NORTH), Journal("any")))
    problems = {Path(o.file).name: o.problem for o in found if o.problem}
    assert set(problems) == {"05.png", "06.png"}
    assert "not a JPEG" in str(problems["05.png"])
    assert "No such file" in str(problems["06.png"])


def test_a_table_gives_each_image_its_hints(localizer: Localizer, folder: Path) -> None:
    table = folder / "list.csv"
    table.write_text(
        "file,time,north,near,heading_deg\n"
        "03.png,2026-05-01T10:00:00.5,0.5,,\n"
        '04.png,,,"0,0",0\n'
        "05.png,,,,north\n"
        "06.png,noon,,,\n"
        "gone.png,,,,\n"
    )
    images = find_images([table], Hints())
    first, nowhere, wrong, noon, gone = survey(localizer, images, Journal("any"))
    assert (first.tile_id, first.time) == ("t3", "2026-05-01T10:00:00.500000")
    assert images[0].hints == Hints(north=0.5)
    assert "within 500 m of near=0.0,0.0" in str(nowhere.problem)
    assert wrong.problem == "list.csv, line 4: heading_deg='north' is no number"
    assert "time='noon' is not ISO 8601" in str(noon.problem)
    assert "No such file" in str(gone.problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,heading,time\n", "unknown columns 'heading': known are file, time, heading_deg"),
        ("time\n", "needs a column `file`"),
        ("file\n", "no image is in"),
        ("file\n\xe4\n", "no CSV in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(SurveyError, match=message):
        find_images([tmp_path / "list.csv"], Hints())


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SurveyError, match=r"no image is in .*: looked for \.avif"):
        find_images([tmp_path], Hints())


def test_every_format_says_the_same() -> None:
    there = Outcome(
        "a&<b.jpg", 25.1, -80.2, 12.5, 0.9, True, 359.5, "town/t1", "2026-05-01T10:00:00.5+02:00"
    )
    lost = Outcome("lost.jpg", problem="not a JPEG, but text")
    text = {suffix: write([there, lost]) for suffix, write in FORMATS.items()}
    rows = list(csv.DictReader(io.StringIO(text[".csv"])))
    assert [rows[0]["in_index"], rows[0]["latitude"], rows[1]["latitude"]] == ["true", "25.1", ""]
    assert [Outcome(**json.loads(line)) for line in text[".jsonl"].splitlines()] == [there, lost]
    first, second = json.loads(text[".geojson"])["features"]
    assert first["geometry"]["coordinates"] == [-80.2, 25.1]
    assert (second["geometry"], second["properties"]["problem"]) == (None, lost.problem)
    (point,) = gpxpy.parse(text[".gpx"]).waypoints
    assert (point.name, point.latitude, point.longitude) == ("a&<b.jpg", 25.1, -80.2)
    assert point.time is not None
    assert point.time.isoformat() == "2026-05-01T10:00:00.500000+02:00"
    kml = ElementTree.fromstring(text[".kml"])
    coordinates = [node.text for node in kml.iter("{http://www.opengis.net/kml/2.2}coordinates")]
    assert coordinates == ["-80.2,25.1"]


@pytest.mark.parametrize(
    ("fields", "time"),
    [
        ({}, None),
        ({0x9003: "2026:05:01 10:00:00"}, "2026-05-01T10:00:00"),
        ({0x9003: "2026:05:01 10:00:00", 0x9291: "25 "}, "2026-05-01T10:00:00.250000"),
        ({0x9003: "2026:05:01 10:00:00", 0x9011: "+02:00"}, "2026-05-01T10:00:00+02:00"),
        ({0x9003: "2026:05:01 10:00:00", 0x9011: "   :  "}, "2026-05-01T10:00:00"),
        ({0x9003: "0000:00:00 00:00:00"}, None),
    ],
)
def test_a_camera_says_when(fields: dict[int, str], time: str | None) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(fields)
    found = capture_time(exif)
    assert (found and found.isoformat()) == time
