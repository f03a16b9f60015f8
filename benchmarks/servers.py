"""Servers under test as processes of their own: started, watched, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(
    module: Sequence[str], port: int, environ: dict[str, str] | None = None
) -> Iterator[int]:
    """`python -m module...`, once it listens on the port: its process id."""
    command = [sys.executable, "-m", *module]
    everything = {**os.environ, **(environ or {})}
    with subprocess.Popen(command, env=everything, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield process.pid
        finally:
            family = children(process.pid)
            process.terminate()
            for child in family:
                _end(child)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    """Until something listens. Raises RuntimeError when the process ends before, or never does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")


def children(pid: int) -> list[int]:
    """Process ids of the children, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:  # the thread has just ended
            continue
    return [each for child in found for each in (child, *children(child))]


def peak_mib(pid: int) -> float:
    """Largest resident memory since `forget_peak`, the sum of all processes of the tree."""
    return sum(_status_mib(one, "VmHWM:") for one in (pid, *children(pid)))


def resident_mib(pid: int) -> float:
    """Resident memory now, of all processes of the tree."""
    return sum(_status_mib(one, "VmRSS:") for one in (pid, *children(pid)))


def _status_mib(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return float(status.partition(field)[2].split()[0]) / 1024.0


def forget_peak(pid: int) -> None:
    """Start measuring `peak_mib` anew (proc(5), clear_refs)."""
    for one in (pid, *children(pid)):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def cpu_s(pid: int) -> float:
    """Processor time spent so far by all processes of the tree."""
    return sum(_ticks(one) for one in (pid, *children(pid))) / TICKS


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
