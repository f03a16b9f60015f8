"""Batch jobs as processes, one at a time, with status, log and cancel.

Knows nothing of HTTP nor of a job's work: a caller gives the command line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from model.errors import SkyfixError, public_reason
from service.settings import Settings

logger = logging.getLogger(__name__)

KEPT_JOBS = 20
KEPT_LINES = 200
LINE_CHARACTERS = 500
KILL_AFTER_S = 10.0
NICENESS = 10  # requests come first

Kind = Literal["rebuild"]
Status = Literal["running", "succeeded", "failed", "cancelled"]


class JobUnknown(SkyfixError):
    """No job has this id."""


class JobRunning(SkyfixError):
    """Another job is running."""


class JobNotStarted(SkyfixError):
    """The system starts no process for the job."""


@dataclass
class Job:
    """A process. Only the thread that reads its output changes the job."""

    kind: Kind
    process: subprocess.Popen[str]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: Status = "running"
    started_at: str = field(default_factory=lambda: _now())
    finished_at: str | None = None
    exit_code: int | None = None
    log: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    cancelled: bool = False


def rebuild_command(settings: Settings) -> list[str]:
    """`skyfix build` with the server's settings."""
    chosen = ("home", "weights", "device")
    options = [text for name in chosen for text in (f"--{name}", str(getattr(settings, name)))]
    return [sys.executable, "-m", "service", "build", "--verbose", *options]


class Jobs:
    """Starts, remembers and ends jobs. Safe in any thread."""

    def __init__(
        self,
        on_change: Callable[[Kind, Status], None] = lambda kind, status: None,
        *,
        kept: int = KEPT_JOBS,
        kill_after_s: float = KILL_AFTER_S,
    ) -> None:
        """`on_change` is called when a job has started and when it has ended, always before the
        next can start."""
        self._kept, self._kill_after_s = kept, kill_after_s
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._on_change = on_change

    def start(self, kind: Kind, command: Sequence[str]) -> Job:
        """Run `command` in a process group of its own.

        Raises:
            JobRunning: names the running job. JobNotStarted: nothing has changed.
        """
        with self._lock:
            for job in self._jobs.values():
                if job.status == "running":
                    raise JobRunning(f"job {job.id} runs since {job.started_at}: wait or cancel it")
            try:
                job = self._spawn(kind, command)
            except (OSError, RuntimeError) as error:
                remedy = "free memory, processes or open files, and try again"
                raise JobNotStarted(
                    f"the system starts no process for the {kind}: {error}: {remedy}",
                    public=f"the system starts no process for the {kind}: {public_reason(error)}: "
                    f"{remedy}",
                ) from error
            self._jobs[job.id] = job
            while len(self._jobs) > self._kept:
                self._jobs.popitem(last=False)
        return job

    def get(self, job_id: str) -> Job:
        """Raises JobUnknown."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobUnknown(
                f"no job has the id {job_id!r}: the last {self._kept} since the server started are "
                "known"
            ) from None

    def cancel(self, job_id: str) -> Job:
        """Ask the job to end, and kill it when it does not. A job that has ended does not change.

        Raises:
            JobUnknown.
        """
        job = self.get(job_id)
        if job.status == "running":
            job.cancelled = True
            _signal(job, signal.SIGTERM)
            killer = threading.Timer(self._kill_after_s, _signal, (job, signal.SIGKILL))
            killer.daemon = True
            killer.start()
        return job

    def trouble(self, built_at: str = "") -> str | None:
        """Names the last job that ended if it failed. Running and cancelled jobs do not count.

        `built_at`: when the live version was built, ISO 8601 in UTC. A version that was built after
        the failure cures it.
        """
        with self._lock:
            jobs = list(self._jobs.values())
        for job in reversed(jobs):
            if job.status == "succeeded" or (job.finished_at and job.finished_at < built_at):
                break
            if job.status == "failed":  # without its log: the caller may be no administrator
                code = job.exit_code
                return f"{job.kind} job {job.id} failed with exit code {code}, {job.finished_at}"
        return None

    def stop(self) -> None:
        """End the running job. A stopped build resumes at the next start."""
        for job in list(self._jobs.values()):
            self.cancel(job.id)

    def _spawn(self, kind: Kind, command: Sequence[str]) -> Job:
        job = Job(kind, _process(command))
        try:
            threading.Thread(target=self._follow, args=(job,), name="job", daemon=True).start()
        except RuntimeError:  # no thread to read its output: its end would go unseen
            _signal(job, signal.SIGKILL)
            job.process.communicate()
            raise
        return job

    def _follow(self, job: Job) -> None:
        logger.info("job %s started: %s", job.id, job.kind)
        self._on_change(job.kind, "running")
        assert job.process.stdout is not None
        with job.process.stdout as lines:
            for line in lines:
                job.log.append(line.rstrip()[:LINE_CHARACTERS])
        job.exit_code = job.process.wait()
        job.finished_at = _now()
        ended: Status = "failed" if job.exit_code else "succeeded"
        status: Status = "cancelled" if job.cancelled and job.exit_code else ended
        if status == "failed":
            last = next((line for line in reversed(job.log) if line), "it said nothing")
            logger.error("job %s failed (exit code %d): %s", job.id, job.exit_code, last)
        else:
            logger.info("job %s %s (exit code %d)", job.id, status, job.exit_code)
        self._on_change(job.kind, status)
        job.status = status


def _process(command: Sequence[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "SKYFIX_ADMIN_TOKEN": ""},  # a job does not need it
        start_new_session=True,
    )
    with contextlib.suppress(OSError):  # gone already
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process


def _signal(job: Job, number: signal.Signals) -> None:
    if job.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.process.pid, number)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
