"""Exchanges EXIF and XMP in a JPEG, PNG or WebP file. All other bytes stay, the pixels' first."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from model.file_kind import kind_of
from service.survey.place import MetadataError

Change = Callable[[bytes | None], bytes]  # from the block that is there, or None

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MPF = b"MPF\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_HAS_EXIF, _HAS_XMP = 8, 4  # flags of a WebP
_APP0, _APP1, _APP2, _SCAN = 0xE0, 0xE1, 0xE2, 0xDA
_MAX_SEGMENT = 65_533
_MP_ENTRIES = 0xB002


class _Part(NamedTuple):
    """A segment or chunk: its bytes, and what stands in it. kind: marker or name."""

    kind: int | bytes
    whole: bytes
    content: bytes


def exchange(data: bytes, exif: Change, xmp: Change | None) -> bytes:
    """The file with changed EXIF, and with changed XMP unless `xmp` is None.

    Raises:
        MetadataError: another format, or a structure that cannot be changed safely.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data, exif, xmp)
    if data.startswith(b"\x89PNG"):
        return _png(data, exif, xmp)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data, exif, xmp)
    raise MetadataError(f"it is {kind_of(data) or 'no image'}: only JPEG, PNG and WebP are written")


def _put(
    parts: list[_Part],
    kind: int | bytes,
    head: bytes,
    made: Callable[[bytes | None], _Part],
    at: int,
) -> int:
    """Exchange the part of this kind and head, or insert a new part before number `at`.

    made: the new part, from what follows the head in the old part. Returns the part's number.
    """
    found = [n for n, p in enumerate(parts) if p.kind == kind and p.content.startswith(head)]
    if len(found) > 1:
        raise MetadataError("it holds several blocks of EXIF or XMP, which may contradict")
    if found:
        parts[found[0]] = made(parts[found[0]].content[len(head) :])
        return found[0]
    parts.insert(at, made(None))
    return at


def _joined(parts: Iterable[_Part]) -> bytes:
    return b"".join(part.whole for part in parts)


def _jpeg(data: bytes, exif: Change, xmp: Change | None) -> bytes:
    parts = list(_segments(data))
    rest = data[2 + sum(len(part.whole) for part in parts) :]
    at = next((n for n, part in enumerate(parts) if part.kind != _APP0), len(parts))
    at = 1 + _put(parts, _APP1, _EXIF, partial(_segment, _EXIF, exif), at)
    if xmp is not None:
        _put(parts, _APP1, _XMP, partial(_segment, _XMP, xmp), at)
    return _with_pictures(data, data[:2] + _joined(parts) + rest)


def _segments(data: bytes) -> Iterator[_Part]:
    """The segments between the start and the first scan."""
    at = 2
    while data[at : at + 1] == b"\xff":
        start = at
        while data[at + 1 : at + 2] == b"\xff":  # fill
            at += 1
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SCAN:
            return
        if end < at + 4 or end > len(data):
            break
        yield _Part(marker, data[start:end], data[at + 4 : end])
        at = end
    raise MetadataError("it is damaged: its segments end before its pixels")


def _segment(head: bytes, change: Change, old: bytes | None) -> _Part:
    content = head + change(old)
    if len(content) > _MAX_SEGMENT:
        raise MetadataError("its EXIF or XMP is full: a JPEG has room for 64 KiB")
    return _Part(_APP1, struct.pack(">BBH", 0xFF, _APP1, len(content) + 2) + content, content)


