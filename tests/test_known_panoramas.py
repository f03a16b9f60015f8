"""Panoramas with known positions are read, measured, and calibrate the manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, coloured_region, panorama_of
from PIL import Image

from service.build import build
from service.index.catalogue import Catalogue
from service.index.live_index import LiveIndex
from service.index.stored_calibration import CalibrationError
from service.index.versions import Versions
from service.ingest import ingest
from service.locate.confidence import fuse
from service.locate.known_panoramas import ValidationError, calibrate, evaluate, read_poses
from service.locate.localizer import Localizer

COUNT = 24


def write_panoramas(folder: Path, seeds: Sequence[int], latitude: float = 25.0) -> Path:
    """Panorama `seed` stands where coloured_region puts the tile `seed`."""
    folder.mkdir()
    rows = ["file,latitude,longitude"]
    for column, seed in enumerate(seeds):
        (folder / f"{seed}.png").write_bytes(panorama_of(seed))
        rows.append(f"{seed}.png,{latitude},{-80.0 + 0.001 * column:.6f}")
    (folder / "poses.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def localizer(tmp_path: Path) -> Localizer:
    """Over an index of COUNT tiles that is calibrated by their own panoramas."""
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, coloured_region(tmp_path / "town", range(COUNT)), size_m=64.0)
    panoramas = write_panoramas(tmp_path / "street", range(COUNT))
    encoder = FakeEncoder()
    localizer = Localizer(encoder, LiveIndex(tmp_path, encoder.fingerprint), rolls=4)
    build(tmp_path, encoder, calibrate=lambda index: calibrate(index, localizer, [panoramas]))
    return localizer


def test_a_build_stores_its_calibration(localizer: Localizer, tmp_path: Path) -> None:
    stored = Versions(tmp_path).manifest(localizer.live.get().version).calibration
    assert stored is not None
    assert stored["source"] == f"{COUNT} panoramas of street"
    fix = localizer.locate(panorama_of(3), top_k=1)
    assert fix.in_index
    assert fix.confidence is not None
    assert fix.confidence > 0.8
    assert fix.matches[0].tile_id == "t3"
    assert fix.position == localizer.locate(panorama_of(3), top_k=9).position
    stranger = localizer.locate(panorama_of(999))
    assert not stranger.in_index
    assert stranger.confidence is not None
    assert stranger.confidence < 0.2


def test_panoramas_from_elsewhere_replace_the_search_without_own_tiles(
    localizer: Localizer, tmp_path: Path
) -> None:
    index, own = localizer.live.get(), [tmp_path / "street"]
    others = [write_panoramas(tmp_path / "others", range(900, 930), latitude=30.0)]
    given = calibrate(index, localizer, own, others)
    assert given.source == f"{COUNT} panoramas of street against 30 of others"
    assert given.weights != index.calibration.weights
    at_home = localizer.candidates(index, localizer.prepare(panorama_of(3)), [None])[0]
    fused = fuse(index.tiles.positions(at_home.rows), np.array(at_home.distances), given)
    assert fused.confidence is not None
    assert fused.confidence > 0.9


def test_a_panorama_of_this_index_is_not_from_elsewhere(
    localizer: Localizer, tmp_path: Path
) -> None:
    own = [tmp_path / "street"]
    with pytest.raises(ValidationError, match=r"0\.png, taken at 25\.0,-80\.0, is not from elsew"):
        calibrate(localizer.live.get(), localizer, own, own)


def test_an_evaluation_separates_inside_from_elsewhere(
    localizer: Localizer, tmp_path: Path
) -> None:
    others = write_panoramas(tmp_path / "others", range(900, 910), latitude=30.0)
    report = evaluate(localizer, tmp_path / "street", others)
    assert (report.inside["panoramas"], report.certainty["others"]) == (COUNT, 10)
    assert report.inside["median_error_best_tile_m"] == pytest.approx(0.0, abs=0.1)
    assert report.inside["within_10m"] == report.certainty["auroc"] == 1.0
    assert report.certainty["others_said_inside"] == 0.0
    assert json.dumps(report.inside)
    next_door = evaluate(localizer, tmp_path / "street").certainty
    assert next_door["others"] == COUNT
    assert next_door["others_said_inside"] == 0.0


def test_a_wrong_heading_misleads_unless_it_is_ignored(
    localizer: Localizer, tmp_path: Path
) -> None:
    street = tmp_path / "street"
    for file in street.glob("*.png"):
        with Image.open(file) as image:
            exif = Image.Exif()
            exif[0x8825] = {17: 90.0}  # GPSImgDirection 90; the centre looks north
            image.save(file, exif=exif)
    assert evaluate(localizer, street).inside["best_tile_within_10m"] < 0.5
    ignored = evaluate(localizer, street, heading_known=False)
    assert ignored.inside["best_tile_within_10m"] == ignored.inside["within_10m"] == 1.0


def test_without_calibration_no_confidence_is_made_up(localizer: Localizer, tmp_path: Path) -> None:
    build(tmp_path, FakeEncoder())
    plain = Localizer(localizer.encoder, LiveIndex(tmp_path, localizer.encoder.fingerprint))
    fix = plain.locate(panorama_of(3))
    assert (fix.confidence, fix.in_index) == (None, None)
    assert fix.radius_m is not None
    report = evaluate(plain, tmp_path / "street")
    assert report.calibration == "not calibrated"
    assert report.certainty["calibration_error"] is None


def test_too_few_panoramas_publish_nothing(localizer: Localizer, tmp_path: Path) -> None:
    few = write_panoramas(tmp_path / "few", range(5))
    live = Versions(tmp_path).current()
    with pytest.raises(CalibrationError, match="5 panoramas inside"):
        build(tmp_path, FakeEncoder(), calibrate=lambda index: calibrate(index, localizer, [few]))
    assert Versions(tmp_path).names() == [live]


def test_a_pointer_of_git_lfs_is_no_table(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (tmp_path / "poses.csv").write_text(pointer)
    with pytest.raises(ValidationError, match=r"needs the columns .*; the file is .*git lfs"):
        read_poses(tmp_path)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("", "needs the columns"),
        ("gone.png,1,2", r"line 3: there is no file .*gone\.png"),
        ("0.png,north,2", "line 3: could not convert"),
        ("0.png,91,2", "line 3: .* no position on Earth"),
        ("0.png,nan,2", "no position on Earth"),
        ("0.png", "line 3: "),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    folder = write_panoramas(tmp_path / "street", [0])
    table = folder / "poses.csv"
    table.write_text(f"{table.read_text()}{row}\n" if row else "file,lat,lon\n0.png,1,2\n")
    with pytest.raises(ValidationError, match=reason):
        read_poses(folder)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"poses\.csv cannot be read"):
        read_poses(tmp_path)
