import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_samples import World, tiny
from PIL import Image

from model.backend import TORCH_BATCH
from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.images import open_image
from model.panorama import GeometryError, Panorama, PanoramaGeometry
from training.data.arrays import read_arrays
from training.data.pairs import AerialPoint, Pair
from training.evaluate.encoded_pairs import centred_tiles

CONFIG = tiny("encoder.preprocessing.projection=polar").encoder
UNKNOWN = PanoramaGeometry(north=None)


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    return Checkpoint(CONFIG, CONFIG.build().state_dict())


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return Encoder(checkpoint)


def panoramas(count, height=64, width=128):
    return [World(seed).panorama(height, width) for seed in range(count)]


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_attributes_are_the_checkpoint_s(encoder, checkpoint, tmp_path):
    checkpoint.save(tmp_path / "a.safetensors")
    loaded = Encoder.load(tmp_path / "a.safetensors")
    assert (loaded.fingerprint, loaded.dimension) == (checkpoint.fingerprint, 16)
    assert (loaded.aerial_footprint_m, loaded.aerial_pixels) == (24.0, 32)
    images = panoramas(2)
    assert (loaded.encode_streets(images) == encoder.encode_streets(images)).all()


@pytest.mark.parametrize("count", [0, 1, TORCH_BATCH + 3])
def test_any_number_of_images_gives_as_many_unit_rows(encoder, count):
    tile = World(0).tile(50, 24.0)
    for descriptors in (
        encoder.encode_aerials([tile] * count),
        encoder.encode_streets(panoramas(1) * count),
    ):
        assert descriptors.shape == (count, 16)
        assert descriptors.dtype == np.float32
        assert np.linalg.norm(descriptors, axis=1) == pytest.approx(np.ones(count), abs=1e-6)


def test_order_and_batch_do_not_change_a_descriptor(encoder):
    images = panoramas(5)
    together = encoder.encode_streets(images)
    assert (encoder.encode_streets(images[::-1])[::-1] == together).all()
    alone = np.concatenate([encoder.encode_streets([image]) for image in images])
    assert (alone * together).sum(1).min() >= 0.9999


def test_several_threads_encode_like_one_thread(encoder):
    images = panoramas(6)
    expected = encoder.encode_streets(images)
    with ThreadPoolExecutor(encoder.at_once) as threads:
        found = list(threads.map(lambda _: encoder.encode_streets(images), range(8)))
    assert all((descriptors == expected).all() for descriptors in found)


def test_training_and_serving_give_a_file_the_same_bits(encoder, tmp_path):
    """Training reads files and the service reads bytes."""
    geometry = PanoramaGeometry.north_of(75.0)
    pairs = []
    for i, image in enumerate(panoramas(4, 512, 1024)):
        street, aerial = tmp_path / f"street-{i}.jpg", tmp_path / f"aerial-{i}.jpg"
        street.write_bytes(jpeg(image))
        aerial.write_bytes(jpeg(World(i).tile(96, 24.0)))
        pairs.append(
            Pair(str(i), street, AerialPoint(aerial, 0.25, 48, 48), PanoramaGeometry(geometry))
        )
    arrays = read_arrays(pairs, CONFIG, offset_m=0.0)
    trained = encoder.encode_strips(list(arrays.strips), list(arrays.norths))
    strips = [
        encoder.read_street(Panorama(open_image(pair.street.read_bytes()), pair.geometry))
        for pair in pairs
    ]
    served = encoder.encode_strips(strips, [pair.geometry.strip_north for pair in pairs])
    assert (trained == served).all()
    tiles = [np.asarray(Image.open(pair.aerial.path)) for pair in pairs]
    assert (encoder.encode_aerials(centred_tiles(arrays)) == encoder.encode_aerials(tiles)).all()


def test_training_and_the_encoder_have_the_same_forward_pass(encoder, checkpoint):
    from training.data.augmentation import Batch
    from training.run.step import forward

    recipe = tiny("encoder.preprocessing.projection=polar")
    strips = [encoder.prepare_street(image, PanoramaGeometry()) for image in panoramas(4)]
    tiles = [World(seed).tile(32, 24.0) for seed in range(4)]
    norths = torch.tensor([0.5, 0.1, 0.7, 0.0], dtype=torch.float64)
    stacked = [torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) for images in (strips, tiles)]
    nowhere = torch.full((4, 3), torch.nan, dtype=torch.float64)
    batch = Batch(stacked[0], norths, stacked[1], torch.arange(4), nowhere, nowhere)
    with torch.no_grad():
        street, aerial = forward(checkpoint.network(), batch, recipe, "cpu")
    assert (street.numpy() == encoder.encode_strips(strips, norths.tolist())).all()
    assert (aerial.numpy() == encoder.encode_aerials(tiles)).all()


def encode_rolls(encoder, image):
    """The descriptors of eight evenly spaced norths."""
    strip = encoder.prepare_street(image, UNKNOWN)
    return encoder.encode_strips([strip] * 8, [i / 8 for i in range(8)])


def test_a_roll_is_the_descriptor_at_that_north(encoder):
    (image,) = panoramas(1)
    rolls = encode_rolls(encoder, image)
    geometries = [PanoramaGeometry(north=i / 8) for i in range(8)]
    stated = encoder.encode_streets([image] * 8, geometries)
    np.testing.assert_allclose(rolls, stated, atol=1e-6)
    assert np.abs(rolls[0] - rolls[2]).max() > 1e-3


