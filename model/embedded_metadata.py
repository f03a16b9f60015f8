"""The EXIF and XMP of an image file, wherever ExifTool finds them.

Finds the blocks and parses none of them. Time and memory are bounded, whatever a file holds.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from model.jpeg_structure import MAX_SEGMENTS, JpegStructure

log = logging.getLogger(__name__)

MAX_BLOCKS = 64
MAX_XMP_BYTES = 512 * 1024  # of a file; parsing takes up to 50 ms
MAX_EXIF_BYTES = 256 * 1024
_MAX_TEXT_BYTES = 3 * MAX_XMP_BYTES  # of a PNG; a raw profile has two digits and more a byte

_EXIF = re.compile(rb"(?is).{0,4}Exif\0.")  # some cameras write bytes before it
_TIFF = (b"II*\0", b"MM\0*")
_EXTENSION = re.compile(rb"(?s)http://ns\.adobe\.com/xmp/extension/\0(.{36})(.{4})")
_EXTENSION_NAME = re.compile(rb"HasExtendedXMP\s*(?:=\s*[\"']|>)\s*(\w{32})")
_PHOTOSHOP = (b"Photoshop 3.0\0", b"8BIM")
_RESOURCE = re.compile(rb"(?s)8BIM\x04[\x22\x24]\0\0(.{4})")  # Photoshop's EXIF and XMP
_TEXT = re.compile(rb"(?:XML:com\.adobe\.xmp|[Rr]aw profile type (?:exif|APP1|xmp|8bim))\0")
_RAW_PROFILE = re.compile(rb"(?s)\n[^\n]*\n\s*\d+\n(.*)")  # ImageMagick's hexadecimal digits
_PNG_HEAD, _RIFF_HEAD = struct.Struct(">I4s"), struct.Struct("<4sI")


class EmbeddedMetadata(NamedTuple):
    """exif: TIFF structures. xmp: XML documents. A later one goes before an earlier one."""

    exif: list[bytes]
    xmp: list[bytes]


def find_metadata(
    data: bytes, jpeg: JpegStructure | None, decoded: Sequence[bytes | None] = ()
) -> EmbeddedMetadata:
    """The metadata of a JPEG whose structure is given, else of a PNG or WebP file.

    decoded: what the decoder of an AVIF or HEIC file found.
    Metadata beyond MAX_EXIF_BYTES and MAX_XMP_BYTES is ignored and logged.
    """
    found = EmbeddedMetadata([], [])
    parts: dict[bytes, dict[int, bytes]] = {}  # of extended XMP: name and size, offset, text
    for block in filter(None, decoded) if decoded else islice(_blocks(data, jpeg), MAX_BLOCKS):
        if head := _EXIF.match(block):
            tiff = block[head.end() :]
            goes_on = found.exif and not tiff.startswith(_TIFF)
            _keep(found.exif, found.exif.pop() + tiff if goes_on else tiff, MAX_EXIF_BYTES)
        elif block.startswith(_TIFF):
            _keep(found.exif, block, MAX_EXIF_BYTES)
        elif head := _EXTENSION.match(block):
            parts.setdefault(head[1], {})[int.from_bytes(head[2], "big")] = block[head.end() :]
        elif (start := block.find(b"<")) >= 0:
            _keep(found.xmp, block[start : block.rfind(b">") + 1], MAX_XMP_BYTES)
    named = {name for packet in found.xmp for name in _EXTENSION_NAME.findall(packet)}
    for head_bytes, pieces in parts.items():
        whole = b"".join(pieces[offset] for offset in sorted(pieces))
        if head_bytes[:32] in named and len(whole) == int.from_bytes(head_bytes[32:], "big"):
            _keep(found.xmp, whole, MAX_XMP_BYTES)
    return found


def _keep(kept: list[bytes], block: bytes, most: int) -> None:
    if sum(map(len, kept)) + len(block) > most:
        log.warning("EXIF or XMP of %d bytes is ignored: a file may have %d", len(block), most)
    else:
        kept.append(block)


def _blocks(data: bytes, jpeg: JpegStructure | None) -> Iterator[bytes]:
    """What may be EXIF or XMP, by its first bytes."""
    found = _riff_blocks(data) if data.startswith(b"RIFF") else _png_blocks(data)
    for block in found if jpeg is None else (data[place] for place in jpeg.metadata):
        if not block.startswith(_PHOTOSHOP):
            yield block
        else:
            for resource in _RESOURCE.finditer(block):
                yield block[resource.end() :][: int.from_bytes(resource[1], "big")]


def _riff_blocks(data: bytes) -> Iterator[bytes]:
    at = 12
    for _ in range(MAX_SEGMENTS):
        if at + 8 > len(data):
            return
        kind, length = _RIFF_HEAD.unpack_from(data, at)
        if kind in (b"EXIF", b"XMP "):
            yield data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _png_blocks(data: bytes) -> Iterator[bytes]:
    at = 8
    for _ in range(MAX_SEGMENTS):
        if at + 8 > len(data):
            return
        length, kind = _PNG_HEAD.unpack_from(data, at)
        at, end = at + 8, at + 8 + length
        if kind.lower() == b"exif":
            yield data[at:end]
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and (key := _TEXT.match(data, at)):
            yield _png_text(kind, data[key.end() : end])
        at = end + 4


def _png_text(kind: bytes, value: bytes) -> bytes:
    """The value of a text chunk, behind its key; empty where it is damaged."""
    deflated = kind == b"zTXt" or (kind == b"iTXt" and value[:1] != b"\0")
    if kind == b"iTXt":
        value = value[2:].split(b"\0", 2)[-1]  # behind the language and the translated key
    try:
        if deflated:
            start = 1 if kind == b"zTXt" else 0
            value = zlib.decompressobj().decompress(value[start:], _MAX_TEXT_BYTES)
        profile = _RAW_PROFILE.match(value)
        return value if profile is None else bytes.fromhex(profile[1].decode("ascii"))
    except (zlib.error, ValueError) as error:
        log.warning("a text chunk of the PNG cannot be read and is ignored: %s", error)
        return b""
