"""The container files agree with each other, with the package and with their own document."""

import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings, variable

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
THEIRS = [name for name in SERVICES if name not in OURS]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# name -> (the base stage or image, the stage's instructions), in order
STAGES = {
    name: (base, text)
    for base, name, text in re.findall(
        r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL
    )
}
RUNTIME = STAGES["runtime"][1]
TARGETS = ("cpu", "gpu")
HOW_TO = ROOT / "docs" / "how-to"
DOCUMENT = "".join((HOW_TO / name).read_text() for name in ("deploy.md", "operate.md"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def words(instruction: str, text: str = DOCKERFILE) -> list[str]:
    """The arguments of every occurrence of `instruction` in the Dockerfile."""
    return re.findall(rf"^{instruction} (.+)$", text, re.MULTILINE)


def test_the_compose_file_is_valid() -> None:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(ROOT / "docker-compose.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_write_to_its_image_or_gain_rights(name: str) -> None:
    service = SERVICES[name]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"privileged", "cap_add", "network_mode", "pid"}.isdisjoint(service)
    if name != "milvus":  # Milvus writes to its image and keeps its rights
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", THEIRS)
def test_third_party_images_are_pinned_and_from_docker_hub(name: str) -> None:
    assert re.fullmatch(r"([a-z]+/)?[a-z]+:v?\d+\.\d+\.\d+(-alpine)?", SERVICES[name]["image"])


@pytest.mark.parametrize("name", OURS)
def test_only_the_data_volume_is_writable(name: str) -> None:
    writable = [mount for mount in SERVICES[name]["volumes"] if not mount.endswith(":ro")]
    assert writable == ["skyfix-data:/data"]
    assert "skyfix-data" in COMPOSE["volumes"]
    assert words("VOLUME", RUNTIME) == ["/data"]


@pytest.mark.parametrize("kind", ["", "-gpu", "-milvus"])
def test_the_rebuild_service_is_configured_like_the_api(kind: str) -> None:
    api, job = f"api{kind}", f"rebuild{kind}"
    differs = {"command", "profiles", "healthcheck", "networks", "restart", "stop_grace_period"}
    shared = SERVICES[api].keys() - differs
    assert shared == SERVICES[job].keys() - differs
    assert {key: SERVICES[api][key] for key in shared} == {k: SERVICES[job][k] for k in shared}
    assert SERVICES[job]["command"].split()[0] == "build"
    assert "restart" not in SERVICES[job]


@pytest.mark.parametrize(("plain", "gpu"), [("api", "api-gpu"), ("rebuild", "rebuild-gpu")])
def test_the_gpu_services_differ_in_image_and_device_alone(plain: str, gpu: str) -> None:
    changed = {k for k, value in SERVICES[gpu].items() if SERVICES[plain].get(k) != value}
    assert changed == {"image", "build", "deploy", "profiles"}
    assert SERVICES[plain].keys() <= SERVICES[gpu].keys()


def test_the_rebuild_for_milvus_has_its_address() -> None:
    assert SERVICES["rebuild-milvus"]["command"] == "build --milvus http://milvus:19530"
    assert SERVICES["milvus"]["profiles"] == SERVICES["api-milvus"]["profiles"]


def test_only_the_proxy_is_published_and_only_for_this_host() -> None:
    started = [name for name, service in SERVICES.items() if "profiles" not in service]
    assert started == ["proxy", "api"]
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "proxy": ["${PUBLISH:-127.0.0.1:8000}:8080", "127.0.0.1:${OPERATORS:-8001}:8081"],
        "prometheus": ["127.0.0.1:9090:9090"],
    }


def test_only_the_proxy_sees_client_keys_and_git_ignores_them() -> None:
    assert "/deploy/keys.conf" in (ROOT / ".gitignore").read_text().splitlines()
    mounting = [name for name, of in SERVICES.items() if "./deploy:/etc/skyfix:ro" in of["volumes"]]
    assert mounting == ["proxy"]
    for mount in SERVICES["prometheus"]["volumes"][:2]:
        source, target, how = mount.split(":")
        assert (ROOT / source).is_file()
        assert (target, how) == (f"/etc/skyfix/{Path(source).name}", "ro")


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("api")])
def test_the_proxy_finds_every_kind_of_api(name: str) -> None:
    proxy = (ROOT / "deploy" / "nginx.conf").read_text()
    assert SERVICES[name]["networks"] == {"default": {"aliases": ["api"]}}
    assert set(re.findall(r"set \$api (\S+);", proxy)) == {"http://api:8000"}


