"""`skyfix ingest URL` fetches and ingests; a failure leaves the catalogue as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint_samples import tiny_checkpoint
from imagery_samples import patchwork, write_raster
from imagery_server import ImageryServer, Reply, files, serving

from service.__main__ import main
from service.index.catalogue import Catalogue, SourceRecord

BOX = "--bbox=15.0003,50.0107,15.0012,50.0112"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ImageryServer]:
    write_raster(tmp_path / "town.tif", patchwork(500, 500))
    with serving(files(tmp_path)) as server:
        yield server


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    tiny_checkpoint().save(tmp_path / "tiny.safetensors")
    home, weights = str(tmp_path / "home"), str(tmp_path / "tiny.safetensors")
    return ["--home", home, "--weights", weights, "--size-m", "32", "--rate", "100"]


def source(options: list[str]) -> SourceRecord:
    with Catalogue.of(Path(options[1])) as catalogue:
        (record,) = catalogue.sources()
        assert len(list(catalogue.tiles())) == catalogue.tiles_by_source()[record.name] > 0
        return record


def test_a_url_becomes_tiles_and_its_secrets_stay_nowhere(
    server: ImageryServer, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    secret = ["--header", "X-Key: hidden"]
    address = f"{server.url}/town.tif?token=hidden"
    assert main(["ingest", address, BOX, "--licence", "CC0", *secret, *options]) == 0
    said = "".join(capsys.readouterr())
    assert "about 1 MiB of http" in said
    assert "outside the area" in said
    record = source(options)
    assert (record.name, record.licence, Path(record.path).name[:5]) == ("town", "CC0", "town-")
    assert server.seen[0].headers["x-key"] == "hidden"
    kept = [file.read_bytes() for file in Path(options[1]).rglob("*") if file.is_file()]
    assert not any(b"hidden" in content for content in [*kept, said.encode()])


def test_another_area_takes_the_place_of_the_former_and_is_remembered(
    server: ImageryServer, options: list[str]
) -> None:
    command = ["ingest", f"{server.url}/town.tif", *options]
    assert main([*command, BOX]) == 0
    first = source(options)
    assert main([*command, BOX.replace("15.0012", "15.0014")]) == 0
    second = source(options)
    assert main(command) == 0
    assert source(options).path == second.path != first.path
    assert list(Path(options[1], "imagery").iterdir()) == [Path(second.path)]


def test_a_failure_exits_with_1_and_changes_nothing(
    server: ImageryServer, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ingest", f"{server.url}/town.tif", *options]
    assert main([*command, BOX]) == 0
    before = source(options)
    server.answer = lambda _: Reply(403)
    template = ["ingest", server.url + "/{z}/{x}/{y}", "--name", "town", *options]
    for refused in (command, template):
        assert main([*refused, BOX]) == 1
        assert "answers 403" in capsys.readouterr().err
    assert source(options) == before
    assert Path(before.path).is_dir()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([BOX, "--area", "a.json"], "give one of them"),
        (["--bbox=1,2,3"], "bbox='1,2,3'"),
        (["--area", "nowhere.geojson"], "nowhere.geojson"),
    ],
)
def test_bad_areas_are_one_line(
    tmp_path: Path, options: list[str], arguments: list[str], problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["ingest", str(tmp_path), *arguments, *options]) == 1
    assert problem in capsys.readouterr().err
