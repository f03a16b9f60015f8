"""A position in the TIFF structure of EXIF, in which nothing else moves.

Maker notes hold offsets that only their camera's maker understands. So the new group GPS goes to
the end, the pointer to it is set, and every other byte stays where it is.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from service.survey.place import MetadataError, Place

_POINTER = 0x8825  # of the group GPS, in the first directory
_BYTE, _ASCII, _LONG, _RATIONAL = 1, 2, 4, 5
_VERSION = 0
_ENTRY = 12  # bytes: tag, type, count, value or its offset
_EMPTY = b"II*\0\x08\0\0\0\0\0\0\0\0\0"  # a directory of no fields


class _Directory(NamedTuple):
    """entries: 12 bytes each, from offset `at` on. following: the next directory's offset."""

    entries: list[bytes]
    at: int
    following: bytes


class _Order:
    """Numbers as this TIFF structure writes them."""

    def __init__(self, tiff: bytes) -> None:
        sign = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
        if sign is None:
            raise MetadataError("its EXIF is damaged: no TIFF structure")
        self._sign = sign

    def short(self, *numbers: int) -> bytes:
        return struct.pack(f"{self._sign}{len(numbers)}H", *numbers)

    def long(self, *numbers: int) -> bytes:
        return struct.pack(f"{self._sign}{len(numbers)}I", *numbers)

    def number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self._sign == "<" else "big")

    def tag(self, entry: bytes) -> int:
        return self.number(entry[:2])

    def entry(self, tag: int, kind: int, count: int, value: bytes) -> bytes:
        return self.short(tag, kind) + self.long(count) + value


def with_position(tiff: bytes | None, place: Place) -> bytes:
    """EXIF with the place in its group GPS, whose other fields stay.

    tiff: EXIF as it is; None: there is none.

    Raises:
        MetadataError: the EXIF is damaged.
    """
    old = tiff or _EMPTY
    order = _Order(old)
    main = _directory(old, order.number(old[4:8]), order)
    places = [at for at, entry in enumerate(main.entries) if order.tag(entry) == _POINTER]
    gps = []
    if places:
        gps = _directory(old, order.number(main.entries[places[0]][8:]), order).entries
    out = bytearray(old) + bytes(len(old) % 2)
    pointer = order.entry(_POINTER, _LONG, 1, order.long(len(out)))
    out += _written(gps, place, len(out), order)
    if places:
        at = main.at + _ENTRY * places[0]
        out[at : at + _ENTRY] = pointer
        return bytes(out)
    out[4:8] = order.long(len(out))
    before = [entry for entry in main.entries if order.tag(entry) < _POINTER]
    after = [entry for entry in main.entries if order.tag(entry) > _POINTER]
    entries = [*before, pointer, *after]
    return bytes(out) + order.short(len(entries)) + b"".join(entries) + main.following


def _directory(tiff: bytes, at: int, order: _Order) -> _Directory:
    count = order.number(tiff[at : at + 2])
    start, end = at + 2, at + 2 + _ENTRY * count
    if at < 8 or end + 4 > len(tiff):
        raise MetadataError("its EXIF is damaged: a directory lies outside")
    entries = [tiff[i : i + _ENTRY] for i in range(start, end, _ENTRY)]
    return _Directory(entries, start, tiff[end : end + 4])


def _written(old: list[bytes], place: Place, at: int, order: _Order) -> bytes:
    """The group GPS at offset `at`: its directory, then the values of more than 4 bytes."""
    own = _fields(place, order)
    kept = {order.tag(entry): entry for entry in old}
    if _VERSION in kept and kept[_VERSION][8:] >= own[_VERSION][2]:
        del own[_VERSION]
    tags = sorted({*kept, *own})
    values_at = at + 2 + _ENTRY * len(tags) + 4
    entries, values = b"", b""
    for tag in tags:
        if tag not in own:
            entries += kept[tag]
            continue
        kind, count, value = own[tag]
        if len(value) > 4:
            entries += order.entry(tag, kind, count, order.long(values_at + len(values)))
            values += value
        else:
            entries += order.entry(tag, kind, count, value.ljust(4, b"\0"))
    return order.short(len(tags)) + entries + bytes(4) + values


def _fields(place: Place, order: _Order) -> dict[int, tuple[int, int, bytes]]:
    """Type, count and value of each field by its tag (Exif 3.0, table 23)."""

    def letter(text: str) -> tuple[int, int, bytes]:
        return _ASCII, 2, text.encode() + b"\0"

    def angle(degrees: float) -> tuple[int, int, bytes]:
        minutes, micro = divmod(round(abs(degrees) * 3.6e9), 60_000_000)
        return _RATIONAL, 3, order.long(minutes // 60, 1, minutes % 60, 1, micro, 1_000_000)

    def hundredths(number: float) -> tuple[int, int, bytes]:
        return _RATIONAL, 1, order.long(round(number * 100.0), 100)

    return {
        _VERSION: (_BYTE, 4, b"\x02\x03\0\0"),
        1: letter("S" if place.latitude < 0.0 else "N"),
        2: angle(place.latitude),
        3: letter("W" if place.longitude < 0.0 else "E"),
        4: angle(place.longitude),
        16: letter("T"),
        17: hundredths(place.heading_deg),
        31: hundredths(place.radius_m),
    }
