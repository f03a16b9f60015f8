"""Says in words what a file is where an image, weights, a raster or a table was expected.

Knows only what people send by mistake. The words go behind "is" or "but", and end with the remedy
where there is one.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

HEAD = 4096  # bytes that suffice
SHOWN = 80  # characters of a text so short that it is a name or a message

MATLAB_5, TIFF = "a MATLAB 5 file", "a TIFF file"

_PICKLE = ", which may run code when it is read: save the weights as safetensors"
_BINARIES = [  # how a file begins; the first that fits counts
    (re.compile(start, re.DOTALL), words)
    for start, words in (
        (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
        (rb"\xff\xd8\xff", "a JPEG image"),
        (rb"RIFF.{4}WEBP", "a WebP image"),
        (rb"GIF8[79]a", "a GIF image"),
        (rb"BM.{4}\0{4}", "a BMP image"),
        (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", TIFF),
        (rb".{4}jP  |\xff\x4f\xff\x51", "a JPEG 2000 image"),
        (rb".{4}JXL |\xff\x0a", "a JPEG XL image"),
        (rb".{4}ftypavi[fs]", "an AVIF image"),
        (rb".{4}ftyp(he[a-z]{2}|mif1|msf1)", "a HEIC photograph: save it as JPEG"),
        (rb".{4}ftyp", "a video (MP4 or MOV): take a frame of it"),
        (rb"%PDF-", "a PDF document"),
        (rb"MATLAB 7\.3", "a MATLAB 7.3 (HDF5) file: save it in MATLAB with -v7"),
        (rb"MATLAB 5", MATLAB_5),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (rb"SQLite format 3\0", "an SQLite database"),
        (rb"PK\x03\x04.{,200}data\.pkl", f"a PyTorch file{_PICKLE}"),
        (rb"\x80[\x02-\x05][}\]c(\x8a\x95]", f"a Python pickle{_PICKLE}"),
        (rb"PK\x03\x04", "a ZIP archive or an office document"),
        (rb"\x1f\x8b|Rar!\x1a|7z\xbc\xaf|.{257}ustar", "an archive: unpack it"),
        (rb"\0{64}\0*$", "zeros, as an interrupted download leaves them: download it again"),
    )
]
_MARKUPS = [
    (re.compile(start, re.IGNORECASE), words)
    for start, words in (
        (
            rb"version https://git-lfs\.github\.com/spec/",
            "a Git LFS pointer, not the file itself: run `git lfs pull`",
        ),
        (
            rb"(<\?xml.*?>|<!--.*?-->|\s)*<(!doctype )?html",
            "an HTML page, such as a server's error or login page: download the file again",
        ),
        (rb"<[?!a-z]", "XML text"),
        (rb'\{\s*["}]|\[\s*[\[{"\]]', "JSON text"),
    )
]
_CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f]")


def kind_of(data: bytes) -> str:
    """What a file is whose bytes, or whose first HEAD bytes, these are; "" if unknown."""
    if not data:
        return "empty (0 bytes)"
    head = data[:HEAD]
    binary = next((words for start, words in _BINARIES if start.match(head)), "")
    return binary or markup_of(head) or _text(head)


def kind_of_file(path: Path) -> str:
    """As `kind_of`; "" if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD))
    except OSError:
        return ""


def markup_of(data: bytes) -> str:
    """As `kind_of`, but "" for all except texts that are no table."""
    head = data[:HEAD].removeprefix(codecs.BOM_UTF8).lstrip()
    return next((words for start, words in _MARKUPS if start.match(head)), "")


def _text(head: bytes) -> str:
    try:  # incremental: the last character may be cut
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head).strip()
    except UnicodeDecodeError:
        return ""
    if _CONTROL.search(text):
        return ""
    return f"text, {text!r}" if len(text) <= SHOWN else "text"
