"""Panoramas out of a request's body, in bounded memory and never on disk.

Starlette's form handling writes uploads above 1 MB to a temporary file and bounds no file part, so
python-multipart's parser is used directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from model.errors import SkyfixError
from service.api.query import DriveQuery, LocateQuery
from service.runtime.admission import Reservation
from service.settings import Settings

FIELD = "panorama"
FILE = {
    "type": "string",
    "format": "binary",
    "description": "street panorama or photograph: JPEG, PNG, WebP, AVIF; HEIC where the server "
    "has the extra heic",
}
FILES = {"type": "array", "items": FILE, "minItems": 1}


class UploadError(SkyfixError):
    """The multipart body is malformed, or has a part that is not named `panorama`."""


class MediaTypeError(SkyfixError):
    """The body is of another type than the route reads, or it is compressed."""


class BodyTooLargeError(SkyfixError):
    """The body exceeds the limit."""


class BodyTimeoutError(SkyfixError):
    """The client took too long to send its body."""


@dataclass(frozen=True)
class BodyLimits:
    """Bounds on one body, stated or chunked: its bytes, seconds to arrive, and files.

    more: what a client with more files can do.
    """

    max_bytes: int
    deadline_s: float
    max_files: int = 1
    more: str = "send them to /localize/batch"

    @classmethod
    def of(cls, settings: Settings, *files: Any) -> BodyLimits:
        """The bounds that an operator has set. files: max_files and more."""
        return cls(settings.max_body_bytes, settings.body_deadline_s, *files)


def request_body(field: dict[str, Any], *alone: str) -> dict[str, Any]:
    """OpenAPI's request body: a form with `field`, or an image of a media type of `alone`."""
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {FIELD: field},
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": form}} | {
        kind: {"schema": field} for kind in alone
    }
    return {"requestBody": {"required": True, "content": content}}


async def read_panorama(request: Request, limits: BodyLimits, reservation: Reservation) -> bytes:
    """The panorama that is the whole body, of type image/…, or the one file of a form.

    Raises:
        As `read_panoramas`.
    """
    if not _media_type(request).startswith("image/"):
        (data,) = await read_panoramas(request, limits, reservation)
        return data
    body = BytesIO()
    await _receive(request, limits, reservation, body.write)
    return body.getvalue()


async def read_panoramas(
    request: Request, limits: BodyLimits, reservation: Reservation
) -> list[bytes]:
    """The content of a form's parts `panorama`, 1 to `limits.max_files`, in their order.

    `reservation` grows by every chunk before the chunk is kept.

    Raises:
        MediaTypeError, UploadError, BodyTooLargeError, BodyTimeoutError, OverloadedError;
        ClientDisconnect.
    """
    content_type = request.headers.get("content-type", "")
    if _media_type(request) != "multipart/form-data":
        raise MediaTypeError(
            f"content-type {content_type[:80]!r}: send multipart/form-data with a file {FIELD!r}; "
            "/localize also takes an image alone, as image/jpeg or another image/…"
        )
    try:
        form = _Form(content_type, limits)
        await _receive(request, limits, reservation, form.write)
    except FormParserError as error:
        raise UploadError(f"the multipart body cannot be read: {error}") from error
    return form.files()


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _receive(
    request: Request,
    limits: BodyLimits,
    reservation: Reservation,
    keep: Callable[[bytes], object],
) -> None:
    """Pass the body to `keep`, chunk by chunk, within the limits."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise MediaTypeError(f"content-encoding {coding[:80]!r}: send the body uncompressed")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:18]) > limits.max_bytes:
        raise _too_large(int(stated[:18]), limits)
    received = 0
    try:
        async with asyncio.timeout(limits.deadline_s):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limits.max_bytes:
                    raise _too_large(received, limits)
                reservation.grow(len(chunk))
                keep(chunk)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {limits.deadline_s:g} s") from None


def _too_large(size: int, limits: BodyLimits) -> BodyTooLargeError:
    more = f": {limits.more}" if limits.max_files > 1 else ""
    return BodyTooLargeError(
        f"the body has {size} bytes or more; the limit is {limits.max_bytes}{more}"
    )


class _Form:
    """Keeps parts `panorama`, and refuses any other part as soon as its headers are read.

    A part needs no filename unless its bytes are text: many libraries send none, or `filename*`.
    """

    def __init__(self, content_type: str, limits: BodyLimits) -> None:
        self._boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not self._boundary:
            raise UploadError(
                f"content-type {content_type[:80]!r} names no boundary: leave this header to the "
                "library that writes the form"
            )
        self._limits = limits
        self._files: list[tuple[bytes | None, BytesIO]] = []  # each with its filename
        self._header = self._value = self._disposition = b""
        self._is_complete = False
        self._parser = MultipartParser(self._boundary)
        # RFC 2046 allows a preamble and padding, which the parser takes only behind a boundary.
        self._parser.write(b"--%b\r\n\r\n\r\n" % self._boundary)
        self._parser.callbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._extend_header,
            "on_header_value": self._extend_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_file,
            "on_part_data": self._extend_file,
            "on_end": self._end,
        }

    def write(self, chunk: bytes) -> None:
        """Read the next bytes. Raises FormParserError or UploadError: the form is refused."""
        self._parser.write(chunk)

    def files(self) -> list[bytes]:
        """The content of every file. Raises UploadError: the form is cut off, empty or unfilled."""
        if not self._is_complete:
            closing = f"--{self._boundary[:80].decode(errors='replace')}--"
            raise UploadError(f"the body ends without the closing boundary {closing!r}: send all")
        if not self._files:
            raise UploadError(f"the form is empty: send a file {FIELD!r}")
        # Browsers send an empty file without a name when the user has chosen none.
        if any(name == b"" and not file.tell() for name, file in self._files):
            raise UploadError(f"no file was chosen for the form's field {FIELD!r}: choose one")
        if any(name is None and _is_text(file.getvalue()) for name, file in self._files):
            raise UploadError(
                f"the form's field {FIELD!r} is text: send a file (curl -F {FIELD}=@street.jpg)"
            )
        return [file.getvalue() for _, file in self._files]  # shares the buffer: no second copy

    def _begin_part(self) -> None:
        self._disposition = b""

    def _extend_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _extend_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _begin_file(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        _check_field(parameters.get(b"name", b"").decode(errors="replace"))
        if len(self._files) == self._limits.max_files:
            raise UploadError(
                f"more than {self._limits.max_files} files {FIELD!r} in the form: "
                f"{self._limits.more}"
            )
        self._files.append((parameters.get(b"filename"), BytesIO()))

    def _extend_file(self, data: bytes, start: int, end: int) -> None:
        if self._files:  # else the preamble
            self._files[-1][1].write(data[start:end])

    def _end(self) -> None:
        self._is_complete = True


def _check_field(field: str) -> None:
    if field in LocateQuery.model_fields or field in DriveQuery.model_fields:
        raise UploadError(
            f"the form's field {field!r} is not read: send it in the query, ?{field}=…"
        )
    if field != FIELD:
        raise UploadError(f"the form's field {field[:40]!r} is not known: send files {FIELD!r}")


def _is_text(data: bytes) -> bool:
    """Whether all bytes are UTF-8. An image's first bytes are not."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
