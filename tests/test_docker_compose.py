"""The whole compose file in a Docker engine, as in docs/how-to/deploy.md, "Start".

Runs only with COMPOSE=1, because a test cannot see whether the images hold this code.
"""

import io
import os
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from imagery_samples import patchwork, write_raster
from PIL import Image

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    "COMPOSE" not in os.environ, reason="needs Docker and its images: `make compose`"
)


class Project:
    """The services under their own name and ports, with their own imagery."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._environ = {**os.environ, "PUBLISH": "127.0.0.1:0", "OPERATORS": "0"}  # any free ports
        (folder / "imagery").mkdir()
        (folder / "deploy").symlink_to(ROOT / "deploy")
        self.add("first", seed=0)

    def add(self, name: str, seed: int) -> None:
        path = self._folder / "imagery" / f"{name}.tif"
        write_raster(path, patchwork(400, 400, seed))

    def __call__(self, *words: str) -> str:
        where = ["--project-directory", str(self._folder), "--project-name", f"t{os.getpid()}"]
        command = ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), *where, *words]
        ran = subprocess.run(
            command, env=self._environ, capture_output=True, text=True, timeout=240
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        return ran.stdout

    def url(self, path: str) -> str:
        return f"http://{self('port', 'proxy', '8080').strip()}{path}"

    def version(self) -> str:
        """The live version, as soon as the service is ready."""
        last = ""
        for _ in range(120):
            try:
                answer = httpx.get(self.url("/readyz"))
            except httpx.TransportError as error:  # nginx does not listen yet
                last = repr(error)
            else:
                if answer.status_code == 200:
                    return answer.json()["index_version"]
                last = answer.text
            time.sleep(0.5)
        raise AssertionError(f"not ready: {last}\n{self('logs', '--tail', '20')}")

    def locate(self) -> httpx.Response:
        stream = io.BytesIO()
        Image.fromarray(patchwork(128, 512, seed=2)).save(stream, "JPEG")
        return httpx.post(self.url("/localize"), files={"panorama": stream.getvalue()}, timeout=40)


@pytest.fixture(scope="module")
def compose(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("compose"))
    try:
        for job in (["ingest", "/imagery/first.tif", "--name", "first"], []):
            project("run", "--rm", "rebuild", *job)
        project("up", "--detach", "proxy", "api")
        yield project
    finally:
        project("--profile", "*", "down", "--volumes", "--timeout", "5")


def test_imagery_becomes_answers_through_the_proxy(compose):
    version = compose.version()
    answer = compose.locate()
    assert answer.status_code == 200, answer.text
    assert answer.json()["index_version"] == version
    assert answer.json()["matches"][0]["tile_id"].startswith("first")
    assert httpx.get(compose.url("/metrics")).json()["type"] == "urn:skyfix:problem:not-found"


def test_a_rebuild_beside_the_service_goes_live_without_a_restart(compose):
    before, started = compose.version(), compose("ps", "--format", "{{.ID}} {{.CreatedAt}}", "api")
    compose.add("second", seed=1)
    compose("run", "--rm", "rebuild", "ingest", "/imagery/second.tif", "--name", "second")
    compose("run", "--rm", "rebuild")
    until = time.monotonic() + 30
    while (after := compose.locate().json()["index_version"]) == before:
        assert time.monotonic() < until
        time.sleep(0.5)
    assert after[:6] == "000002"
    assert compose("ps", "--format", "{{.ID}} {{.CreatedAt}}", "api") == started


def test_a_stopped_service_ends_without_an_error(compose):
    compose.version()
    compose("stop", "--timeout", "30", "api")
    assert compose("ps", "--all", "--format", "{{.ExitCode}}", "api").strip() == "0"
