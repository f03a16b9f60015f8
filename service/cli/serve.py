"""Runs the application under uvicorn, with bounds on connections, headers and shutdown."""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from service.api.app import create_app
from service.cli.http_limits import protocol
from service.cli.logs import log_to_stderr
from service.cli.wiring import open_localizer, reopener
from service.settings import Settings

SPARE_FILES = 1024  # open files that are no connections
# How long a thread may hold Python's interpreter lock while another waits. While the event loop
# refuses a flood, the encoder waits this long after every operation (docs/decisions.md).
SWITCH_S = 0.001


def serve(settings: Settings) -> None:
    """Load the weights and answer requests until a signal ends the process.

    Raises:
        DeviceError, CheckpointError: see `open_localizer`.
    """
    log_to_stderr(settings.log_format)
    run(create_app(open_localizer(settings), settings, reopener(settings)), settings)


def run(app: FastAPI, settings: Settings) -> None:
    """Answer until SIGTERM (exit code 0) or SIGINT (130). Requests in flight are finished first."""
    connections = 4 * settings.max_requests  # the application refuses earlier, with a problem
    allow_files(connections + SPARE_FILES)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings.header_deadline_s),
        ws="none",
        limit_concurrency=connections,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=30,
        server_header=False,
        access_log=False,  # the application writes a line for each request
        log_config=None,
    )
    sys.setswitchinterval(SWITCH_S)
    # uvicorn raises the signal again once it has drained.
    signal.signal(signal.SIGTERM, lambda number, frame: _leave(0))
    signal.signal(signal.SIGINT, lambda number, frame: _leave(130))
    uvicorn.Server(config).run()


def _leave(code: int) -> NoReturn:
    """End the process without the interpreter's shutdown, which crashes if a thread is inside
    torch. Every request has been answered by now."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def allow_files(wanted: int) -> None:
    """Raise the limit on open files to `wanted`, or as far as the system allows.

    Many systems allow 1024. Without a free file, a server cannot accept a connection or open an
    index.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
