"""Places written into images: the place is there, and every other byte is as it was."""

import io
import json
import shutil
import struct
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from image_samples import encoded
from PIL import Image

from model.gpano import read_gpano
from model.images import open_image
from model.magnetic_north import exif_position
from model.panorama_metadata import read_panorama
from service.locate.hints import Hints
from service.survey.exif_position import with_position
from service.survey.image_file import exchange
from service.survey.images import SurveyError, SurveyImage
from service.survey.outcome import Outcome
from service.survey.place import MetadataError, Place
from service.survey.placement import Placement, with_place
from service.survey.xmp_heading import with_heading

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
PLACE = Place(-25.1234567, 151.7654321, 123.45, 7.25)
FOUND = Outcome("a.jpg", -25.1234567, 151.7654321, 7.25, 0.9, True, 200.25, "t1")
GPANO = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    '"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="uuid:1" '
    'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {}</rdf:RDF></x:xmpmeta>'
)
CROPPED = GPANO.format(
    'GPano:ProjectionType="equirectangular" GPano:FullPanoWidthPixels="512" '
    'GPano:FullPanoHeightPixels="256" GPano:CroppedAreaImageWidthPixels="128" '
    'GPano:CroppedAreaImageHeightPixels="64" GPano:CroppedAreaLeftPixels="10" '
    'GPano:CroppedAreaTopPixels="96" GPano:PoseHeadingDegrees="11"/>'
).encode()


def camera_exif() -> Image.Exif:
    """EXIF with maker notes, a GPS group and a fraction."""
    exif = Image.Exif()
    exif[0x010F] = "Maker of cameras"
    exif.get_ifd(0x8769).update({0x9003: "2026:05:01 10:00:00", 0x927C: bytes(range(256))})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0), 6: 123.5, 29: "2026:05:01"})
    return exif


def files() -> dict[str, bytes]:
    exif = camera_exif()
    bare = Image.Exif()
    bare[0x010F] = "Maker"
    second = Image.fromarray(PICTURE[:, ::-1])
    clear = np.dstack([PICTURE, PICTURE[..., 0]])
    many = io.BytesIO()
    Image.fromarray(PICTURE).save(
        many, "MPO", save_all=True, append_images=[second], exif=exif, quality=90
    )
    return {
        "plain.jpg": encoded(PICTURE, "JPEG"),
        "camera.jpg": encoded(PICTURE, "JPEG", exif=exif, xmp=CROPPED),
        "without GPS.jpg": encoded(PICTURE, "JPEG", exif=bare) + b"what a phone adds",
        "two pictures.jpg": many.getvalue(),
        "plain.png": encoded(PICTURE, "PNG"),
        "camera.png": encoded(PICTURE, "PNG", exif=exif),
        "plain.webp": encoded(PICTURE, "WEBP"),
        "clear.webp": encoded(clear, "WEBP", lossless=True),
        "camera.webp": encoded(PICTURE, "WEBP", exif=exif, xmp=CROPPED),
    }


def placed(data: bytes) -> bytes:
    return exchange(
        data, partial(with_position, place=PLACE), partial(with_heading, heading_deg=123.45)
    )


@pytest.mark.parametrize("name", files())
def test_the_place_is_written_and_pixels_stay(name: str) -> None:
    data = files()[name]
    for _ in range(2):  # a place goes over a place
        data = placed(data)
    image = open_image(data)
    assert exif_position(image.exif) == pytest.approx(PLACE[:2], abs=1e-9)
    assert read_gpano(image.xmp)["PoseHeadingDegrees"] == "123.45"
    former = Image.open(io.BytesIO(files()[name]))
    assert Image.open(io.BytesIO(data)).tobytes() == former.tobytes()


def test_nothing_of_exif_moves() -> None:
    for exif in (camera_exif(), Image.Exif()):
        old = exif.tobytes()[6:] if exif else b"MM\0*" + struct.pack(">IHI", 8, 0, 0)
        new = with_position(old, PLACE)
        differing = [at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
        assert len(differing) <= 4  # a pointer
        assert new[: len(old)] != old
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + with_position(camera_exif().tobytes()[6:], PLACE))
    assert kept.get_ifd(0x8769)[0x927C] == bytes(range(256))
    assert (kept.get_ifd(0x8825)[6], kept.get_ifd(0x8825)[29]) == (123.5, "2026:05:01")


def test_the_second_picture_is_found_where_the_index_says() -> None:
    data = files()["two pictures.jpg"]
    before, after = (Image.open(io.BytesIO(d)) for d in (data, placed(data)))
    for image in (before, after):
        image.seek(1)
    assert after.tobytes() == before.tobytes()
    first, second = after.mpinfo[0xB002]
    assert (first["DataOffset"], first["Size"] + second["Size"]) == (0, len(placed(data)))


@pytest.mark.parametrize("name", files())
def test_exiftool_reads_the_place_and_all_that_was_there(name: str, tmp_path: Path) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("no exiftool")
    old, new = tmp_path / f"old{Path(name).suffix}", tmp_path / f"new{Path(name).suffix}"
    old.write_bytes(files()[name])
    new.write_bytes(placed(files()[name]))
    command = ["exiftool", "-json", "-G1", "-a", "-u", "-n", "-b", str(old), str(new)]
    report = subprocess.run(command, capture_output=True, check=True)
    before, after = json.loads(report.stdout)
    own = ("System:", "File:", "SourceFile", "Composite:", "GPS:", "XMP-GPano:", "MPF0:", "MPImage")
    assert all(after[tag] == before[tag] for tag in before if not tag.startswith(own))
    assert after["Composite:GPSLatitude"] == pytest.approx(PLACE.latitude, abs=1e-9)
    assert after["Composite:GPSLongitude"] == pytest.approx(PLACE.longitude, abs=1e-9)
    assert (after["GPS:GPSImgDirectionRef"], after["GPS:GPSImgDirection"]) == ("T", 123.45)
    assert after["GPS:GPSHPositioningError"] == 7.25
    assert after["XMP-GPano:PoseHeadingDegrees"] == 123.45
    kept = ("GPS:GPSAltitude", "GPS:GPSDateStamp")
    assert all(after[tag] == before[tag] for tag in kept if tag in before)