def _with_pictures(old: bytes, new: bytes) -> bytes:
    """Corrects the index of the pictures behind the first (MPO; CIPA DC-007).

    An offset counts from the index's own start; the first picture's is 0. All that changes lies
    before the pixels, so that the other pictures moved by what the file grew.
    """
    grown = len(new) - len(old)
    before, after = _picture_index(old), _picture_index(new)
    if before is None or after is None:
        return new
    out, moved = bytearray(new), after - before
    sign = "<" if new[after : after + 2] == b"II" else ">"
    try:
        (first,) = struct.unpack_from(f"{sign}I", new, after + 4)
        (count,) = struct.unpack_from(f"{sign}H", new, after + first)
        for at in range(after + first + 2, after + first + 2 + 12 * count, 12):
            tag, _, size, offset = struct.unpack_from(f"{sign}HHII", new, at)
            if tag == _MP_ENTRIES:
                for entry in range(after + offset, after + offset + size // 16 * 16, 16):
                    length, place = struct.unpack_from(f"{sign}II", new, entry + 4)
                    values = (length, place + grown - moved) if place else (length + grown, 0)
                    struct.pack_into(f"{sign}II", out, entry + 4, *values)
    except struct.error as error:
        raise MetadataError("its index of further pictures is damaged") from error
    return bytes(out)


def _picture_index(data: bytes) -> int | None:
    """Where the TIFF structure of the index begins."""
    at = 2
    for part in _segments(data):
        at += len(part.whole)
        if part.kind == _APP2 and part.content.startswith(_MPF):
            return at - len(part.content) + len(_MPF)
    return None


def _png(data: bytes, exif: Change, xmp: Change | None) -> bytes:
    parts, at = [], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        parts.append(_Part(data[at + 4 : at + 8], data[at:end], data[at + 8 : end - 4]))
        at = end
    first = next((n for n, part in enumerate(parts) if part.kind == b"IDAT"), None)
    if first is None or at != len(data):
        raise MetadataError("it is damaged, or bytes follow behind its end")

    _put(parts, b"eXIf", b"", lambda old: _chunk(b"eXIf", exif(old)), first)
    if xmp is not None:
        _put(parts, b"iTXt", _PNG_XMP, partial(_packet, xmp), first)
    return data[:8] + _joined(parts)


def _packet(change: Change, old: bytes | None) -> _Part:
    plain = bytes(4)  # not deflated, and without a language
    if old is not None and not old.startswith(plain):
        raise MetadataError("its XMP is compressed: save the file again with another program")
    return _chunk(b"iTXt", _PNG_XMP + plain + change(old and old[len(plain) :]))


def _chunk(kind: bytes, content: bytes) -> _Part:
    crc = zlib.crc32(kind + content)
    whole = struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", crc)
    return _Part(kind, whole, content)


def _webp(data: bytes, exif: Change, xmp: Change | None) -> bytes:
    parts, at = [], 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        parts.append(_Part(kind, data[at:end], data[at + 8 : at + 8 + length]))
        at = end
    if at != len(data) or not parts:
        raise MetadataError("it is damaged, or bytes follow behind its end")
    if parts[0].kind != b"VP8X":
        parts.insert(0, _extended_header(parts[0]))
    flags = parts[0].content[0]
    _put(parts, b"EXIF", b"", partial(_riff, b"EXIF", exif), len(parts))
    flags |= _HAS_EXIF
    if xmp is not None:
        _put(parts, b"XMP ", b"", partial(_riff, b"XMP ", xmp), len(parts))
        flags |= _HAS_XMP
    whole = parts[0].whole
    parts[0] = parts[0]._replace(whole=whole[:8] + bytes([flags]) + whole[9:])
    body = b"WEBP" + _joined(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _extended_header(picture: _Part) -> _Part:
    """The chunk VP8X, which a WebP with metadata needs: its flags, and the picture's size."""
    alpha, start = 0, picture.content[:10]
    if picture.kind == b"VP8L" and len(start) == 10:
        bits = int.from_bytes(start[1:5], "little")
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    elif picture.kind == b"VP8 " and start[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(start[i : i + 2], "little") - 1 & 0x3FFF for i in (6, 8))
    else:
        raise MetadataError("it is damaged: no picture comes first")
    content = struct.pack("<I", alpha << 4) + width.to_bytes(3, "little")
    content += height.to_bytes(3, "little")
    return _Part(b"VP8X", struct.pack("<4sI", b"VP8X", len(content)) + content, content)


def _riff(kind: bytes, change: Change, old: bytes | None) -> _Part:
    head = _EXIF if old and old.startswith(_EXIF) else b""
    content = head + change(old and old[len(head) :])
    padded = content + bytes(len(content) % 2)
    return _Part(kind, struct.pack("<4sI", kind, len(content)) + padded, content)
