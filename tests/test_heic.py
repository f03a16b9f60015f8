"""HEIC photographs: the same picture and metadata as in other formats, or the extra's name."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hostile_images import XMP
from image_samples import RED, encoded, heif_of_size, with_orientation
from PIL import Image

from model import images
from model.images import ImageError, decode_image, open_image
from model.panorama_metadata import read_panorama

HEIC = b"\0\0\0\x18ftypheic" + bytes(40)


def test_without_the_extra_a_heic_photograph_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images._reads_heic.cache_clear()
    with pytest.raises(
        ImageError, match=r"a HEIC photograph: save it as JPEG, or install skyfix\[heic\]"
    ):
        open_image(HEIC)
    images._reads_heic.cache_clear()


@pytest.fixture(scope="module")
def pillow_heif():
    module = pytest.importorskip("pillow_heif")
    module.register_heif_opener()  # to write; reading registers by itself
    return module


def smooth(height=64, width=96):
    ramp = np.add.outer(np.arange(height), np.arange(width)) + 40
    return np.stack([ramp, 255 - ramp, ramp // 2], -1).astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"tile_size": 64}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_heic_shows_the_same_picture(pillow_heif, mode, options):
    image = Image.fromarray(smooth(128, 128)).convert(mode)
    found = decode_image(encoded(image, "HEIF", quality=95, **options)).astype(int)
    assert np.abs(found - np.asarray(image.convert("RGB"))).mean() < 2


def test_ten_bits_keep_their_high_byte(pillow_heif):
    wide = smooth().astype(np.uint16) << 8
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (96, 64), wide.tobytes()).save(buffer, quality=95)
    assert open_image(buffer.getvalue()).stored.info["bit_depth"] == 10
    assert np.abs(decode_image(buffer.getvalue()).astype(int) - smooth()).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_heic_is_turned_once(pillow_heif, orientation):
    """The decoder turns it; EXIF's orientation, which says the same, is not applied again."""
    jpeg, heic = (with_orientation(smooth(), orientation, form) for form in ("JPEG", "HEIF"))
    assert open_image(heic).size == open_image(jpeg).size
    assert np.abs(decode_image(heic).astype(int) - decode_image(jpeg)).mean() < 3


def test_metadata_of_a_heic_are_read(pillow_heif):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    xmp = XMP.format(fields='GPano:PoseHeadingDegrees="90"').encode()
    panorama = read_panorama(encoded(smooth(), "HEIF", exif=exif.tobytes(), xmp=xmp))
    assert panorama.heading_deg == 90
    assert panorama.geometry.projection == "rectilinear"
    assert panorama.sources["horizontal_fov_deg"] == "EXIF"


def test_sizes_and_damage_are_refused_by_name(pillow_heif):
    data = encoded(smooth(), "HEIF")
    with pytest.raises(ImageError, match="the limit of a HEIF is 53687091"):
        open_image(heif_of_size(data, 8192, 8192))
    for broken in (data[: len(data) - 200], heif_of_size(data, 128, 128)):
        with pytest.raises(ImageError):
            decode_image(broken)
    for at in range(0, len(data), 37):
        try:
            decode_image(data[:at] + b"\xff\0" + data[at + 2 :])
        except ImageError:
            continue


def test_threads_decode_alike(pillow_heif):
    data = encoded(smooth(512, 512), "HEIF")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(decode_image, [data] * 12))
    assert all((image == found[0]).all() for image in found)


def test_a_heic_of_stated_mif1_is_read(pillow_heif):
    data = encoded(RED, "HEIF").replace(b"ftypheic", b"ftypmif1", 1)
    assert decode_image(data).shape == RED.shape
