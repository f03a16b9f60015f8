"""EXIF and XMP in every place where ExifTool reads them, and what hostile files may cost."""

import contextlib
import hashlib
import shutil
import struct
import subprocess
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hostile_images import GPANO, XMP
from image_samples import NOISE, RED, chunk, encoded
from PIL import Image

from model.embedded_metadata import MAX_BLOCKS, MAX_EXIF_BYTES, MAX_XMP_BYTES, find_metadata
from model.errors import SkyfixError
from model.images import open_image
from model.jpeg_structure import scan_jpeg
from model.panorama_metadata import read_panorama

JPEG, PNG, WEBP = (encoded(RED, form) for form in ("JPEG", "PNG", "WEBP"))
XMP_HEAD, EXIF_HEAD = b"http://ns.adobe.com/xap/1.0/\0", b"Exif\0\0"
XMP_KEY, PHOTOSHOP = b"XML:com.adobe.xmp\0", b"Photoshop 3.0\0"


def heading(degrees, more=""):
    return XMP.format(fields=f'GPano:PoseHeadingDegrees="{degrees}" {more}').encode()


def direction(degrees):
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({16: "T", 17: float(degrees)})
    return exif.tobytes()[len(EXIF_HEAD) :]


def segments(*contents, marker=0xE1):
    """A JPEG with these segments behind its start."""
    heads = [struct.pack(">BBH", 0xFF, marker, len(content) + 2) for content in contents]
    return JPEG[:2] + b"".join(map(b"".join, zip(heads, contents, strict=True))) + JPEG[2:]


def early(kind, content):
    return PNG[:33] + chunk(kind, content) + PNG[33:]


def late(kind, content):
    """Behind the pixels, before the end."""
    return PNG[:-12] + chunk(kind, content) + PNG[-12:]


def profile(content):
    """ImageMagick's writing: a name, a length, and hexadecimal digits in lines."""
    digits = content.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return f"\nprofile\n{len(content):8d}\n{lines}\n".encode()


def raw(kind, content):
    return b"Raw profile type " + kind + b"\0" + content


def resource(code, content):
    return b"8BIM" + struct.pack(">HHI", code, 0, len(content)) + content + bytes(len(content) % 2)


def with_riff(kind, content):
    data = WEBP + kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def extended(parts, name=None):
    """A JPEG whose heading stands in extended XMP of these parts (start, stop) of it."""
    text = heading(60)
    name = name or hashlib.md5(text).hexdigest().upper()
    note = f'xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="{name}"'
    head = b"http://ns.adobe.com/xmp/extension/\0" + hashlib.md5(text).hexdigest().upper().encode()
    pieces = [head + struct.pack(">II", len(text), at) + text[at:to] for at, to in parts]
    return segments(XMP_HEAD + XMP.format(fields=note).encode(), *pieces)


def with_tag_700(packet):
    exif = Image.Exif()
    exif[700] = packet
    return exif.tobytes()


