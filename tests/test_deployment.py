"""The container files agree with each other, with the package and with their own document."""

import re
import subprocess
import sys
import threading
import tomllib
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
DOCUMENT = (ROOT / "docs" / "deploy.md").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def words(instruction: str, text: str = DOCKERFILE) -> list[str]:
    """What follows the instruction, once for each time it stands in the Dockerfile."""
    return re.findall(rf"^{instruction} (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_write_to_its_image_or_gain_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"privileged", "cap_add", "user", "network_mode", "pid"}.isdisjoint(service)


@pytest.mark.parametrize("name", SERVICES)
def test_the_data_volume_is_the_only_place_that_lasts(name: str) -> None:
    writable = [mount for mount in SERVICES[name]["volumes"] if not mount.endswith(":ro")]
    assert writable == ["skyfix-data:/data"]
    assert "skyfix-data" in COMPOSE["volumes"]
    assert words("VOLUME", FINAL_STAGE) == ["/data"]


@pytest.mark.parametrize(("api", "job"), [("api", "rebuild"), ("api-gpu", "rebuild-gpu")])
def test_the_rebuild_is_the_api_run_once(api: str, job: str) -> None:
    differs = {"command", "profiles", "healthcheck", "ports", "restart", "stop_grace_period"}
    shared = SERVICES[api].keys() - differs
    assert shared == SERVICES[job].keys() - differs
    assert {key: SERVICES[api][key] for key in shared} == {k: SERVICES[job][k] for k in shared}
    assert SERVICES[job]["command"] == "build"
    assert "restart" not in SERVICES[job]


@pytest.mark.parametrize(("plain", "gpu"), [("api", "api-gpu"), ("rebuild", "rebuild-gpu")])
def test_the_gpu_changes_nothing_but_the_device(plain: str, gpu: str) -> None:
    changed = {k for k, value in SERVICES[gpu].items() if SERVICES[plain].get(k) != value}
    assert changed == {"image", "build", "deploy", "profiles"}
    assert SERVICES[plain].keys() <= SERVICES[gpu].keys()


def test_only_the_api_starts_by_itself_and_only_for_this_host() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["api"]
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert words("EXPOSE", FINAL_STAGE) == ["8000"]
    assert words("CMD", FINAL_STAGE) == ['["serve", "--host", "0.0.0.0", "--port", "8000"]']


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_built_with_an_extra_there_is(name: str) -> None:
    extra = SERVICES[name]["build"]["args"]["EXTRA"]
    assert extra in EXTRAS
    assert SERVICES[name]["image"] == f"skyfix:{extra}"


def test_the_image_runs_without_root_and_without_tools() -> None:
    assert words("USER", FINAL_STAGE) == ["10001:10001"]
    assert words("ENTRYPOINT", FINAL_STAGE) == ['["skyfix"]']
    assert "apt-get" not in FINAL_STAGE
    assert "pip" not in FINAL_STAGE


def test_the_build_knows_no_address_and_needs_no_argument() -> None:
    assert {arg.split("=")[0]: arg.split("=")[1] for arg in words("ARG") if "=" in arg} == {
        "BASE_IMAGE": "docker.io/library/debian:bookworm-slim", "PIP_OPTIONS": '""', "EXTRA": "cpu",
    }  # fmt: skip
    assert "://" not in DOCKERFILE
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = {line[1:] for line in ignore if line.startswith("!")}
    copied = {w for line in words("COPY") if "--from" not in line for w in line.split()[:-1]}
    assert "*" in ignore
    assert admitted == copied
    assert all((ROOT / name).exists() for name in copied)


class _Answer(BaseHTTPRequestHandler):
    """200 for /livez while the server is well, 503 for everything else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.server.well and self.path == "/livez" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("well", "code"), [(True, 0), (False, 1)])
def test_the_health_check_tells_well_from_ill(well: bool, code: int) -> None:
    test = SERVICES["api"]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "python3", "-c"]
    assert f'"{test[3]}"' in FINAL_STAGE
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.well = well
        threading.Thread(target=server.handle_request, daemon=True).start()
        check = test[3].replace("8000", str(server.server_port))
        assert subprocess.run([sys.executable, "-c", check], timeout=30).returncode == code


def test_the_document_names_services_and_settings_there_are() -> None:
    named = re.findall(r"docker compose (?:build|run --rm|up --detach) ([a-z-]+)", DOCUMENT)
    assert set(named) == set(SERVICES)
    settings = {f"SKYFIX_{field.name.upper()}" for field in fields(Settings)}
    assert set(re.findall(r"SKYFIX_[A-Z_]+", DOCUMENT)) <= settings
