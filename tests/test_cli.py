"""The program `skyfix`: its commands work, and each problem is one line with exit code 1."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from checkpoint_samples import tiny_checkpoint
from fakes import coloured_region, panorama_of
from imagery_samples import patchwork, write_raster

from service.__main__ import main
from service.api.schemas import FixSchema
from service.cli.commands import COMMANDS, command_parser


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    tiny_checkpoint().save(path)
    return path


@pytest.fixture
def options(tmp_path: Path, weights: Path) -> list[str]:
    return ["--home", str(tmp_path / "home"), "--weights", str(weights), "--device", "cpu"]


@pytest.fixture
def built(tmp_path: Path, options: list[str]) -> Path:
    """A home with one version of three tiles; returns the imagery's folder."""
    region = coloured_region(tmp_path / "town", range(3))
    assert main(["ingest", str(region), *options]) == 0
    assert main(["build", *options]) == 0
    return region


def error_line(argv: list[str], capsys: pytest.CaptureFixture[str], said: str = "") -> str:
    """The one line on standard error of a command that fails with exit code 1.

    said: what standard output begins with; nothing else may stand there.
    """
    capsys.readouterr()
    assert main(argv) == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("skyfix: ")]
    assert out.startswith(said)
    assert (out.count("\n"), len(lines)) == (bool(said), 1)
    assert "Traceback" not in err
    return lines[0]