@pytest.mark.parametrize(
    "inside",
    [
        'GPano:PoseHeadingDegrees="1"/>',
        "GPano:PoseHeadingDegrees = '1'/>",
        "><GPano:PoseHeadingDegrees>1</GPano:PoseHeadingDegrees></rdf:Description>",
        'GPano:ProjectionType="equirectangular"/>',
    ],
)
def test_a_heading_goes_into_every_form_of_xmp(inside: str) -> None:
    old = GPANO.format(inside)
    new = with_heading(old.encode(), 359.996 % 360.0)
    assert read_gpano([new])["PoseHeadingDegrees"] == "360.00"
    assert new.count(b"PoseHeadingDegrees") == max(1, old.count("PoseHeadingDegrees"))
    assert new.count(b'about="uuid:1"') == new.count(b"<rdf:Description")


def test_the_written_heading_is_read_as_the_image_s() -> None:
    for name in ("camera.jpg", "plain.jpg", "camera.webp"):
        data = with_place(files()[name], FOUND, Hints())
        assert read_panorama(data).heading_deg == pytest.approx(FOUND.heading_deg, abs=0.01)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypavif", "AVIF"),
        (b"RIFF\x0c\0\0\0WEBPALPH\0\0\0\0", "no picture comes first"),
        (encoded(PICTURE, "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 20), "EXIF is damaged"),
        (encoded(PICTURE, "JPEG", xmp=CROPPED.decode().encode("utf-16")), "not UTF-8"),
        (encoded(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\x08" + bytes(65_500)), "64 KiB"),
        (encoded(PICTURE, "JPEG")[:100], "damaged"),
    ],
)
def test_a_file_that_cannot_hold_the_place_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MetadataError, match=reason):
        placed(data)


@pytest.fixture
def image(tmp_path: Path) -> SurveyImage:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jpg"
    path.write_bytes(files()["camera.jpg"])
    path.chmod(0o640)
    return SurveyImage.at(path, Path("later", "a.jpg"), Hints())


def test_a_copy_is_written_beside_the_image(image: SurveyImage, tmp_path: Path) -> None:
    data = image.path.read_bytes()
    found = Placement(tmp_path / "copies").write(image, data, FOUND)
    assert (found.metadata, found.problem) == ("written", None)
    assert image.path.read_bytes() == data
    copy = open_image((tmp_path / "copies" / "later" / "a.jpg").read_bytes())
    assert exif_position(copy.exif) == pytest.approx((FOUND.latitude, FOUND.longitude), abs=1e-9)


def test_an_image_changed_in_place_keeps_its_first_original(image: SurveyImage) -> None:
    data = image.path.read_bytes()
    for latitude in (1.0, 2.0):
        now = image.path.read_bytes()
        Placement(None).write(image, now, FOUND._replace(latitude=latitude))
    assert image.path.with_name("a.jpg_original").read_bytes() == data
    assert exif_position(open_image(image.path.read_bytes()).exif) == pytest.approx(
        (2.0, FOUND.longitude), abs=1e-9
    )
    assert image.path.stat().st_mode & 0o777 == 0o640
    assert len(list(image.path.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("placement", "confidence", "metadata"),
    [
        (Placement(None, 0.95), 0.9, "not written: below --min-confidence"),
        (Placement(None, 0.1), None, "not written: confidence unknown"),
        (Placement(None, 0.5, dry_run=True), 0.9, "would be written"),
    ],
)
def test_an_image_stays_as_it_is(
    image: SurveyImage, placement: Placement, confidence: float | None, metadata: str
) -> None:
    data = image.path.read_bytes()
    found = placement.write(image, data, FOUND._replace(confidence=confidence))
    assert (found.metadata, image.path.read_bytes()) == (metadata, data)
    assert len(list(image.path.parent.iterdir())) == 1


def test_a_disk_that_refuses_is_a_problem_of_its_image(image: SurveyImage, tmp_path: Path) -> None:
    (tmp_path / "copies").write_text("a file where the folder should be")
    found = Placement(tmp_path / "copies").write(image, image.path.read_bytes(), FOUND)
    assert (found.latitude, found.metadata) == (FOUND.latitude, None)
    assert "the place is not written: Not a directory" in str(found.problem)


def test_copies_that_would_lose_a_file_are_refused(image: SurveyImage, tmp_path: Path) -> None:
    copies = Placement(tmp_path / "in")
    other = image._replace(file="b.jpg", path=tmp_path / "b.jpg")
    with pytest.raises(SurveyError, match="would both become"):
        copies.check([image, other], replace=True)
    with pytest.raises(SurveyError, match="would replace its original"):
        copies.check([image._replace(copy=Path("a.jpg"))], replace=True)
    with pytest.raises(SurveyError, match="is not empty: give --overwrite"):
        copies.check([image], replace=False)
    with pytest.raises(SurveyError, match=r"a\.jpg cannot be made: .*: name another folder"):
        Placement(image.path).check([image], replace=True)
    left = [tmp_path / "in" / "later" / name for name in (".a.jpg.12.tmp", ".b.jpg.12.tmp")]
    left[0].parent.mkdir()
    for part in left:
        part.write_bytes(b"half")
    copies.check([image], replace=True)
    assert [part.exists() for part in left] == [False, True]
