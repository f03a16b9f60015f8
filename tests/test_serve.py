"""A real server process is stopped at work, or loses its files.

It drains. The last good state keeps answering, and readiness, metrics and log say what is wrong.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from api_harness import publish
from checkpoint_samples import tiny_checkpoint
from fakes import FakeEncoder, coloured_region
from server_process import Server, running, wait_until

from service.cli.serve import allow_files
from service.index.catalogue import Catalogue
from service.index.lock import build_lock
from service.ingest import ingest

BUSY = """
import threading, torch
from fastapi import FastAPI
from service.cli.logs import log_to_stderr
from service.cli.serve import run
from service.settings import Settings

def work():
    while True:
        square @ square

square = torch.randn(300, 300)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
log_to_stderr("text")
run(FastAPI(), Settings(port=0))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    publish(tmp_path, "town", range(3), FakeEncoder())
    return tmp_path


def saved(path: Path) -> str:
    """Writes a small checkpoint; returns its fingerprint."""
    made = tiny_checkpoint()
    made.save(path)
    return made.fingerprint


def refuses(client: httpx.Client) -> bool:
    try:
        httpx.get(client.base_url.join("/livez"))
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # the connection was reset while the listener closed: ask again
        return False
    return False


def trouble(server: Server) -> str:
    return server.client.get("/readyz").raise_for_status().json()["trouble"] or ""


def answers(server: Server, version: str, seed: int = 1) -> bool:
    fix = server.locate(seed).raise_for_status().json()
    return (fix["index_version"], fix["matches"][0]["tile_id"]) == (version, f"t{seed}")


def live_version(server: Server) -> str:
    return server.client.get("/index").raise_for_status().json()["version"]


def errors(server: Server) -> list[str]:
    return [line for line in server.log.read_text().splitlines() if line.startswith("ERROR")]


def rebuild(server: Server) -> dict[str, object]:
    return server.client.post("/index/rebuild").raise_for_status().json()


def ended(server: Server, job: dict[str, object]) -> dict[str, object]:
    """The job, after its end."""

    def shown() -> dict[str, object]:
        return server.client.get(f"/jobs/{job['id']}").raise_for_status().json()

    wait_until(lambda: shown()["status"] != "running")
    return shown()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_server_ends_cleanly_with_threads_inside_torch(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    log = tmp_path / "server.log"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", BUSY]
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, stderr=stderr, env=environment) as server,
    ):
        wait_until(lambda: "running on" in log.read_text() or server.poll() is not None)
        server.send_signal(number)
        assert server.wait(60.0) == code, log.read_text()


def test_sigterm_finishes_requests_in_flight(home: Path) -> None:
    with running(home) as server, ThreadPoolExecutor(3) as clients:
        (home / "hold").touch()
        waiting = [clients.submit(server.locate, seed) for seed in range(3)]
        wait_until(lambda: server.counts("skyfix_panoramas_in_flight 3.0"))
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server.client))
        assert not any(answer.done() for answer in waiting)
        (home / "hold").unlink()
        found = [answer.result().json()["matches"][0]["tile_id"] for answer in waiting]
        assert found == ["t0", "t1", "t2"]
        assert server.process.wait(20.0) == 0


def test_the_old_version_answers_when_the_new_weights_are_corrupt(home: Path) -> None:
    path = home / "weights" / "next.safetensors"
    with running(home) as server:
        old = live_version(server)
        made_by = saved(path)
        os.truncate(path, 1000)
        new = publish(home, "suburb", range(5, 7), FakeEncoder(fingerprint=made_by))
        wait_until(lambda: "next.safetensors is not a readable" in trouble(server))
        assert new in trouble(server)
        assert answers(server, old)
        assert server.counts("skyfix_index_behind 1.0")
        (error,) = errors(server)
    assert error.startswith(f"ERROR service.index.live_index: index version {new} is not used")
    assert "put a whole copy" in error


