"""Runs the application under uvicorn, with bounds on connections, headers and shutdown."""

from __future__ import annotations

import uvicorn

from service.api.app import create_app
from service.compose import open_localizer, reopener
from service.heads import protocol
from service.logs import log_to_stderr
from service.settings import Settings


def server(settings: Settings) -> uvicorn.Server:
    """A server that is ready to `run()`; weights are loaded, nothing is bound yet.

    Raises:
        DeviceError, CheckpointError: see `open_localizer`.
    """
    config = uvicorn.Config(
        create_app(open_localizer(settings), settings, reopener(settings)),
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
    return uvicorn.Server(config)


def serve(settings: Settings) -> None:
    """Answer requests until a signal ends the process; requests in flight are finished."""
    log_to_stderr(settings.log_format)
    server(settings).run()
