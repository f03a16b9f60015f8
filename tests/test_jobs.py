"""Jobs are processes, one at a time, with status, log and cancel."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from service.runtime.jobs import Job, JobNotStarted, JobRunning, Jobs, JobUnknown, rebuild_command
from service.settings import Settings

SLEEP = [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"]


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.stop()


def wait(job: Job) -> Job:
    deadline = time.monotonic() + 20.0
    while job.status == "running" and time.monotonic() < deadline:
        time.sleep(0.01)
    return job


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_job_ends_with_its_status_and_log(jobs: Jobs) -> None:
    good = wait(jobs.start("rebuild", python("print('one'); print('x' * 9999)")))
    assert (good.status, good.exit_code) == ("succeeded", 0)
    assert [len(line) for line in good.log] == [3, 500]
    assert good.finished_at >= good.started_at
    bad = wait(jobs.start("rebuild", python("raise SystemExit('no room')")))
    assert (bad.status, bad.exit_code, list(bad.log)) == ("failed", 1, ["no room"])
    assert jobs.get(good.id) is good


def test_a_failure_is_logged_with_the_last_line(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said = "print('one\\n'); import sys; sys.exit('skyfix: no room\\n\\n')"
    failed = wait(jobs.start("rebuild", python(said)))
    silent = wait(jobs.start("rebuild", python("raise SystemExit(3)")))
    good = wait(jobs.start("rebuild", python("print('done')")))
    logged = [(record.levelname, record.message) for record in caplog.records]
    assert logged[1::2] == [
        ("ERROR", f"job {failed.id} failed (exit code 1): skyfix: no room"),
        ("ERROR", f"job {silent.id} failed (exit code 3): it said nothing"),
        ("INFO", f"job {good.id} succeeded (exit code 0)"),
    ]


def test_a_failure_is_trouble_until_a_later_build(jobs: Jobs) -> None:
    failed = wait(jobs.start("rebuild", python("raise SystemExit(1)")))
    assert failed.finished_at is not None
    end = datetime.fromisoformat(failed.finished_at)
    for seconds, cured in ((-60, False), (0, False), (1, True)):
        built_at = (end + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        assert (jobs.trouble(built_at) is None) == cured
    assert failed.id in (jobs.trouble() or "")
    wait(jobs.start("rebuild", python("")))
    assert jobs.trouble() is None


def test_only_one_job_runs(jobs: Jobs) -> None:
    first = jobs.start("rebuild", SLEEP)
    with pytest.raises(JobRunning, match=first.id):
        jobs.start("rebuild", SLEEP)
    jobs.cancel(first.id)
    assert wait(first).status == "cancelled"
    assert wait(jobs.start("rebuild", python(""))).status == "succeeded"


def test_a_job_that_cannot_start_leaves_no_trace(tmp_path: Path) -> None:
    seen: list[str] = []
    jobs = Jobs(lambda kind, status: seen.append(status))
    absent = str(tmp_path / "python")
    with pytest.raises(JobNotStarted, match=f"the rebuild: .*No such file.*{absent}.*try again"):
        jobs.start("rebuild", [absent])
    assert (seen, jobs.trouble()) == ([], None)
    assert wait(jobs.start("rebuild", python(""))).status == "succeeded"


def test_a_job_whose_output_cannot_be_read_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    jobs = Jobs()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        with pytest.raises(JobNotStarted, match="can't start new thread"):
            jobs.start("rebuild", SLEEP)
    assert wait(jobs.start("rebuild", python(""))).status == "succeeded"


def test_a_job_that_ignores_sigterm_is_killed() -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True);"
    jobs = Jobs(kill_after_s=0.1)
    job = jobs.start("rebuild", python(deaf + "time.sleep(60)"))
    while not job.log:
        time.sleep(0.01)
    jobs.cancel(job.id)
    assert (wait(job).status, job.exit_code) == ("cancelled", -9)


def test_job_ends_are_reported_and_old_jobs_forgotten() -> None:
    seen: list[str] = []
    jobs = Jobs(lambda kind, status: seen.append(status), kept=1)
    first = wait(jobs.start("rebuild", python("")))
    wait(jobs.start("rebuild", python("raise SystemExit(1)")))
    with pytest.raises(JobUnknown, match=first.id):
        jobs.get(first.id)
    assert seen == ["running", "succeeded", "running", "failed"]


def test_an_end_is_reported_before_the_next_job_begins() -> None:
    seen: list[str] = []

    def report(kind: str, status: str) -> None:
        if status == "succeeded":
            time.sleep(0.5)  # time enough for another job to start
        seen.append(status)

    jobs = Jobs(report)
    first = wait(jobs.start("rebuild", python("")))
    assert (first.status, seen) == ("succeeded", ["running", "succeeded"])


PROGRESS = """
from service.cli.progress import progress_bar
clock = iter(range(0, 1000, 4))
with progress_bar("describing", lambda: next(clock)) as progress:
    for done in range(900, 1001, 20):
        progress(done, 1000)
"""


def test_progress_is_in_the_log_while_the_job_runs(jobs: Jobs) -> None:
    """Reports 4 s apart give a line every 10 s; the rate counts from the first report."""
    log = list(wait(jobs.start("rebuild", python(PROGRESS))).log)
    assert log == [
        "describing: 960/1000, 5.0/s, 0:00:08 left",
        "describing: 1000/1000, 5.0/s, 0:00:00 left",
    ]


def test_the_token_is_kept_from_a_job(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYFIX_ADMIN_TOKEN", "s3cr3t-0123456789")
    code = "import os; print(os.environ['SKYFIX_ADMIN_TOKEN'] or 'nothing')"
    assert list(wait(jobs.start("rebuild", python(code))).log) == ["nothing"]


def test_a_rebuild_uses_the_server_s_settings(tmp_path: Path) -> None:
    command = rebuild_command(Settings(home=tmp_path, weights=Path("w"), device="cpu"))
    assert command[1:4] == ["-m", "service", "build"]
    assert command[-6:] == ["--home", str(tmp_path), "--weights", "w", "--device", "cpu"]
