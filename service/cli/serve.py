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

SPARE_FILES = 1024  # open ones that are no connections
# For how long one thread may keep the others from Python. Encoding asks for it back after every
# operation, and waits so long each time while the event loop refuses a flood (docs/decisions.md).
SWITCH_S = 0.001


def serve(settings: Settings) -> None:
    """Load the weights and answer requests until a signal ends the process.

    Raises:
        DeviceError, CheckpointError: see `open_localizer`.
    """
    log_to_stderr(settings.log_format)
    run(create_app(open_localizer(settings), settings, reopener(settings)), settings)


def run(app: FastAPI, settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT, which end the process with 0 and 130 once requests in flight
    are finished."""
    connections = 4 * settings.max_requests  # the application refuses far below, and says how
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
    """Everything is answered and nothing waits to be written. Not by way of the interpreter's end:
    a thread that is inside torch by then (one reads weights, say) crashes it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def allow_files(wanted: int) -> None:
    """As far as the system lets it: many start a process with 1024, and a process that has run out
    can neither take a connection nor open an index."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