def test_locate_prints_the_document_of_the_http_api(
    tmp_path: Path, built: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "street.png"
    image.write_bytes(panorama_of(1))
    capsys.readouterr()
    arguments = ["--json", "--top-k", "2", "--heading-deg", "90", "--near=25,-80"]
    assert main(["locate", str(image), *arguments, *options]) == 0
    fix = FixSchema.model_validate_json(capsys.readouterr().out)
    assert [match.rank for match in fix.matches] == [1, 2]
    assert fix.geometry["heading_deg"].value == 90.0
    assert main(["locate", str(image), *options]) == 0
    assert fix.matches[0].tile_id in capsys.readouterr().out
    unknown = ["--heading-deg", "unknown", "--json", *options]
    assert main(["locate", str(image), *unknown]) == 0
    assert '"source": "unknown"' in capsys.readouterr().out
    assert main(["locate", str(image), "--near=0,0", *options]) == 0
    assert "no tile of the index is centred within 500 m of near=0.0,0.0" in capsys.readouterr().out


def test_locate_writes_the_table_of_a_folder(
    tmp_path: Path, built: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    drive, out = tmp_path / "drive", tmp_path / "places.csv"
    drive.mkdir()
    for seed in range(3):
        (drive / f"{seed}.png").write_bytes(panorama_of(seed))
    survey = ["locate", str(drive), "--out", str(out), *options]
    assert main(survey) == 0
    assert out.read_text().startswith(
        "file,latitude,longitude,radius_m,confidence,in_index,heading_deg,"
    )
    assert "exists already: give --overwrite" in error_line(survey, capsys)
    (drive / "9.png").write_bytes(b"nothing")
    copies = ["--write-metadata", str(tmp_path / "copies")]
    assert main([*survey, "--overwrite", *copies, "--min-confidence", "0"]) == 3
    assert "1 of 4 images have a problem" in capsys.readouterr().err
    assert len(list((tmp_path / "copies").iterdir())) == 3
    assert main(["locate", str(drive / "0.png"), str(drive / "2.png"), *options]) == 0
    printed = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["file", str(drive / "0.png"), str(drive / "2.png")]
    nowhere = ["--out", str(tmp_path / "no" / "a.csv")]
    (tmp_path / "folder.csv").mkdir()
    folder = ["--out", str(tmp_path / "folder.csv"), "--overwrite"]
    assert "is a folder: name a" in error_line(["locate", str(drive), *folder, *options], capsys)
    for wrong in (["--json"], nowhere, ["--dry-run"], ["--in-place", *copies]):
        assert "skyfix: " in error_line(["locate", str(drive), *wrong, *options], capsys)


def test_lost_output_is_no_traceback(tmp_path: Path, built: Path, options: list[str]) -> None:
    (tmp_path / "street.png").write_bytes(panorama_of(1))
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": ""}

    def run(arguments: list[str], output: int) -> tuple[int, str]:
        command = [sys.executable, "-m", "service", *arguments, *options]
        run = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=environment)
        return run.returncode, run.stderr.decode()

    reader, writer = os.pipe()
    os.close(reader)  # as `head` does when it has enough
    assert run(["locate", str(tmp_path), "--heading-deg", "0"], writer) == (141, "")
    os.close(writer)
    with Path("/dev/full").open("wb") as full:
        said = "skyfix: a file or the output is not written: No space left on device\n"
        assert run(["versions"], full.fileno()) == (1, said)


def test_a_good_ingest_logs_no_error(
    tmp_path: Path, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_raster(tmp_path / "town.tif", patchwork(400, 400))  # UTM does not cover the whole Earth
    with caplog.at_level("INFO"):
        assert main(["ingest", str(tmp_path / "town.tif"), "--size-m", "60", *options]) == 0
    assert not [record for record in caplog.records if "error" in record.getMessage()]


def test_versions_are_listed_verified_and_activated(
    built: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *options]) == 0
    capsys.readouterr()
    assert main(["versions", *options]) == 0
    first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (len(first), second[0]) == (1, "*")
    assert main(["verify", first[0], *options]) == 0
    assert "catalogue.sqlite: whole" in capsys.readouterr().out
    assert main(["activate", first[0], *options]) == 0
    capsys.readouterr()
    main(["versions", *options])
    assert capsys.readouterr().out.splitlines()[0] == f"* {first[0]}"


def test_verify_reports_a_lost_catalogue(
    built: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (catalogue,) = built.parent.rglob("catalogue.sqlite")
    catalogue.unlink()
    assert main(["verify", *options]) == 1
    assert "catalogue.sqlite is not there: put back" in capsys.readouterr().err
    assert not catalogue.exists()


def test_each_problem_is_one_line_with_exit_code_1(
    tmp_path: Path, built: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "street.png"
    image.write_bytes(panorama_of(1))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    locate = ["locate", str(image), *options]
    assert "top_k=0" in error_line([*locate, "--top-k", "0"], capsys)
    assert "near=" in error_line([*locate, "--near", "here"], capsys)
    assert "nowhere.png" in error_line(["locate", "nowhere.png", *options], capsys)
    assert "broken.safetensors" in error_line([*locate, "--weights", str(broken)], capsys)
    assert "skyfix build" in error_line([*locate, "--home", str(tmp_path / "empty")], capsys)
    assert "000099" in error_line(["activate", "000099-20250101T000000Z", *options], capsys)
    assert "nowhere.tif" in error_line(["ingest", "nowhere.tif", *options], capsys)
    no_size = ["ingest", str(built), "--size-m", "0", *options]
    assert "0 m" in error_line(no_size, capsys, "town/: 1 list of images (tiles.csv), 3 pictures")
    assert "ingest" in error_line(["build", *options, "--home", str(tmp_path / "empty")], capsys)
    assert "SKYFIX_PORT" in error_line(["serve", "--port", "70000", *options], capsys)


def test_an_index_of_another_encoder_is_refused_with_its_fingerprint(
    tmp_path: Path, built: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_checkpoint()
    other.save(tmp_path / "other.safetensors")
    image = tmp_path / "street.png"
    image.write_bytes(panorama_of(1))
    argv = ["locate", str(image), *options, "--weights", str(tmp_path / "other.safetensors")]
    assert other.fingerprint[:12] in error_line(argv, capsys)


def test_every_command_and_option_has_a_help_text() -> None:
    parser = command_parser()
    (commands,) = [a.choices for a in parser._actions if isinstance(a.choices, dict)]
    assert set(commands) == set(COMMANDS)
    for command in commands.values():
        assert command.description
        assert all(action.help for action in command._actions)


def test_wrong_usage_is_exit_code_2() -> None:
    asked = ["locate", "street.jpg", "--heading-deg", "north"]
    table = ["locate", "street.jpg", "--out", "places.xls"]
    for argv in ([], ["fly"], ["locate"], ["serve", "--port", "eighty"], asked, table):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 2


def test_settings_are_shown_without_secrets(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYFIX_ADMIN_TOKEN", "s3cr3t-0123456789")
    assert main(["serve", "--port", "81", "--print-settings", *options]) == 0
    shown = capsys.readouterr().out
    assert "SKYFIX_PORT=81" in shown
    assert "s3cr3t" not in shown


def test_serve_answers_over_a_socket_and_stops_on_sigterm(built: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "service", "serve", "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stderr is not None
            started = next(line for line in server.stderr if "running on" in line)
            address = re.search(r"http://[\d.:]+", started)[0]
            form = {"panorama": panorama_of(1)}
            answer = httpx.post(f"{address}/localize?heading_deg=0", files=form, timeout=30.0)
            assert answer.status_code == 200
            ready = httpx.get(f"{address}/readyz", timeout=30.0)
            assert ready.json()["status"] == "ready"
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(30.0)
    assert code == 0
