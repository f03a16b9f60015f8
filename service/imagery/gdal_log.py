"""GDAL's warnings in the log as "file: text", each of them once a process."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import rasterio

_file: ContextVar[str] = ContextVar("file", default="")


@contextmanager
def about(file: str, **options: object) -> Iterator[None]:
    """GDAL's warnings inside are about this file. Outside they go to the terminal.

    Args:
        options: of GDAL, see `rasterio.Env`.
    """
    token = _file.set(file)
    try:
        with rasterio.Env(**options):
            yield
    finally:
        _file.reset(token)


@lru_cache(4096)
def _said(file: str, text: str) -> list[bool]:
    return []


def _name_file(record: logging.LogRecord) -> bool:
    """rasterio writes "CPLE_AppDefined in FILE: TEXT", and then TEXT alone."""
    file, text = _file.get(), re.sub(r"^CPLE_\w+ in ", "", record.getMessage())
    if record.levelno < logging.WARNING or not file:
        return True
    text = text.rpartition(f"{file}: ")[2]
    said = _said(file, text)
    record.msg, record.args = f"{file}: {text}", ()
    said.append(True)
    return len(said) == 1


logging.getLogger("rasterio._env").addFilter(_name_file)
