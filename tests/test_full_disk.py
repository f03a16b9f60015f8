"""A disk that is really full: a small tmpfs. Skipped where mounting one is not allowed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from api_harness import publish
from fakes import FakeEncoder, panorama_of
from imagery_samples import patchwork, write_raster
from imagery_server import files, planned, serving
from kill_campaign import check

from model.panorama_metadata import read_panorama
from service.__main__ import main
from service.build import BuildFailed, build
from service.index.catalogue import Catalogue, CatalogueError
from service.index.live_index import LiveIndex
from service.index.versions import IndexUnwritable, Versions
from service.ingest import ingest
from service.locate.hints import Hints
from service.locate.localizer import Localizer
from service.remote.http_client import RemoteError
from service.survey.images import SurveyError, SurveyImage, find_images
from service.survey.journal import Journal
from service.survey.outcome import Outcome
from service.survey.placement import Placement
from service.survey.run import survey

SIZE_KIB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of SIZE_KIB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave_kib: int) -> Path:
    """A file that leaves `leave_kib` free."""
    free = shutil.disk_usage(disk).free - leave_kib * 1024
    (disk / "filler").write_bytes(bytes(free))
    return disk / "filler"


def test_nothing_is_published_and_the_old_version_stays(small_disk: Path, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "town.tif", patchwork(400, 400))
    with Catalogue.of(small_disk) as catalogue:
        ingest(catalogue, path, size_m=64.0)
    live = build(small_disk, FakeEncoder()).name
    other = FakeEncoder(fingerprint="bb" * 32)
    for leave_kib in (4, 12, 20, 32):
        filler = fill(small_disk, leave_kib)
        with pytest.raises(BuildFailed, match="the build stopped"):
            build(small_disk, other)
        assert Versions(small_disk).names() == [live]
        check(small_disk)
        filler.unlink()
    assert build(small_disk, FakeEncoder()).name != live


def test_prune_frees_a_disk_without_a_free_byte(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_raster(tmp_path / "town.tif", patchwork(400, 400))
    with Catalogue.of(small_disk) as catalogue:
        ingest(catalogue, path, size_m=64.0)
    old, live = (build(small_disk, FakeEncoder()).name for _ in range(2))
    fill(small_disk, 0)
    versions = Versions(small_disk)
    assert versions.verify(old).version == old
    with pytest.raises(IndexUnwritable, match=rf"{old} is not made live: .*free space"):
        versions.activate(old)
    check(small_disk)
    with pytest.raises(BuildFailed, match="the build stopped"):
        build(small_disk, FakeEncoder())
    assert main(["prune", "--keep", "1", "--home", str(small_disk)]) == 0
    assert capsys.readouterr().out == f"{old} deleted\n"
    assert versions.names() == [live]
    assert versions.activate(live).version == live
    check(small_disk)


def test_the_catalogue_stays_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    small = write_raster(tmp_path / "small.tif", patchwork(400, 400))
    large = write_raster(tmp_path / "large.tif", patchwork(900, 900))
    with Catalogue.of(small_disk) as catalogue:
        ingest(catalogue, small, size_m=64.0)
        before = list(catalogue.tiles())
        fill(small_disk, 8)
        with pytest.raises(CatalogueError, match="cannot be"):
            ingest(catalogue, large, size_m=64.0)
        assert list(catalogue.tiles()) == before


@pytest.fixture
def localizer(tmp_path: Path) -> Localizer:
    encoder = FakeEncoder()
    publish(tmp_path / "home", "town", range(12), encoder)
    return Localizer(encoder, LiveIndex(tmp_path / "home", encoder.fingerprint), rolls=4)


@pytest.fixture
def images(tmp_path: Path) -> list[SurveyImage]:
    for seed in range(24):
        (tmp_path / f"{seed:02d}.png").write_bytes(panorama_of(seed))
    return find_images(sorted(tmp_path.glob("*.png")), Hints())


def test_a_survey_writes_the_copies_for_which_there_is_room(
    small_disk: Path, localizer: Localizer, images: list[SurveyImage]
) -> None:
    fill(small_disk, 40)
    copies = Placement(small_disk / "copies", 0.0)
    copies.check(images, replace=False)
    found = list(survey(localizer, images, finish=copies.write))
    assert all(outcome.latitude for outcome in found)
    problems = [outcome.problem for outcome in found if outcome.problem]
    assert set(problems) == {"the place is not written: No space left on device"}
    files = sorted((small_disk / "copies").iterdir())
    assert [file.name for file in files] == [Path(o.file).name for o in found if not o.problem]
    assert files
    assert all(read_panorama(file.read_bytes()).image.decode().size for file in files)


def test_a_survey_goes_on_where_its_journal_filled_the_disk(
    small_disk: Path, localizer: Localizer, images: list[SurveyImage]
) -> None:
    filler, out = fill(small_disk, 4), small_disk / "places.csv"
    full = r"places\.csv\.journal cannot be written: No space.*Make room: the same command goes on"
    with pytest.raises(SurveyError, match=full), Journal.of(out, "v1") as journal:
        list(survey(localizer, images, journal))
    filler.unlink()
    with Journal.of(out, "v1") as journal:
        assert any(map(journal.recall, images))
        assert len(list(survey(localizer, images, journal))) == len(images)


def test_a_read_only_disk_is_named(small_disk: Path, images: list[SurveyImage]) -> None:
    shutil.copy(images[0].path, small_disk / "00.png")
    (image,) = find_images([small_disk], Hints())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    data = image.path.read_bytes()
    found = Placement(None, 0.0).write(image, data, Outcome(image.file, 1.0, 2.0, heading_deg=3.0))
    assert found.problem == "the place is not written: Read-only file system"
    with pytest.raises(SurveyError, match="copies cannot be made: Read-only file system: name an"):
        Placement(small_disk / "copies").check([image], replace=False)
    with (
        pytest.raises(SurveyError, match=r"journal cannot be written: Read-only file system: name"),
        Journal.of(small_disk / "places.csv", "v1"),
    ):
        pass
    assert [path.name for path in small_disk.iterdir()] == ["00.png"]


def test_a_fetch_that_fills_the_disk_says_so(small_disk: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (800, 800, 3), np.uint8)
    write_raster(tmp_path / "town.tif", noise)
    with serving(files(tmp_path)) as server:
        fetch = planned(small_disk, f"{server.url}/town.tif", None)
        with pytest.raises(
            RemoteError, match=r"cannot be written.*(disk may be full|No space left)"
        ):
            fetch.run(lambda done, expected: None)
    assert not fetch.done
    assert list(fetch.folder.glob("*.tif")) == []