EXIF = direction(60)
CUT = len(EXIF) // 2
PLACES = {  # each states 60 degrees, in GPano or in EXIF
    "two packets": segments(XMP_HEAD + heading(60), XMP_HEAD + XMP.format(fields="").encode()),
    "the later of two packets": segments(XMP_HEAD + heading(10), XMP_HEAD + heading(60)),
    "extended XMP": extended([(100, None), (0, 100)]),
    "XMP behind another header": segments(b"XMP\0" + heading(60)),
    "XMP and bytes behind it": segments(XMP_HEAD + heading(60) + b"\0junk"),
    "XMP in Photoshop's segment": segments(PHOTOSHOP + resource(0x424, heading(60)), marker=0xED),
    "EXIF in Photoshop's segment": segments(PHOTOSHOP + resource(0x422, EXIF), marker=0xED),
    "XMP in a tag of EXIF": segments(with_tag_700(heading(60))),
    "a second EXIF": segments(EXIF_HEAD + with_tag_700(b"")[6:], EXIF_HEAD + EXIF),
    "a first EXIF": segments(EXIF_HEAD + EXIF, EXIF_HEAD + with_tag_700(b"")[6:]),
    "the later of two EXIF": segments(EXIF_HEAD + direction(10), EXIF_HEAD + EXIF),
    "EXIF in two pieces": segments(EXIF_HEAD + EXIF[:CUT], EXIF_HEAD + EXIF[CUT:]),
    "EXIF behind bytes": segments(b"\1\2\3\4" + EXIF_HEAD + EXIF),
    "late iTXt": late(b"iTXt", XMP_KEY + b"\0\0\0\0" + heading(60)),
    "late deflated iTXt": late(b"iTXt", XMP_KEY + b"\1\0\0\0" + zlib.compress(heading(60))),
    "tEXt": early(b"tEXt", XMP_KEY + heading(60)),
    "late zTXt": late(b"zTXt", XMP_KEY + b"\0" + zlib.compress(heading(60))),
    "behind the end": PNG + chunk(b"iTXt", XMP_KEY + b"\0\0\0\0" + heading(60)),
    "late eXIf": late(b"eXIf", EXIF),
    "eXIf in small letters": early(b"exif", EXIF),
    "raw exif": early(b"tEXt", raw(b"exif", profile(EXIF_HEAD + EXIF))),
    "raw TIFF": late(b"zTXt", raw(b"exif", b"\0" + zlib.compress(profile(EXIF)))),
    "raw APP1": early(b"zTXt", raw(b"APP1", b"\0" + zlib.compress(profile(EXIF_HEAD + EXIF)))),
    "raw APP1 of XMP": late(b"tEXt", raw(b"APP1", profile(XMP_HEAD + heading(60)))),
    "raw xmp": late(b"tEXt", raw(b"xmp", profile(heading(60)))),
    "raw 8bim": late(b"tEXt", raw(b"8bim", profile(resource(0x424, heading(60))))),
    "WebP without flags, XMP": with_riff(b"XMP ", heading(60)),
    "WebP without flags, EXIF": with_riff(b"EXIF", EXIF),
    "WebP with a JPEG's EXIF": with_riff(b"EXIF", EXIF_HEAD + EXIF),
}
NOWHERE = {
    "incomplete extended XMP": extended([(0, 100)]),
    "extended XMP of another packet": extended([(0, None)], name="A" * 32),
    "cut XMP": segments(XMP_HEAD + heading(60)[:-12]),
    "behind the pixels": JPEG[:-2] + segments(XMP_HEAD + heading(60))[2 : -len(JPEG) + 2],
    "damaged deflate": late(b"zTXt", XMP_KEY + b"\0" + zlib.compress(heading(60))[:-9]),
    "no hexadecimal digits": late(b"tEXt", raw(b"xmp", b"\nxmp\n 4\nzz")),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_heading_is_found_in_every_place(place):
    assert read_panorama(PLACES[place]).heading_deg == 60


@pytest.mark.parametrize("place", NOWHERE)
def test_no_heading_is_made_up(place):
    assert read_panorama(NOWHERE[place]).heading_deg is None


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs ExifTool")
@pytest.mark.parametrize("place", [*PLACES, *NOWHERE])
def test_exiftool_reads_the_same(place, tmp_path):
    (tmp_path / "image").write_bytes({**PLACES, **NOWHERE}[place])
    command = [
        "exiftool",
        "-n",
        "-s3",
        "-PoseHeadingDegrees",
        "-GPSImgDirection",
        tmp_path / "image",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert answer.strip() == ("60" if place in PLACES else "")


@pytest.mark.parametrize("place", PLACES)
def test_cut_and_damaged_metadata_raise_only_our_errors(place):
    data = np.frombuffer(PLACES[place], np.uint8)
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = data[: random.integers(20, len(data))].copy()
        damaged[random.integers(0, len(damaged), 3)] = random.integers(0, 256, 3)
        with contextlib.suppress(SkyfixError):
            read_panorama(damaged.tobytes())


def test_two_exif_blocks_are_merged():
    orientation = Image.Exif()
    orientation[0x0112] = 6
    exif = open_image(segments(orientation.tobytes(), EXIF_HEAD + EXIF)).exif
    assert exif[0x0112] == 6
    assert exif.get_ifd(0x8825)[17] == 60


def bomb(kind, key, content):
    return late(kind, key + b"\0" + zlib.compress(content, 9))


ELEMENTS = b"<x>" + b"<b/>" * (MAX_XMP_BYTES // 4 - 2) + b"</x>"
BOMBS = {
    "10 MB of zeros": bomb(b"zTXt", XMP_KEY, bytes(10_000_000)),
    "10 MB of digits": bomb(b"zTXt", raw(b"exif", b"")[:-1] + b"\0", profile(bytes(5_000_000))),
    "1000 bombs": PNG[:-12]
    + chunk(b"zTXt", XMP_KEY + b"\0" + zlib.compress(b"<" + bytes(1_500_000) + b">", 9)) * 1000
    + PNG[-12:],
    "elements": bomb(b"zTXt", XMP_KEY, ELEMENTS),
    "a million chunks": PNG[:-12] + chunk(b"prVt", b"") * 1_000_000 + PNG[-12:],
    "a million RIFF chunks": WEBP + b"prVt\0\0\0\0" * 1_000_000,
    "60,000 segments": segments(*[b"Exif\0"] * 15, *[XMP_HEAD + heading(60)] * 60_000),
    "60 MB of XMP": segments(*[XMP_HEAD + heading(60).ljust(60_000)] * 1000),
    "resources": segments(PHOTOSHOP + resource(0x424, b"") * 5000, marker=0xED),
    "endless resources": segments(
        PHOTOSHOP + b"8BIM\x04\x24\0\0\xff\xff\xff\xff" * 5000, marker=0xED
    ),
    "long names": segments(XMP_HEAD + XMP.format(fields=f'{GPANO[1]}="{"x" * 60_000}"').encode()),
}


@pytest.mark.parametrize("name", BOMBS)
def test_metadata_costs_little_time_and_memory(name):
    data = BOMBS[name]
    structure = scan_jpeg(data) if data.startswith(b"\xff\xd8") else None
    tracemalloc.start()
    found = find_metadata(data, structure)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6
    assert sum(map(len, found.exif)) <= MAX_EXIF_BYTES
    assert sum(map(len, found.xmp)) <= MAX_XMP_BYTES
    assert len(found.exif) + len(found.xmp) <= MAX_BLOCKS + 1
    started = time.thread_time()
    read_panorama(data)
    assert time.thread_time() - started < 2.0


def test_pixels_are_read_beside_late_metadata():
    data = encoded(NOISE)
    at = len(data) - 12
    with_exif = data[:at] + chunk(b"eXIf", EXIF) + data[at:]
    assert (open_image(with_exif).decode() == open_image(data).decode()).all()