def test_a_corrupted_weights_file_is_reported_and_the_weights_still_answer(home: Path) -> None:
    path = home / "live.safetensors"
    version = publish(home, "suburb", [9], FakeEncoder(fingerprint=saved(path)))
    whole = path.read_bytes()
    with running(home) as server:
        assert (trouble(server), server.counts("skyfix_weights_lost 0.0")) == ("", True)
        os.truncate(path, 1000)
        wait_until(lambda: "live.safetensors no longer holds" in trouble(server))
        assert answers(server, version)
        assert server.counts("skyfix_weights_lost 1.0")
        assert server.counts("skyfix_index_behind 0.0")
        (error,) = errors(server)
        path.write_bytes(whole)
        wait_until(lambda: trouble(server) == "")
        assert server.counts("skyfix_weights_lost 0.0")
        assert f"INFO service.runtime.weights_check: {path} holds" in server.log.read_text()
    assert str(path) in error


def test_a_deleted_index_answers_until_the_next_version(home: Path) -> None:
    with running(home) as server:
        old = live_version(server)
        shutil.rmtree(home / "index")
        wait_until(lambda: "holds no index" in trouble(server))
        assert answers(server, old)
        assert server.counts("skyfix_index_behind 1.0")
        assert f"{old} stays live" in server.log.read_text()
        new = publish(home, "suburb", range(5, 7), FakeEncoder())
        wait_until(lambda: answers(server, new, seed=5))
        wait_until(lambda: trouble(server) == "")
        assert server.counts("skyfix_index_behind 0.0")


def test_a_killed_rebuild_is_reported_and_frees_the_lock(home: Path) -> None:
    lock = home / "index" / ".lock"
    with running(home) as server, Catalogue.of(home) as catalogue:
        old = live_version(server)
        ingest(catalogue, coloured_region(home / "more", range(5, 7)), name="more", size_m=64.0)
        (home / "hold").touch()  # the job is held at its first new tile
        job = rebuild(server)
        wait_until(lambda: lock.read_text() != "")
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
        wait_until(lambda: not server.counts("skyfix_jobs_running 1.0"))
        (home / "hold").unlink()
        job = server.client.get(f"/jobs/{job['id']}").json()
        assert (job["status"], job["exit_code"]) == ("failed", -signal.SIGKILL)
        assert server.counts('skyfix_jobs_total{kind="rebuild",status="failed"} 1.0')
        assert answers(server, old)
        assert f"job {job['id']} failed with exit code -9" in trouble(server)
        assert "failed (exit code -9): " in server.log.read_text()
        with build_lock(home / "index"):
            pass


def test_a_rebuild_can_be_cancelled_and_the_next_goes_live(home: Path) -> None:
    lock = home / "index" / ".lock"
    with running(home) as server, Catalogue.of(home) as catalogue:
        old = live_version(server)
        ingest(catalogue, coloured_region(home / "more", range(5, 7)), name="more", size_m=64.0)
        (home / "hold").touch()
        first = rebuild(server)
        wait_until(lambda: lock.read_text() != "")
        assert server.client.delete(f"/jobs/{first['id']}").status_code == 202
        assert ended(server, first)["status"] == "cancelled"
        (home / "hold").unlink()
        assert answers(server, old)
        assert trouble(server) == ""  # a cancelled job is no trouble
        assert ended(server, rebuild(server))["status"] == "succeeded"
        wait_until(lambda: live_version(server) != old)
        assert answers(server, live_version(server), seed=5)


def test_idle_connections_do_not_exclude_clients(home: Path) -> None:
    allow_files(2048)  # in this process too
    with running(home) as server, ExitStack() as stack:
        host, port = server.client.base_url.host, server.client.base_url.port
        for _ in range(1100):
            stack.enter_context(socket.create_connection((host, port), timeout=30.0))
        for path in ("/livez", "/index"):
            assert httpx.get(server.client.base_url.join(path)).status_code == 200
