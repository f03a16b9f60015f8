"""Runs the application under uvicorn, with bounds on connections, headers and shutdown."""

from __future__ import annotations

import signal
import sys

import uvicorn
from fastapi import FastAPI

from service.api.app import create_app
from service.compose import open_localizer, reopener
from service.heads import protocol
from service.logs import log_to_stderr
from service.settings import Settings


def serve(settings: Settings) -> None:
    """Load the weights and answer requests until a signal ends the process.

    Raises:
        DeviceError, CheckpointError: see `open_localizer`.
    """
    log_to_stderr(settings.log_format)
    run(create_app(open_localizer(settings), settings, reopener(settings)), settings)


def run(app: FastAPI, settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT. Requests in flight are finished; SIGTERM exits with 0."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings.header_deadline_s),  # h11: httptools does not bound heads
        h11_max_incomplete_event_size=64 * 1024,
        ws="none",
        limit_concurrency=1024,  # connections; uploads in flight are bounded far below
        timeout_keep_alive=10,
        timeout_graceful_shutdown=30,
        server_header=False,
        access_log=False,  # the application writes a line for each request
        log_config=None,
    )
    # uvicorn raises the signal again once it has drained, which would end the process as killed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    uvicorn.Server(config).run()