@pytest.mark.parametrize("name", OURS)
def test_every_image_is_built_with_an_existing_extra(name: str) -> None:
    target = SERVICES[name]["build"]["target"]
    extras = SERVICES[name]["build"].get("args", {"EXTRA": target})["EXTRA"].split(",")
    assert target in TARGETS
    assert set(extras) <= EXTRAS.keys()
    assert extras[0] == target
    assert SERVICES[name]["image"] == f"skyfix:{extras[-1]}"


def test_the_targets_differ_in_their_packages_alone_and_cpu_is_the_default() -> None:
    assert DOCKERFILE.count("\nFROM ") == len(STAGES)
    assert list(STAGES)[-1] == "cpu"
    for prefix, base in (("", "runtime"), ("packages-", "dependencies")):
        cpu, gpu = (STAGES[prefix + target] for target in TARGETS)
        assert cpu[0] == gpu[0] == base
        assert cpu[1].strip() == gpu[1].strip().replace("gpu", "cpu")


def test_the_image_runs_without_root_and_without_tools() -> None:
    assert words("USER", RUNTIME) == ["10001:10001"]
    assert words("EXPOSE", RUNTIME) == ["8000"]
    assert words("CMD", RUNTIME) == ['["serve", "--host", "0.0.0.0", "--port", "8000"]']
    assert words("ENTRYPOINT", RUNTIME) == ['["skyfix"]']
    for stage in ("runtime", *TARGETS):
        assert "apt-get" not in STAGES[stage][1]
        assert "pip" not in STAGES[stage][1]


def test_the_build_holds_no_address_and_needs_no_argument() -> None:
    given = dict(line.split("=") for line in words("ARG")[:2])
    assert given.keys() == {"BASE_IMAGE", "PIP_OPTIONS"}
    assert given["PIP_OPTIONS"] == '""'
    assert words("ARG")[2:] == ["PIP_OPTIONS", "EXTRA=gpu", "EXTRA=cpu"]
    base = re.fullmatch(r"(debian:bookworm-\d{8}-slim)", given["BASE_IMAGE"])
    assert base is not None
    assert f"`{base[1]}`" in DOCUMENT
    assert "://" not in DOCKERFILE
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_the_build_context_holds_only_copied_files() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = {line[1:] for line in ignore if line.startswith("!")}
    copied = {w for line in words("COPY") if "--from" not in line for w in line.split()[:-1]}
    assert "*" in ignore
    assert admitted == copied
    assert all((ROOT / name).exists() for name in copied)


class _Answer(BaseHTTPRequestHandler):
    """200 for /livez if the server is well, else 503."""

    def do_GET(self) -> None:
        self.send_response(200 if self.server.well and self.path == "/livez" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("well", "code"), [(True, 0), (False, 1)])
def test_the_health_check_fails_when_the_service_does(well: bool, code: int) -> None:
    test = SERVICES["api"]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "python3", "-c"]
    assert f'"{test[3]}"' in RUNTIME
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.well = well
        threading.Thread(target=server.handle_request, daemon=True).start()
        check = test[3].replace("8000", str(server.server_port))
        assert subprocess.run([sys.executable, "-c", check], timeout=30).returncode == code


def test_the_document_names_existing_services_and_settings() -> None:
    started = re.findall(r"docker compose up --detach ([a-z -]+[a-z])", DOCUMENT)
    once = re.findall(r"docker compose (?:build|run --rm) ([a-z]\S+)", DOCUMENT)
    assert {name for names in started for name in names.split()} | set(once) == set(SERVICES)
    settings = {variable(name) for name in Settings.model_fields}
    assert set(re.findall(r"SKYFIX_[A-Z_]+", DOCUMENT)) <= settings