def turned(checkpoint, turns):
    return Encoder(replace(checkpoint, config=replace(checkpoint.config, turns=turns)))


def half_views(turns):
    torch.manual_seed(0)
    config = replace(CONFIG, network=replace(CONFIG.network, half=True), turns=turns)
    return Encoder(Checkpoint(config, config.build().state_dict()))


@pytest.mark.parametrize(("turns", "weights"), [(4, [1, 0.5, 0, 0.5]), (2, [1, 0])])
def test_half_views_count_by_what_the_camera_saw_of_them(turns, weights):
    """A camera that saw the northern half."""
    encoder = half_views(turns)
    strip = encoder.prepare_street(panoramas(1)[0], PanoramaGeometry())
    width = strip.shape[1]
    strip[:, : width // 4] = strip[:, 3 * width // 4 :] = CONFIG.preprocessing.fill
    parts = encoder.encode_strips([strip], [0.5]).reshape(turns, -1)
    expected = np.array(weights) / np.linalg.norm(weights)
    np.testing.assert_allclose(np.linalg.norm(parts, axis=1), expected, atol=0.01)


def test_a_camera_that_saw_nothing_still_has_a_descriptor():
    strip = np.full((24, 128, 3), CONFIG.preprocessing.fill, np.uint8)
    descriptors = half_views(4).encode_strips([strip], [0.5])
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("turns", [2, 4])
def test_a_descriptor_joins_the_descriptors_of_turned_views(encoder, checkpoint, turns):
    """A squared distance is the mean over single views, both turned alike."""
    several = turned(checkpoint, turns)
    assert several.dimension == turns * encoder.dimension
    strips = [encoder.prepare_street(image, PanoramaGeometry()) for image in panoramas(3)]
    tiles = [World(seed).tile(32, 24.0) for seed in range(5)]
    norths = np.array([0.5, 0.9, 0.1])

    def distances(street, aerial):
        return ((street[:, None] - aerial[None]) ** 2).sum(2)

    alone = [
        distances(
            encoder.encode_strips(strips, list(norths + turn / turns)),
            encoder.encode_aerials([np.rot90(tile, 4 * turn // turns) for tile in tiles]),
        )
        for turn in range(turns)
    ]
    together = distances(several.encode_strips(strips, list(norths)), several.encode_aerials(tiles))
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_turning_both_views_changes_no_distance(checkpoint, half):
    encoder = half_views(4) if half else turned(checkpoint, 4)
    strip = encoder.prepare_street(panoramas(1)[0], PanoramaGeometry())
    tile = World(0).tile(32, 24.0)
    street = encoder.encode_strips([strip] * 4, [0.5, 0.75, 0.0, 0.25])
    aerial = encoder.encode_aerials([np.rot90(tile, quarters) for quarters in range(4)])
    products = (street * aerial).sum(1)
    np.testing.assert_allclose(products, products[0], atol=1e-5)
    assert np.abs(street[0] - street[1]).max() > 1e-3


def test_rolls_share_their_turned_views(checkpoint):
    class Counting(Encoder):
        encoded = 0

        def _encode_views(self, strips, views):
            self.encoded += len(views)
            return super()._encode_views(strips, views)

    encoder = Counting(replace(checkpoint, config=replace(CONFIG, turns=4)))
    (image,) = panoramas(1)
    rolls = encode_rolls(encoder, image)
    assert encoder.encoded == 8
    stated = [encoder.encode_streets([image], [PanoramaGeometry(north=i / 8)]) for i in range(8)]
    np.testing.assert_allclose(rolls, np.concatenate(stated), atol=1e-6)


def test_rolling_a_panorama_and_its_north_together_changes_nothing(encoder):
    (image,) = panoramas(1)
    turned = encoder.encode_streets([np.roll(image, 32, axis=1)], [PanoramaGeometry(north=0.75)])
    np.testing.assert_allclose(turned, encoder.encode_streets([image]), atol=0.02)


def test_an_unknown_north_is_refused_and_a_missing_geometry_is_not_guessed(encoder):
    with pytest.raises(GeometryError, match="north is unknown"):
        encoder.encode_streets(panoramas(2), [PanoramaGeometry(), UNKNOWN])
    with pytest.raises(ValueError, match="shorter"):
        encoder.encode_streets(panoramas(2), [PanoramaGeometry()])


def test_preparing_needs_no_north(encoder):
    (image,) = panoramas(1)
    prepared = encoder.prepare_street(image, UNKNOWN)
    assert (prepared == encoder.prepare_street(image, PanoramaGeometry(0.2))).all()
    assert (
        encoder.read_street(Panorama(open_image(jpeg(image)), UNKNOWN)).astype(int) - prepared
    ).mean() < 1


@pytest.mark.gpu
def test_a_gpu_s_fastest_format_gives_the_cpu_s_descriptors(checkpoint, cuda):
    tiles = [World(seed).tile(32, 24.0) for seed in range(TORCH_BATCH + 3)]
    strips, norths = [image[:24] for image in panoramas(5, 48, 128)], [0.0, 0.1, 0.3, 0.5, 0.9]
    here, there = Encoder(checkpoint), Encoder(checkpoint, cuda)
    there.accelerate()
    for expected, found in (
        (here.encode_aerials(tiles), there.encode_aerials(tiles)),
        (here.encode_strips(strips, norths), there.encode_strips(strips, norths)),
    ):
        assert (expected * found).sum(1).min() > 0.999
