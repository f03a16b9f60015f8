"""One panorama out of a multipart body, in bounded memory and never on disk.

Starlette's own form handling spools uploads above 1 MB to a temporary file and has no bound on
file parts, so its parser is used here with both taken care of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from model.errors import SkyfixError

FIELD = "panorama"
_MAX_TEXT_FIELDS = 8  # tolerated and ignored
_MAX_TEXT_BYTES = 1024


class UploadError(SkyfixError):
    """The multipart body is malformed, or does not hold one file named `panorama`."""


class MediaTypeError(SkyfixError):
    """The body is not multipart/form-data."""


class BodyTooLargeError(SkyfixError):
    """The body exceeds the limit."""


class BodyTimeoutError(SkyfixError):
    """The client took too long to send its body."""


async def read_panorama(request: Request, *, max_bytes: int, deadline_s: float) -> bytes:
    """The bytes of the file part `panorama`.

    Args:
        max_bytes: bound on the whole body, stated or chunked; reading stops there.
        deadline_s: for the whole body to arrive.

    Raises:
        MediaTypeError, UploadError, BodyTooLargeError, BodyTimeoutError; ClientDisconnect.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise MediaTypeError(
            f"content-type {content_type[:80]!r}: send multipart/form-data with a file {FIELD!r}"
        )
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:18]) > max_bytes:
        raise _too_large(int(stated[:18]), max_bytes)
    try:
        async with asyncio.timeout(deadline_s), aclosing(_bounded(request, max_bytes)) as stream:
            return await _parse(request.headers, stream, max_bytes)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {deadline_s:g} s") from None


async def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(received, max_bytes)
        yield chunk


def _too_large(size: int, max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body has {size} bytes or more; the limit is {max_bytes}")


async def _parse(headers: Headers, stream: AsyncGenerator[bytes, None], max_bytes: int) -> bytes:
    parser = MultiPartParser(
        headers,
        stream,
        max_files=1,
        max_fields=_MAX_TEXT_FIELDS,
        max_part_size=_MAX_TEXT_BYTES,
    )
    parser.spool_max_size = max_bytes + 1  # never reached: the file stays in memory
    try:
        return await _file_of(await parser.parse())
    except MultiPartException as error:
        raise UploadError(f"the multipart body cannot be read: {error.message}") from error
    except (ValueError, LookupError) as error:  # hostile charsets and part headers
        raise UploadError(f"the multipart body cannot be read: {error}") from error
    finally:
        # A part that never ended is in no form, so only the parser knows its file.
        for file in parser._files_to_close_on_error:
            file.close()


async def _file_of(form: FormData) -> bytes:
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        names = ", ".join(repr(name[:40]) for name in form) or "nothing"
        raise UploadError(f"no file field {FIELD!r} in the form; it holds {names}")
    return await file.read()
