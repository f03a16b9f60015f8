"""Unneeded rows are not decoded, and no other row changes."""

import numpy as np
import pytest
from hostile_images import flat_jpeg
from image_samples import encoded, with_orientation
from PIL import Image

from model.images import ImageError, decode_image, open_image

ROUGH = Image.fromarray(np.random.default_rng(1).integers(0, 256, (99, 200, 3), np.uint8))
ROUGH = ROUGH.resize((1201, 599))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("rows", [1, 200, 416])
def test_lower_rows_are_black_and_upper_rows_unchanged(scale, subsampling, rows):
    data = encoded(ROUGH, "JPEG", subsampling=subsampling, restart_marker_rows=rows % 2)
    least = (599 // scale, 1201 // scale)
    whole = decode_image(data, min_size=least)
    upper = open_image(data).decode(min_size=least, rows=rows)
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
def test_files_without_rows_in_order_are_decoded_whole(data):
    for least in (None, (64, 128)):
        upper = open_image(data).decode(min_size=least, rows=100)
        assert (upper == decode_image(data, min_size=least)).all()


@pytest.mark.parametrize("share", [0.45, 0.5, 0.55, 0.6])
def test_a_marker_that_libjpeg_skips_is_skipped(share):
    """An unknown marker, where libjpeg looks for the end of the file."""
    pixels = np.random.default_rng(1).integers(0, 256, (600, 400, 3), np.uint8)
    data = bytearray(encoded(Image.fromarray(pixels), "JPEG", restart_marker_rows=1))
    place = int(share * len(data))
    data[place : place + 2] = b"\xff\x42"
    whole, upper = (open_image(bytes(data)).decode(rows=rows) for rows in (None, 200))
    assert (upper[:200] == whole[:200]).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.999])
def test_a_truncated_jpeg_is_refused(share):
    data = encoded(ROUGH, "JPEG")
    with pytest.raises(ImageError, match="damaged"):
        open_image(data[: int(share * len(data))]).decode(rows=200)
