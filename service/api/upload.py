"""Panoramas out of a multipart body, in bounded memory and never on disk.

Starlette's form handling writes uploads above 1 MB to a temporary file and bounds no file part, so
python-multipart's parser is used directly.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from io import BytesIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import Request

from model.errors import SkyfixError
from service.api.query import LocateQuery
from service.runtime.admission import Reservation

FIELD = "panorama"


class UploadError(SkyfixError):
    """The multipart body is malformed, or has a part that is no file `panorama`."""


class MediaTypeError(SkyfixError):
    """The body is not multipart/form-data, or it is compressed."""


class BodyTooLargeError(SkyfixError):
    """The body exceeds the limit."""


class BodyTimeoutError(SkyfixError):
    """The client took too long to send its body."""


@dataclass(frozen=True)
class BodyLimits:
    """Bounds on one body, stated or chunked: its bytes, seconds to arrive, and files."""

    max_bytes: int
    deadline_s: float
    max_files: int


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
    _, parameters = parse_options_header(request.headers["content-type"])
    received = 0
    try:
        form = _Form(parameters.get(b"boundary", b""), limits.max_files)
        async with asyncio.timeout(limits.deadline_s):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limits.max_bytes:
                    raise _too_large(received, limits)
                reservation.grow(len(chunk))
                form.write(chunk)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {limits.deadline_s:g} s") from None
    except FormParserError as error:
        raise UploadError(f"the multipart body cannot be read: {error}") from error
    return form.files()


def _check_kind(headers: Headers) -> None:
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise MediaTypeError(
            f"content-type {content_type[:80]!r}: send multipart/form-data with a file {FIELD!r}"
        )
    coding = headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise MediaTypeError(f"content-encoding {coding[:80]!r}: send the form uncompressed")


def _too_large(size: int, limits: BodyLimits) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body has {size} bytes or more; the limit is {limits.max_bytes}")


class _Form:
    """Keeps files `panorama`, and refuses any other part as soon as its headers are read."""

    def __init__(self, boundary: bytes, max_files: int) -> None:
        self._max_files = max_files
        self._files: list[tuple[bytes | None, BytesIO]] = []  # each with its filename
        self._header = self._value = self._disposition = b""
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._extend_header,
                "on_header_value": self._extend_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_file,
                "on_part_data": self._extend_file,
                "on_end": self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        """Read the next bytes. Raises FormParserError or UploadError: the form is refused."""
        self._parser.write(chunk)

    def files(self) -> list[bytes]:
        """The content of every file. Raises UploadError: the form is cut off, empty or unfilled."""
        if not self._is_complete:
            raise UploadError("the multipart body ends before its closing boundary: send all of it")
        if not self._files:
            raise UploadError(f"the form is empty: send a file {FIELD!r}")
        # Browsers send an empty file without a name when the user has chosen none.
        if any(name == b"" and not file.tell() for name, file in self._files):
            raise UploadError(f"no file was chosen for the form's field {FIELD!r}: choose one")
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
        field, filename = parameters.get(b"name", b""), parameters.get(b"filename")
        # parse_options_header leaves out filename*, which some clients send alone.
        is_file = filename is not None or b"filename*=" in self._disposition.lower()
        _check_field(field.decode(errors="replace"), is_file=is_file)
        if len(self._files) == self._max_files:
            one = self._max_files == 1
            where = "send them to /localize/batch" if one else "send several forms"
            raise UploadError(f"more than {self._max_files} files {FIELD!r} in the form: {where}")
        self._files.append((filename, BytesIO()))

    def _extend_file(self, data: bytes, start: int, end: int) -> None:
        self._files[-1][1].write(data[start:end])

    def _end(self) -> None:
        self._is_complete = True


def _check_field(field: str, *, is_file: bool) -> None:
    if field in LocateQuery.model_fields:
        raise UploadError(
            f"the form's field {field!r} is not read: send it in the query, ?{field}=…"
        )
    if field != FIELD:
        raise UploadError(f"the form's field {field[:40]!r} is not known: send files {FIELD!r}")
    if not is_file:
        raise UploadError(
            f"the form's field {FIELD!r} is text, since its Content-Disposition has no "
            f'filename="…": send a file (curl -F {FIELD}=@street.jpg)'
        )
