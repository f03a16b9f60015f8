"""A real server process over the stand-in encoder: `python tests/server_process.py HOME`.

While the file HOME/hold exists, the encoder holds every batch. Only the fingerprint of a checkpoint
counts: HOME/live.safetensors if it exists, else the files in HOME/weights.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fakes import FakeEncoder, panorama_of

from service.api.app import create_app
from service.build import build
from service.cli.logs import log_to_stderr
from service.cli.serve import run
from service.cli.wiring import reopener
from service.index.live_index import LiveIndex
from service.locate.localizer import Localizer
from service.runtime.jobs import Job, Jobs, Kind
from service.runtime.weights_check import fingerprint_of
from service.settings import Settings

TOKEN = "s3cr3t-0123456789"


@dataclass(frozen=True)
class Server:
    """The process, a client of it, and the file its log goes to."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path

    def locate(self, seed: int) -> httpx.Response:
        form = {"panorama": panorama_of(seed)}
        return self.client.post("/localize?heading_deg=0&top_k=1", files=form)

    def counts(self, sample: str) -> bool:
        """Whether the line stands on the metrics page."""
        return f"\n{sample}\n" in self.client.get("/metrics").text


def wait_until(true: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running(home: Path) -> Iterator[Server]:
    """A server that is ready. It is killed at the end if it still runs."""
    log = home / "server.log"
    command = [sys.executable, __file__, str(home)]
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        try:
            wait_until(lambda: "running on" in log.read_text() or process.poll() is not None)
            address = re.search(r"http://[\d.:]+", log.read_text())
            assert address, log.read_text()
            headers = {"Authorization": f"Bearer {TOKEN}"}
            with httpx.Client(base_url=address[0], headers=headers, timeout=30.0) as client:
                yield Server(process, client, log)
        finally:
            process.kill()


class HeldEncoder(FakeEncoder):
    """FakeEncoder that waits while a file is there."""

    def __init__(self, hold: Path, **options: Any) -> None:
        super().__init__(**options)
        self._hold = hold

    def encode_strips(self, strips, norths):  # type: ignore[no-untyped-def]
        self._wait()
        return super().encode_strips(strips, norths)

    def encode_aerials(self, images):  # type: ignore[no-untyped-def]
        self._wait()
        return super().encode_aerials(images)

    def _wait(self) -> None:
        while self._hold.exists():
            time.sleep(0.01)


class LightJobs(Jobs):
    """Run the build of this file instead of the build that loads torch."""

    def start(self, kind: Kind, command: Sequence[str]) -> Job:
        home = command[command.index("--home") + 1]
        return super().start(kind, [sys.executable, __file__, home, "build"])


def serve(home: Path) -> None:
    settings = Settings(home=home, port=0, device="cpu", admin_token=TOKEN)
    log_to_stderr("text")

    def opened(settings: Settings) -> Localizer:
        fingerprint = fingerprint_of(settings.weights)
        encoder = HeldEncoder(home / "hold", fingerprint=fingerprint)
        live = LiveIndex(home, fingerprint)
        return Localizer(encoder, live, rolls=4, weights=settings.weights)

    mine = home / "live.safetensors"
    if mine.exists():
        localizer = opened(settings.model_copy(update={"weights": mine}))
    else:
        encoder = HeldEncoder(home / "hold")
        localizer = Localizer(encoder, LiveIndex(home, encoder.fingerprint), rolls=4)
    app = create_app(localizer, settings, reopener(settings, opened))
    app.state.jobs = LightJobs(app.state.metrics.observe_job)
    run(app, settings)


if __name__ == "__main__":
    if sys.argv[2:] == ["build"]:
        build(Path(sys.argv[1]), HeldEncoder(Path(sys.argv[1]) / "hold"))
    else:
        serve(Path(sys.argv[1]))
