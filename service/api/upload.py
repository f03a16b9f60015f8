"""Panoramas out of a multipart body, in bounded memory and never on disk.

Starlette's own form handling spools uploads above 1 MB to a temporary file and has no bound on
file parts, so its parser is used here with both taken care of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from model.errors import SkyfixError
from service.api.admission import Place

FIELD = "panorama"
_MAX_TEXT_FIELDS = 8  # tolerated and ignored
_MAX_TEXT_BYTES = 1024


class UploadError(SkyfixError):
    """The multipart body is malformed, or does not hold the files named `panorama`."""


class MediaTypeError(SkyfixError):
    """The body is not multipart/form-data."""


class BodyTooLargeError(SkyfixError):
    """The body exceeds the limit."""


class BodyTimeoutError(SkyfixError):
    """The client took too long to send its body."""


@dataclass(frozen=True)
class BodyLimits:
    """Bounds on one body: all its bytes, stated or chunked, and the time for it to arrive."""

    max_bytes: int
    deadline_s: float
    max_files: int = 1


async def read_panoramas(request: Request, limits: BodyLimits, place: Place) -> list[bytes]:
    """The bytes of the file parts `panorama`, 1 to `limits.max_files`, in their order.

    Every byte is taken from `place` before it is kept.

    Raises:
        MediaTypeError, UploadError, BodyTooLargeError, BodyTimeoutError, OverloadedError;
        ClientDisconnect.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise MediaTypeError(
            f"content-type {content_type[:80]!r}: send multipart/form-data with a file {FIELD!r}"
        )
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:18]) > limits.max_bytes:
        raise _too_large(int(stated[:18]), limits)
    try:
        async with (
            asyncio.timeout(limits.deadline_s),
            aclosing(_bounded(request, limits, place)) as stream,
        ):
            return await _parse(request.headers, stream, limits)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {limits.deadline_s:g} s") from None


async def _bounded(
    request: Request, limits: BodyLimits, place: Place
) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.max_bytes:
            raise _too_large(received, limits)
        place.take(len(chunk))
        yield chunk


def _too_large(size: int, limits: BodyLimits) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body has {size} bytes or more; the limit is {limits.max_bytes}")


async def _parse(
    headers: Headers, stream: AsyncGenerator[bytes, None], limits: BodyLimits
) -> list[bytes]:
    parser = MultiPartParser(
        headers,
        stream,
        max_files=limits.max_files,
        max_fields=_MAX_TEXT_FIELDS,
        max_part_size=_MAX_TEXT_BYTES,
    )
    parser.spool_max_size = limits.max_bytes + 1  # never reached: the files stay in memory
    try:
        return await _files_of(await parser.parse())
    except MultiPartException as error:
        raise UploadError(f"the multipart body cannot be read: {error.message}") from error
    except (ValueError, LookupError) as error:  # hostile charsets and part headers
        raise UploadError(f"the multipart body cannot be read: {error}") from error
    finally:
        # A part that never ended is in no form, so only the parser knows its file.
        for file in parser._files_to_close_on_error:
            file.close()


async def _files_of(form: FormData) -> list[bytes]:
    files = form.getlist(FIELD)
    uploads = [file for file in files if isinstance(file, UploadFile)]
    if not uploads or len(uploads) < len(files):
        names = ", ".join(repr(name[:40]) for name in form) or "nothing"
        raise UploadError(f"no file field {FIELD!r} in the form; it holds {names}")
    return [await file.read() for file in uploads]
