"""The commands about sources, versions, calibration and accuracy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoint_samples import tiny_checkpoint
from fakes import coloured_region, panorama_of

from model.checkpoint import Checkpoint
from service.__main__ import main
from service.cli.wiring import open_localizer
from service.index.versions import Versions
from service.runtime.jobs import rebuild_command
from service.settings import Settings

COUNT = 20


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    # A busy machine may choose torch once and OpenVINO once, which differ in the last digits.
    monkeypatch.setenv("SKYFIX_PRECISION", "fp32")
    weights = tmp_path / "tiny.safetensors"
    tiny_checkpoint().save(weights)
    return ["--home", str(tmp_path / "home"), "--weights", str(weights), "--device", "cpu"]


@pytest.fixture
def street(tmp_path: Path, options: list[str]) -> Path:
    """Panoramas with poses.csv, taken in a live index of COUNT tiles."""
    region = coloured_region(tmp_path / "town", range(COUNT))
    assert main(["ingest", str(region), "--licence", "CC0", *options]) == 0
    assert main(["build", *options]) == 0
    folder = tmp_path / "street"
    folder.mkdir()
    rows = ["file,latitude,longitude"]
    localizer = open_localizer(
        Settings(
            home=tmp_path / "home",
            weights=tmp_path / "tiny.safetensors",
            device="cpu",
            precision="fp32",
            rolls=2,
        )
    )
    for seed in range(COUNT):
        data = panorama_of(seed)
        (folder / f"{seed}.png").write_bytes(data)
        position = localizer.locate(data).position  # untrained weights: taken as the truth
        assert position is not None
        rows.append(f"{seed}.png,{position.latitude},{position.longitude}")
    (folder / "poses.csv").write_text("\n".join(rows) + "\n")
    return folder


def output(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 0
    return capsys.readouterr().out


def calibration(tmp_path: Path) -> dict[str, object]:
    versions = Versions(tmp_path / "home")
    stored = versions.manifest(versions.require_current()).calibration
    assert stored is not None
    return stored


def test_sources_are_listed_and_removed(
    street: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"town: {COUNT} tiles of" in output(["sources", *options], capsys)
    assert "(CC0)" in output(["sources", *options], capsys)
    assert f"{COUNT} tiles removed" in output(["remove", "town", *options], capsys)
    assert output(["sources", *options], capsys) == ""
    assert main(["remove", "town", *options]) == 1
    assert "no source is named 'town'" in capsys.readouterr().err


def test_a_rebuild_by_the_server_keeps_the_choice_of_approximate_search(
    tmp_path: Path, street: Path, options: list[str]
) -> None:
    assert main(["build", "--approximate-from", "12345", *options]) == 0
    settings = Settings(home=tmp_path / "home", weights=tmp_path / "tiny.safetensors", device="cpu")
    assert main(rebuild_command(settings)[3:]) == 0
    versions = Versions(settings.home)
    assert len(versions.names()) == 3
    live = versions.manifest(versions.require_current())
    assert live.engine == {"kind": "exact", "approximate_from": 12345}


def test_prune_deletes_old_versions(
    street: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *options]) == 0
    assert "000001-" in output(["prune", "--keep", "1", *options], capsys)
    assert len(output(["versions", *options], capsys).splitlines()) == 1
    with pytest.raises(SystemExit):
        main(["prune", "--keep", "-1", *options])


@pytest.mark.parametrize("command", ["activate", "prune"])
def test_a_disk_error_is_one_line(
    command: str,
    tmp_path: Path,
    street: Path,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    versions = Versions(tmp_path / "home")
    (versions.folder / ".pointer").unlink()
    (versions.folder / ".pointer").mkdir()  # nothing can be written there
    capsys.readouterr()
    assert main([command, *(versions.names() if command == "activate" else ()), *options]) == 1
    assert "free space" in capsys.readouterr().err


def test_evaluate_prints_one_json_document(
    street: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(output(["evaluate", str(street), "--json", *options], capsys))
    assert report["inside"]["panoramas"] == COUNT
    assert report["certainty"]["calibration_error"] is None
    assert "median_error_m" in output(["evaluate", str(street), *options], capsys)


def test_a_calibration_is_inherited_by_later_builds_and_by_weights(
    tmp_path: Path, street: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibration(tmp_path)["weights"] is None
    carried = tmp_path / "carried.safetensors"
    assert main(["calibrate", str(street), "--out", str(carried), *options]) == 0
    weights = [*options, "--weights", str(carried)]
    assert main(["build", *weights]) == 0
    inherited = calibration(tmp_path)
    assert inherited["source"] == f"{COUNT} panoramas of street"
    assert main(["build", "--validation", str(street), *options]) == 0
    assert calibration(tmp_path) == inherited
    assert main(["build", *options]) == 0
    assert calibration(tmp_path) == inherited
    report = json.loads(output(["evaluate", str(street), "--json", *options], capsys))
    assert 0.0 <= report["certainty"]["calibration_error"] <= 1.0


def test_panoramas_from_elsewhere_calibrate_too(
    tmp_path: Path, street: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--other", str(street), *options]) == 1
    assert "also give --validation" in capsys.readouterr().err
    far = tmp_path / "far"
    shutil.copytree(street, far)
    table = (far / "poses.csv").read_text().splitlines()
    moved = [f"{row.split(',')[0]},{10 + i % 9},20" for i, row in enumerate(table[1:])]
    (far / "poses.csv").write_text("\n".join([table[0], *moved]) + "\n")
    against = ["--other", str(far), *options]
    assert main(["build", "--validation", str(street), *against]) == 0
    stored = calibration(tmp_path)
    assert stored["source"] == f"{COUNT} panoramas of street against {COUNT} of far"
    carried = tmp_path / "carried.safetensors"
    assert main(["calibrate", str(street), "--out", str(carried), *against]) == 0
    assert Checkpoint.load(carried).provenance["calibration"] == stored


def test_a_build_with_bad_validation_panoramas_publishes_nothing(
    tmp_path: Path, street: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = Versions(tmp_path / "home").names()
    (street / "3.png").write_bytes(b"broken")
    assert main(["build", "--validation", str(street), *options]) == 1
    assert main(["build", "--validation", str(tmp_path / "nowhere"), *options]) == 1
    assert "poses.csv cannot be read" in capsys.readouterr().err
    assert Versions(tmp_path / "home").names() == names
