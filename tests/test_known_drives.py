"""Drives with known positions: what is measured is what the frames' distances say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, coloured_region, colours, encoded, panorama_of

from model.geo import LatLon, distance_m
from service.build import build
from service.index.catalogue import Catalogue
from service.index.live_index import LiveIndex
from service.ingest import ingest
from service.locate.known_drives import evaluate_drives
from service.locate.localizer import Localizer

COUNT = 8


@pytest.fixture
def localizer(tmp_path: Path) -> Localizer:
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, coloured_region(tmp_path / "town", range(COUNT)), size_m=64.0)
    encoder = FakeEncoder()
    build(tmp_path, encoder)
    return Localizer(encoder, LiveIndex(tmp_path, encoder.fingerprint), rolls=4)


def write_drive(folder: Path, seeds: range, wrong: int = 0) -> None:
    """Panorama `seed` stands where coloured_region puts its tile; the first `wrong` elsewhere."""
    folder.mkdir(parents=True)
    rows = ["file,latitude,longitude"]
    for number, seed in enumerate(seeds):
        (folder / f"{seed}.png").write_bytes(panorama_of(seed))
        latitude = 25.5 if number < wrong else 25.0
        rows.append(f"{seed}.png,{latitude},{-80.0 + 0.001 * seed:.6f}")
    (folder / "poses.csv").write_text("\n".join(rows) + "\n")


def test_every_folder_with_poses_is_a_drive(localizer: Localizer, tmp_path: Path) -> None:
    write_drive(tmp_path / "drives" / "1", range(4), wrong=1)
    write_drive(tmp_path / "drives" / "2", range(4, COUNT))
    figures = evaluate_drives(localizer, tmp_path / "drives").figures
    assert (figures["drives"], figures["frames"]) == (2, COUNT)
    assert figures["alone_within_25m"] == figures["drive_within_25m"] == 7 / 8
    single = evaluate_drives(localizer, tmp_path / "drives" / "2").figures
    assert (single["drives"], single["drive_within_25m"]) == (1, 1.0)


@pytest.mark.parametrize("rolls", [1, 4])
def test_a_frame_is_encoded_once_and_alone_is_the_single_answer(
    localizer: Localizer, tmp_path: Path, rolls: int
) -> None:
    encoder = localizer.encoder
    assert isinstance(encoder, FakeEncoder)
    localizer = Localizer(encoder, localizer.live, rolls=rolls)
    write_drive(tmp_path / "drive", range(1))
    turned = encoded(np.roll(colours(5).repeat(2, axis=1), 32, axis=1))  # faces east
    (tmp_path / "drive" / "0.png").write_bytes(turned)
    fix = localizer.locate(turned)
    assert fix.position is not None
    before = encoder.calls
    figures = evaluate_drives(localizer, tmp_path / "drive").figures
    assert encoder.calls - before == rolls
    error_m = distance_m(fix.position, LatLon(25.0, -80.0))
    assert figures["alone_median_error_m"] == pytest.approx(error_m, abs=0.01)
