import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hostile_images import flat_jpeg, many_scans
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.images import (
    MAX_METADATA_BYTES,
    MAX_PIXELS,
    MAX_READS,
    MAX_SCANS,
    ImageError,
    decode_image,
    image_size,
    open_image,
    read_exif,
)

RED = np.full((24, 40, 3), (200, 30, 10), np.uint8)


NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encoded(image, form="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width, height):
    """A PNG that states a size and holds almost nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def with_orientation(image, orientation, form="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, form, exif=exif.tobytes(), quality=95)


@pytest.mark.parametrize(
    "data",
    [
        encoded(RED),
        encoded(RED, "WEBP", lossless=True),
        encoded(Image.fromarray(RED).quantize(4)),
        encoded(Image.fromarray(RED).convert("RGBA")),
        encoded(RED, "JPEG", quality=98),
        encoded(Image.fromarray(RED).convert("CMYK"), "JPEG", quality=98),
    ],
    ids=["png", "webp", "palette", "alpha", "jpeg", "cmyk"],
)
def test_every_format_gives_the_same_rgb(data):
    image = decode_image(data)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.astype(int), RED, atol=4)


def test_16_bits_keep_their_high_byte_and_grey_becomes_rgb():
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    image = decode_image(encoded(Image.fromarray(ramp)))
    assert (image == (ramp >> 8)[..., None]).all()
    assert (decode_image(encoded(Image.new("L", (16, 16), 77))) == 77).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_black(mode):
    clear = Image.new("RGBA", (16, 16), (255, 255, 255, 0)).convert(mode)
    options = {"transparency": bytes(256)} if mode == "P" else {}
    assert decode_image(encoded(clear, **options)).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_undone(orientation, form):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # the upper left quarter
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    data = with_orientation(np.ascontiguousarray(stored), orientation, form)
    image = decode_image(data)
    assert image.shape == upright.shape
    assert image_size(data) == upright.shape[:2]
    assert (image[4:12, 4:20] > 200).all()
    assert (image[20:, :] < 60).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image", "not a JPEG"),
        (encoded(RED, "GIF"), "not a JPEG"),
        (encoded(NOISE)[:-600], "damaged"),
        (encoded(RED, "JPEG")[:-200], "damaged|not a"),
        (encoded(RED[:1, :1]), "1x1"),
        (png_of_size(60000, 60000), "limit"),
        (png_of_size(16384, 8193), "134234112"),
    ],
    ids=["empty", "text", "gif", "png cut", "jpeg cut", "1x1", "bomb", "one row too many"],
)
def test_bad_input_is_refused_by_name(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


ROUGH = Image.fromarray(np.random.default_rng(1).integers(0, 256, (99, 200, 3), np.uint8))
ROUGH = ROUGH.resize((1201, 599))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("rows", [1, 200, 416])
def test_rows_that_nobody_needs_are_black_and_the_others_as_ever(scale, subsampling, rows):
    data = encoded(ROUGH, "JPEG", subsampling=subsampling, restart_marker_rows=rows % 2)
    least = (599 // scale, 1201 // scale)
    whole = decode_image(data, min_size=least)
    upper = decode_image(data, min_size=least, rows=rows)
    assert upper.shape == whole.shape == (-(-599 // scale), -(-1201 // scale), 3)
    kept = -(-rows // scale) + 1
    assert (upper[:kept] == whole[:kept]).all()
    assert not upper[-80 // scale :].any()


@pytest.mark.parametrize(
    "data",
    [
        encoded(ROUGH, "JPEG", progressive=True),
        encoded(ROUGH, "PNG"),
        with_orientation(np.asarray(ROUGH), 3, "JPEG"),
        with_orientation(np.asarray(ROUGH), 6, "JPEG"),
        flat_jpeg(1024, 512, scans=3),
    ],
    ids=["progressive", "png", "head down", "lying", "several scans"],
)
def test_what_does_not_come_row_by_row_from_the_top_is_decoded_whole(data):
    for least in (None, (64, 128)):
        upper = decode_image(data, min_size=least, rows=100)
        assert (upper == decode_image(data, min_size=least)).all()


@pytest.mark.parametrize("share", [0.45, 0.5, 0.55, 0.6])
def test_what_libjpeg_passes_over_in_a_whole_file_is_passed_over_in_its_upper_part(share):
    """An unknown marker, which it finds where it looks for the end of what is left."""
    pixels = np.random.default_rng(1).integers(0, 256, (600, 400, 3), np.uint8)
    data = bytearray(encoded(Image.fromarray(pixels), "JPEG", restart_marker_rows=1))
    place = int(share * len(data))
    data[place : place + 2] = b"\xff\x42"
    whole, upper = (decode_image(bytes(data), rows=rows) for rows in (None, 200))
    assert (upper[:200] == whole[:200]).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.999])
def test_a_jpeg_cut_off_is_refused_wherever_it_is_cut(share):
    data = encoded(ROUGH, "JPEG")
    with pytest.raises(ImageError, match="damaged"):
        decode_image(data[: int(share * len(data))], rows=200)


PEAKS_OF_STRIPS = """
import sys
from pathlib import Path
from model.images import ImageError
from model.panorama import PanoramaGeometry
from model.preprocessing import Preprocessing

def mib(field):
    return int(Path("/proc/self/status").read_text().partition(field)[2].split()[0]) / 1024

for path in sys.argv[1:]:
    data = Path(path).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here on: proc(5)
    before = mib("VmRSS:")
    try:
        read = Preprocessing().read_strip(data, PanoramaGeometry()).any()
    except ImageError:
        read = False
    print(read, mib("VmHWM:") - before)
"""


def test_a_large_image_costs_little_memory(tmp_path):
    """In a process of its own: in this one the peaks of other tests would hide the growth."""
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


def jpeg_of_size(width, height, **options):
    """A JPEG whose frame header states another size than it holds."""
    data = bytearray(encoded(RED, "JPEG", **options))
    frame = data.index(b"\xff\xc2" if options else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def test_the_largest_panorama_is_within_the_limit():
    assert open_image(jpeg_of_size(16384, 8192)).size == (16384, 8192)
    assert MAX_PIXELS == 16384 * 8192


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (jpeg_of_size(16384, 8192, progressive=True), "progressive"),
        (flat_jpeg(9472, 9472, scans=3), "JPEG of several scans is 89478485"),
        (flat_jpeg(8256, 8256, scans=4), "JPEG of several scans is 67108864"),
        (png_of_size(8192, 8192), "PNG"),
    ],
)
def test_what_must_be_decoded_whole_has_a_lower_limit(data, kind):
    with pytest.raises(ImageError, match=f"the limit of a {kind}"):
        open_image(data)


@pytest.mark.parametrize("scans", [1, 3, 4])
def test_a_sequential_jpeg_of_several_scans_is_read(scans):
    image = decode_image(flat_jpeg(64, 32, scans=scans))
    assert image.shape == (32, 64, 3)
    assert np.ptp(image) == 0


def test_the_scans_of_a_jpeg_are_counted_not_those_of_what_it_carries():
    """Thumbnails in segments, what follows the end, and stuffed bytes hold no scan."""
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
    """Pillow reads them in Python: 32 MiB would take it seconds, before a pixel is decoded."""
    if make is not stray_bytes_behind_an_early_end:
        assert decode_image(make(100)).shape == RED.shape
    with pytest.raises(ImageError, match=r"segments|pieces|first scan"):
        open_image(make(MAX_READS // 2))


def test_a_picture_with_others_behind_it_is_the_first():
    """MPO, as phones write it: a JPEG, then a depth map or a second eye's view."""
    frames = [Image.new("RGB", (1024, 512), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    image = decode_image(data, min_size=(100, 100))
    assert image.shape == (128, 256, 3)
    assert (image[..., 0] > 250).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_averaging_down_while_decoding_shows_the_same(form, mode):
    smooth = Image.fromarray(NOISE[:4, :8]).resize((800, 400)).convert(mode)
    data = encoded(smooth, form, **({"lossless": True} if form == "WEBP" else {}))
    small = decode_image(data, min_size=(50, 100))
    assert small.shape == (100, 200, 3)
    whole = Image.fromarray(decode_image(data)).resize((200, 100), Image.Resampling.BOX)
    assert np.abs(small.astype(int) - np.asarray(whole)).max() <= 1


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_an_animation_is_its_first_frame(form):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (decode_image(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("least", [(10, 10), (100, 300), (101, 301), (200, 100), (400, 800)])
def test_a_reduced_jpeg_stays_at_least_so_large_and_looks_the_same(orientation, least):
    ramp = np.linspace(0, 255, 801).astype(np.uint8)
    upright = np.repeat(np.tile(ramp, (403, 1))[..., None], 3, axis=2)
    stored = np.rot90(upright, 1) if orientation == 6 else upright
    data = with_orientation(np.ascontiguousarray(stored), orientation)
    image = decode_image(data, min_size=least)
    height, width = image.shape[:2]
    assert (height >= least[0] and width >= least[1]) or (height, width) == (403, 801)
    assert width / height == pytest.approx(801 / 403, rel=0.02)
    expected = np.interp((np.arange(width) + 0.5) / width * 801 - 0.5, np.arange(801), ramp)
    assert np.abs(image[height // 2, :, 0] - expected).max() < 4


def test_a_much_larger_jpeg_is_decoded_smaller():
    data = encoded(np.zeros((1024, 2048, 3), np.uint8), "JPEG")
    assert decode_image(data, min_size=(96, 512)).shape == (256, 512, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tail", [b"garbage", b"MM\0*\0\0\0\xff", b"MM\0*\0\0\0\x08\0\x05\x01"])
def test_damaged_exif_does_not_spoil_the_picture(form, tail):
    assert decode_image(encoded(RED, form, exif=b"Exif\0\0" + tail)).shape == RED.shape


def exif_of(size):
    """Orientation 6, padded to a size: "Exif", 8 bytes of head, one entry, no next directory."""
    entry = struct.pack(">HHHLHHL", 1, 0x0112, 3, 1, 6, 0, 0)
    return (b"Exif\0\0MM\0*\0\0\0\x08" + entry).ljust(size, b"\0")


def with_exif(form, exif):
    if form != "JPEG":
        return encoded(RED, form, exif=exif)
    data = encoded(RED, "JPEG")
    parts = [exif[at : at + 60_000] for at in range(6, len(exif), 60_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", 8 + len(one)) + b"Exif\0\0" + one for one in parts]
    return data[:2] + b"".join(segments) + data[2:]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_beyond_what_one_segment_holds_is_ignored(form, caplog):
    """Parsed, a megabyte of numbers takes 25: and Pillow joins the segments of a JPEG."""
    assert read_exif(open_image(with_exif(form, exif_of(60_000)))).get(0x0112) == 6
    large = with_exif(form, exif_of(MAX_METADATA_BYTES + 7))
    assert decode_image(large).shape == RED.shape
    assert "EXIF" in caplog.text


@pytest.mark.parametrize(
    "before",
    [b"", b"\xff\xd9", b"\xff\xd8\xff\xff", b"\xff\xc8\xff\xff", b"\xff\xf0\xff\xff"],
    ids=["plain", "end", "start", "extension", "reserved"],
)
def test_a_jpeg_of_endless_exif_is_refused_before_pillow_joins_it(before):
    """Also behind markers that Pillow passes over, though no decoder would."""
    data = with_exif("JPEG", exif_of(2_000_000))
    with pytest.raises(ImageError, match=r"EXIF|first scan|unknown marker"):
        open_image(data[:2] + before + data[2:])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(0, 10**6), st.binary(min_size=1))
def test_whatever_the_bytes_the_only_error_is_ours(form, at, patch):
    data = bytearray(encoded(RED, form))
    at %= len(data)
    data[at : at + len(patch)] = patch
    try:
        image = decode_image(bytes(data), max_pixels=10**6)
    except ImageError:
        return
    assert image.ndim == 3
    assert image.shape[2] == 3
