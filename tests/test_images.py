import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_samples import NOISE, RED, encoded, png_of_size, with_orientation
from PIL import Image

from model.images import FORMATS, ImageError, decode_image, open_image


@pytest.mark.parametrize(
    "data",
    [
        encoded(RED),
        encoded(RED, "WEBP", lossless=True),
        encoded(Image.fromarray(RED).quantize(4)),
        encoded(Image.fromarray(RED).convert("RGBA")),
        encoded(RED, "JPEG", quality=98),
        encoded(Image.fromarray(RED).convert("CMYK"), "JPEG", quality=98),
        encoded(RED, "AVIF", quality=95),
        encoded(Image.fromarray(RED).convert("RGBA"), "AVIF", quality=95),
    ],
    ids=["png", "webp", "palette", "alpha", "jpeg", "cmyk", "avif", "avif-alpha"],
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
@pytest.mark.parametrize("form", FORMATS)
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
    assert open_image(data).size == upright.shape[:2]
    assert (image[4:12, 4:20] > 200).all()
    assert (image[20:, :] < 60).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image", "not a JPEG"),
        (encoded(RED, "GIF"), "not a JPEG"),
        (encoded(RED).replace(b"IHDR", b"IHDR\xff"), "but a PNG image that is damaged"),
        (encoded(NOISE)[:-600], "damaged"),
        (encoded(RED, "JPEG")[:-200], "damaged|not a"),
        (encoded(RED[:1, :1]), "1x1"),
        (png_of_size(60000, 60000), "limit"),
        (png_of_size(16384, 8193), "134234112"),
    ],
    ids=[
        "empty",
        "text",
        "gif",
        "png head",
        "png cut",
        "jpeg cut",
        "1x1",
        "bomb",
        "one row too many",
    ],
)
def test_bad_input_is_refused_by_name(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


def test_the_first_of_several_pictures_is_decoded():
    """MPO, as phones write it: a JPEG, then a depth map or a second eye's picture."""
    frames = [Image.new("RGB", (1024, 512), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    image = decode_image(data, min_size=(100, 100))
    assert image.shape == (128, 256, 3)
    assert (image[..., 0] > 250).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_reduced_image_shows_the_same_picture(form, mode):
    smooth = Image.fromarray(NOISE[:4, :8]).resize((800, 400)).convert(mode)
    data = encoded(smooth, form, **({"lossless": True} if form == "WEBP" else {}))
    small = decode_image(data, min_size=(50, 100))
    assert small.shape == (100, 200, 3)
    whole = Image.fromarray(decode_image(data)).resize((200, 100), Image.Resampling.BOX)
    assert np.abs(small.astype(int) - np.asarray(whole)).max() <= 1


@pytest.mark.parametrize("form", ["WEBP", "PNG", "AVIF"])
def test_an_animation_is_its_first_frame(form):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_allclose(decode_image(data).astype(int)[5, 5], (255, 0, 0), atol=4)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("least", [(10, 10), (100, 300), (101, 301), (200, 100), (400, 800)])
def test_a_reduced_jpeg_keeps_the_least_size_and_looks_the_same(orientation, least):
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
def test_an_image_with_damaged_exif_is_decoded(form, tail):
    assert decode_image(encoded(RED, form, exif=b"Exif\0\0" + tail)).shape == RED.shape


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(0, 10**6), st.binary(min_size=1))
def test_hostile_bytes_raise_only_image_error(form, at, patch):
    data = bytearray(encoded(RED, form))
    at %= len(data)
    data[at : at + len(patch)] = patch
    try:
        image = open_image(bytes(data), max_pixels=10**6).decode()
    except ImageError:
        return
    assert image.ndim == 3
    assert image.shape[2] == 3
