import io

import numpy as np
import pytest
import torch
from PIL import Image

from model.images import decode_image, open_image
from model.panorama import Band, GeometryError, Panorama, PanoramaGeometry
from model.polar import inverse_polar_transform
from model.preprocessing import DEFAULT_BAND, Preprocessing, to_tensor


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def smooth(height, width):
    return np.asarray(Image.fromarray(noise(4, 8, 3)).resize((width, height)))


def test_the_default_projection_is_the_paper_s():
    strips = to_tensor([noise(96, 512, 3)] * 2)
    north = torch.tensor([0.5, 0.3], dtype=torch.float64)
    expected = inverse_polar_transform(strips, 128, north=north)
    assert torch.equal(Preprocessing().project(strips, north), expected)


def test_no_projection_rolls_north_to_the_middle_and_resizes():
    strips = torch.zeros(2, 3, 32, 64)
    strips[0, :, :, 16] = strips[1, :, :, 48] = 1
    square = Preprocessing(projection="none", input_size=32)
    views = square.project(strips, torch.tensor([0.25, 0.75]))
    assert views.shape == (2, 3, 32, 32)
    assert views[0].mean((0, 1)).argmax() == views[1].mean((0, 1)).argmax() == 16


def test_ground_needs_a_band_and_an_unknown_projection_is_refused():
    with pytest.raises(GeometryError, match="band"):
        Preprocessing(projection="ground", band=None).project(torch.zeros(1, 3, 8, 8), 0.5)
    with pytest.raises(ValueError, match="'square' is unknown"):
        Preprocessing(projection="square")


def test_missing_rows_are_zero_to_the_network():
    preprocessing = Preprocessing()
    filled = to_tensor([np.full((4, 4, 3), preprocessing.fill, np.uint8)])
    assert preprocessing.normalise(filled).abs().max() < 0.5 / 255 / min(preprocessing.std)


def test_normalise_and_to_tensor_by_hand():
    image = noise(5, 7, 3)
    values = Preprocessing().normalise(to_tensor([image]))
    assert values.shape == (1, 3, 5, 7)
    assert values[0, 2, 4, 6].item() == pytest.approx((image[4, 6, 2] / 255 - 0.406) / 0.225, 1e-5)


def test_a_tile_of_the_input_s_size_is_untouched_and_others_keep_their_colours():
    tile = noise(128, 128, 3)
    assert Preprocessing().tile(tile) is tile
    small = Preprocessing().tile(noise(512, 512, 3))
    assert small.shape == (128, 128, 3)
    assert small.mean() == pytest.approx(127.5, abs=1.5)


@pytest.mark.parametrize(
    "geometry", [PanoramaGeometry(), PanoramaGeometry(vertical_fov_deg=180.0)], ids=["?", "stated"]
)
@pytest.mark.parametrize("band", [DEFAULT_BAND, None, Band(30, -60)])
def test_a_jpeg_decoded_at_the_sufficient_size_gives_the_same_strip(geometry, band):
    preprocessing = Preprocessing(band=band)
    buffer = io.BytesIO()
    Image.fromarray(smooth(2048, 4096)).save(buffer, "JPEG", quality=95)
    panorama = Panorama(open_image(buffer.getvalue()), geometry)
    least = preprocessing.sufficient_size(panorama)
    reduced = decode_image(buffer.getvalue(), min_size=least)
    assert reduced.shape[1] < 4096
    strip = preprocessing.read_strip(panorama).astype(int)
    whole = preprocessing.strip(decode_image(buffer.getvalue()), geometry)
    assert np.abs(strip - whole).max() <= 3
    rows = reduced.shape[0] if band is None else reduced.shape[0] / 180 * (band[0] - band[1])
    assert rows >= preprocessing.strip_size[0] - 1


@pytest.mark.parametrize("size", [(256, 128), (1001, 499), (1024, 512), (2047, 1023)])
@pytest.mark.parametrize("band", [DEFAULT_BAND, Band(30.0, -20.0), Band(-10.0, -30.0), None])
# A row of the first strip may be 85 rows of the image: more than interpolation needs decoded.
@pytest.mark.parametrize("strip", [(4, 64), (96, 512)])
def test_rows_below_the_band_do_not_change_the_strip(size, band, strip):
    preprocessing = Preprocessing(band=band, strip_size=strip)
    buffer = io.BytesIO()
    Image.fromarray(noise(size[1], size[0], 3)).save(buffer, "JPEG")
    for geometry in (PanoramaGeometry(), PanoramaGeometry(horizon=0.3, vertical_fov_deg=150.0)):
        panorama = Panorama(open_image(buffer.getvalue()), geometry)
        least = preprocessing.sufficient_size(panorama)
        expected = preprocessing.strip(decode_image(buffer.getvalue(), min_size=least), geometry)
        assert (preprocessing.read_strip(panorama) == expected).all()


def test_a_panorama_stored_on_its_side_is_read_upright():
    upright = smooth(128, 256)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(upright, 1)).save(buffer, "PNG", exif=exif.tobytes())
    strip = Preprocessing().read_strip(Panorama(open_image(buffer.getvalue())))
    assert (strip == Preprocessing().strip(upright, PanoramaGeometry())).all()
