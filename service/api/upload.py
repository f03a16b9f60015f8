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
from service.api.query import LocateQuery
from service.runtime.admission import Reservation

FIELD = "panorama"


class UploadError(SkyfixError):
    """The multipart body is malformed, or holds something else than files named `panorama`."""


class MediaTypeError(SkyfixError):
    """The body is not multipart/form-data, or it is compressed."""


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


async def read_panoramas(
    request: Request, limits: BodyLimits, reservation: Reservation
) -> list[bytes]:
    """The bytes of the file parts `panorama`, 1 to `limits.max_files`, in their order.

    `reservation` grows by every chunk before the chunk is kept.

    Raises:
        MediaTypeError, UploadError, BodyTooLargeError, BodyTimeoutError, OverloadedError;
        ClientDisconnect.
    """
    _check_kind(request.headers)
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:18]) > limits.max_bytes:
        raise _too_large(int(stated[:18]), limits)
    try:
        async with (
            asyncio.timeout(limits.deadline_s),
            aclosing(_bounded(request, limits, reservation)) as stream,
        ):
            return await _parse(request.headers, stream, limits)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {limits.deadline_s:g} s") from None


def _check_kind(headers: Headers) -> None:
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise MediaTypeError(
            f"content-type {content_type[:80]!r}: send multipart/form-data with a file {FIELD!r}"
        )
    coding = headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise MediaTypeError(f"content-encoding {coding[:80]!r}: send the form as it is, without")


async def _bounded(
    request: Request, limits: BodyLimits, reservation: Reservation
) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.max_bytes:
            raise _too_large(received, limits)
        reservation.grow(len(chunk))
        yield chunk


def _too_large(size: int, limits: BodyLimits) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body has {size} bytes or more; the limit is {limits.max_bytes}")


async def _parse(
    headers: Headers, stream: AsyncGenerator[bytes, None], limits: BodyLimits
) -> list[bytes]:
    parser = _FilesOnly(headers, stream, limits)
    try:
        return await _files_of(await parser.parse(), ended=parser.ended)
    except MultiPartException as error:
        reason = error.__cause__ or error.message
        raise UploadError(f"the multipart body cannot be read: {reason}") from error
    except (ValueError, LookupError) as error:  # hostile charsets and part headers
        raise UploadError(f"the multipart body cannot be read: {error}") from error
    finally:
        # A part that never ended is in no form, so only the parser knows its file.
        for file in parser._files_to_close_on_error:
            file.close()


class _FilesOnly(MultiPartParser):
    """Takes files `panorama`, and refuses anything else as soon as its part begins."""

    def __init__(
        self, headers: Headers, stream: AsyncGenerator[bytes, None], limits: BodyLimits
    ) -> None:
        super().__init__(headers, stream)
        self.spool_max_size = limits.max_bytes + 1  # never reached: the files stay in memory
        self._most = limits.max_files
        self.ended = False

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        name = self._current_part.field_name
        if name in LocateQuery.model_fields:
            raise UploadError(
                f"the form's field {name!r} is not read: send it in the query, ?{name}=…"
            )
        if name != FIELD:
            raise UploadError(f"the form's field {name[:40]!r} is not known: send files {FIELD!r}")
        if self._current_part.file is None:
            raise UploadError(
                f"the form's field {FIELD!r} is text, since its Content-Disposition has no "
                f'filename="…": send a file (curl -F {FIELD}=@street.jpg)'
            )
        if self._current_files > self._most:
            where = "send several to /localize/batch" if self._most == 1 else "send several forms"
            raise UploadError(f"more than {self._most} files {FIELD!r} in the form: {where}")

    def on_end(self) -> None:
        self.ended = True


async def _files_of(form: FormData, *, ended: bool) -> list[bytes]:
    if not ended:
        raise UploadError("the multipart body ends before its closing boundary: send all of it")
    files = [file for file in form.getlist(FIELD) if isinstance(file, UploadFile)]
    if not files:
        raise UploadError(f"the form is empty: send a file {FIELD!r}")
    if any(not file.filename and file.size == 0 for file in files):
        raise UploadError(f"no file was chosen for the form's field {FIELD!r}: choose one")
    return [await file.read() for file in files]
