"""Servers under test as processes of their own: started, measured, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
# As many other servers do: every request waits, however long. At most SKYFIX_MAX_IN_FLIGHT at once.
PATIENT = {"SKYFIX_MAX_STRETCH": "1000", "SKYFIX_MAX_IN_FLIGHT": "64"}


@dataclass(frozen=True)
class Checkout:
    """The code to run: a folder of the repository, and a Python that has its dependencies."""

    folder: Path = Path(__file__).parent.parent
    python: Path = Path(sys.executable)

    def command(self, *module: str) -> list[str]:
        """`python -m module...`; run it in `folder`."""
        return [str(self.python), "-m", *module]


HERE = Checkout()


@contextmanager
def running(
    module: Sequence[str],
    port: int,
    environ: dict[str, str] | None = None,
    checkout: Checkout = HERE,
) -> Iterator[int]:
    """`python -m module...` as a process. Yields the process id once the port is open."""
    command = checkout.command(*module)
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, cwd=checkout.folder, env={**os.environ, **(environ or {})}, stderr=log
        ) as process,
    ):
        try:
            if not _listens(port, process):
                log.seek(0)
                raise RuntimeError(f"{command} does not listen: {log.read().decode()}")
            yield process.pid
        finally:
            family = children(process.pid)
            process.terminate()
            for child in family:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGTERM)


@contextmanager
def serve(
    home: Path, weights: Path, environ: dict[str, str] | None = None, checkout: Checkout = HERE
) -> Iterator[tuple[int, int]]:
    """`skyfix serve` over a home folder. Yields port and process id."""
    port = free_port()
    module = ["service", "serve", "--port", str(port)]
    module += ["--home", str(home), "--weights", str(weights)]
    with running(module, port, environ, checkout) as pid:
        yield port, pid


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _listens(port: int, process: subprocess.Popen[bytes], seconds: float = 300.0) -> bool:
    """Wait until the port is open. False when the process ends before, or never opens the port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False


def children(pid: int) -> list[int]:
    """Process ids of the children, and of their children."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # the thread has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return [member for child in found for member in (child, *children(child))]


def peak_mib(pid: int) -> float:
    """Largest resident memory since `forget_peak`, summed over the process and its children."""
    return _status_mib(pid, "VmHWM:")


def resident_mib(pid: int) -> float:
    """Resident memory now, summed over the process and its children."""
    return _status_mib(pid, "VmRSS:")


def _status_mib(pid: int, field: str) -> float:
    pages = (Path(f"/proc/{member}/status").read_text() for member in (pid, *children(pid)))
    return sum(float(page.partition(field)[2].split()[0]) for page in pages) / 1024.0


def forget_peak(pid: int) -> None:
    """Start measuring `peak_mib` anew (proc(5), clear_refs)."""
    for member in (pid, *children(pid)):
        Path(f"/proc/{member}/clear_refs").write_text("5")


def cpu_s(pid: int) -> float:
    """Processor time spent so far by the process and its children."""
    return sum(_ticks(member) for member in (pid, *children(pid))) / TICKS


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
