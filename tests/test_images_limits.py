"""What an image may cost: memory, pixels, scans, pieces, metadata."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from hostile_images import flat_jpeg, many_scans
from image_samples import RED, chunk, encoded, heif_of_size, jpeg_of_size, png_of_size

from model.images import (
    MAX_EXIF_BYTES,
    MAX_PIXELS,
    MAX_READS,
    ImageError,
    decode_image,
    open_image,
)
from model.jpeg_structure import MAX_SCANS

PEAKS_OF_STRIPS = """
import sys
from pathlib import Path
from model.images import ImageError, open_image
from model.panorama import Panorama
from model.preprocessing import Preprocessing

def mib(field):
    return int(Path("/proc/self/status").read_text().partition(field)[2].split()[0]) / 1024

for path in sys.argv[1:]:
    data = Path(path).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here on: proc(5)
    before = mib("VmRSS:")
    try:
        read = Preprocessing().read_strip(Panorama(open_image(data))).any()
    except ImageError:
        read = False
    print(read, mib("VmHWM:") - before)
"""


def test_a_large_image_costs_little_memory(tmp_path):
    """In a separate process: here the peaks of other tests would hide the growth."""
    files = {
        "bomb.png": (png_of_size(16384, 8193), False, 20),
        "several.jpg": (flat_jpeg(16384, 8192, scans=3), False, 20),
        "largest.jpg": (flat_jpeg(16384, 8192), True, 150),
    }
    for name, (data, _, _) in files.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", PEAKS_OF_STRIPS, *(str(tmp_path / name) for name in files)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line, (_, readable, most_mib) in zip(answer.splitlines(), files.values(), strict=True):
        read, grown_mib = line.split()
        assert read == str(readable)
        assert 0 <= float(grown_mib) < most_mib


def test_the_largest_panorama_is_within_the_limit():
    assert open_image(jpeg_of_size(16384, 8192)).size == (8192, 16384)
    assert MAX_PIXELS == 16384 * 8192


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (jpeg_of_size(16384, 8192, progressive=True), "progressive"),
        (flat_jpeg(9472, 9472, scans=3), "JPEG of several scans is 89478485"),
        (flat_jpeg(8256, 8256, scans=4), "JPEG of several scans is 67108864"),
        (png_of_size(8192, 8192), "PNG"),
        (heif_of_size(encoded(RED, "AVIF"), 8192, 8192), "AVIF is 33554432"),
    ],
)
def test_formats_that_are_decoded_whole_have_a_lower_limit(data, kind):
    with pytest.raises(ImageError, match=f"the limit of a {kind}"):
        open_image(data)


@pytest.mark.parametrize("scans", [1, 3, 4])
def test_a_sequential_jpeg_of_several_scans_is_read(scans):
    image = decode_image(flat_jpeg(64, 32, scans=scans))
    assert image.shape == (32, 64, 3)
    assert np.ptp(image) == 0


def test_scans_inside_segments_are_not_counted():
    """Thumbnails in segments, bytes after the end, and stuffed bytes hold no scan."""
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    base = encoded(RED, "JPEG", progressive=True)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 200 * len(scan)) + 200 * scan
    carrying = base[:2] + comment + base[2:] + 200 * scan
    assert (decode_image(carrying) == decode_image(base)).all()
    scans = base.count(b"\xff\xda")
    most = many_scans(base, MAX_SCANS - scans)
    assert decode_image(most).shape == RED.shape
    for bomb in (many_scans(base, MAX_SCANS - scans + 1), many_scans(base, 100_000)):
        with pytest.raises(ImageError, match="more than 100 scans"):
            open_image(bomb)


def test_markers_hidden_from_a_naive_walk_are_counted():
    """libjpeg resumes a scan after RST and after markers below C0, and skips fill bytes."""
    base = encoded(RED, "JPEG", progressive=True)
    for hiding in (b"\xff\xd3", b"\xff\x02\x7f\xf0", b"\xff\xff\xff", b"\xff\x00\x7f\xf0"):
        hidden = many_scans(base, 1000, hiding)
        with pytest.raises(ImageError, match="more than 100 scans"):
            open_image(hidden)


def many_comments(count):
    data = encoded(RED, "JPEG")
    return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]


def many_chunks(count):
    data = encoded(RED)
    return data[:33] + chunk(b"prVt", b"") * count + data[33:]


def stray_bytes(count):
    data = encoded(RED, "JPEG")
    return data[:2] + b"\xff\0" * count + data[2:]


def stray_bytes_behind_an_early_end(count):
    return b"\xff\xd8\xff\xd9" + stray_bytes(count)


@pytest.mark.parametrize(
    "make", [many_comments, many_chunks, stray_bytes, stray_bytes_behind_an_early_end]
)
def test_a_file_of_countless_pieces_is_refused(make):
    """Pillow reads pieces in Python: 32 MiB would take seconds before a pixel is decoded."""
    if make is not stray_bytes_behind_an_early_end:
        assert decode_image(make(100)).shape == RED.shape
    with pytest.raises(ImageError, match=r"segments|pieces|first scan"):
        open_image(make(MAX_READS // 2))


def exif_of(size):
    """Orientation 6, padded to a size: "Exif", 8 bytes of head, one entry, no next directory."""
    entry = struct.pack(">HHHLHHL", 1, 0x0112, 3, 1, 6, 0, 0)
    return (b"Exif\0\0MM\0*\0\0\0\x08" + entry).ljust(size, b"\0")


def with_exif(form, exif):
    if form != "JPEG":
        return encoded(RED, form, exif=exif)
    data = encoded(RED, "JPEG")
    parts = [exif[at : at + 60_000] for at in range(6, len(exif), 60_000)]
    segments = [
        b"\xff\xe1" + struct.pack(">H", 8 + len(part)) + b"Exif\0\0" + part for part in parts
    ]
    return data[:2] + b"".join(segments) + data[2:]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_larger_than_one_segment_is_ignored(form, caplog):
    """A parsed megabyte of numbers takes 25 MiB, and Pillow joins the segments of a JPEG."""
    assert open_image(with_exif(form, exif_of(60_000))).exif.get(0x0112) == 6
    large = with_exif(form, exif_of(MAX_EXIF_BYTES + 7))
    assert decode_image(large).shape == RED.shape
    assert "EXIF" in caplog.text


@pytest.mark.parametrize(
    "before",
    [b"", b"\xff\xd9", b"\xff\xd8\xff\xff", b"\xff\xc8\xff\xff", b"\xff\xf0\xff\xff"],
    ids=["plain", "end", "start", "extension", "reserved"],
)
def test_a_jpeg_of_endless_exif_is_refused_before_pillow_joins_it(before):
    """Also behind markers that Pillow skips, though a decoder would not."""
    data = with_exif("JPEG", exif_of(2_000_000))
    with pytest.raises(ImageError, match=r"EXIF|first scan|unknown marker"):
        open_image(data[:2] + before + data[2:])
