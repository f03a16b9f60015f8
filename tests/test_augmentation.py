import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pair_samples import NOT_AUGMENTED, TINY, World
from scipy import ndimage

from model.geo import EarthCentred, LatLon, earth_centred, offset
from model.panorama import PanoramaGeometry
from model.preprocessing import to_tensor
from model.tilt import Tilt
from training.data import augmentation
from training.data.arrays import Arrays
from training.data.augmentation import BLANK_SHARE, ImageTensors, batches, draw, draw_counts
from training.data.image_operations import convolve, lean, limit_height, limit_view
from training.data.sampling import order
from training.mining import same_place
from training.recipes import find

PLAIN = (
    *TINY,
    "batch_size=4",
    *NOT_AUGMENTED,
    "ramp_epochs=0",
)
HERE = LatLon(50.0, 8.0)


def shuffled(arrays, chosen, epoch, seed):
    return order(chosen, arrays.positions, epoch, seed)


def recipe(*overrides):
    return find("msae-demo", (*PLAIN, *overrides))


def worlds(count, margin=0, overrides=()):
    """`count` flat worlds as arrays, north in the centre column, all at one position."""
    config = recipe(*overrides).encoder
    side = 32 + 2 * margin
    preprocessing, size_m = config.preprocessing, 24.0 * side / 32
    panoramas = [World(i).panorama(256, 512) for i in range(count)]
    return Arrays(
        np.stack([preprocessing.strip(panorama, PanoramaGeometry()) for panorama in panoramas]),
        np.full(count, 0.5),
        np.stack([World(i).tile(side, size_m) for i in range(count)]),
        np.tile(np.array(earth_centred(HERE)), (count, 1)),
        margin,
    )


class Sample(NamedTuple):
    strip: np.ndarray
    north: float
    tile: np.ndarray
    tile_position: np.ndarray


def augment(arrays, index, chosen, epoch, seed):
    """One pair as an epoch shows it."""
    alone = replace(chosen, batch_size=2)
    (batch,) = batches(arrays, alone, epoch, seed, np.array([index, index]))
    return Sample(
        batch.strips[0].permute(1, 2, 0).numpy(),
        batch.norths[0].item(),
        batch.tiles[0].permute(1, 2, 0).numpy(),
        batch.tile_positions[0].numpy(),
    )


def disagreement(sample, chosen):
    """Mean difference of colours, in levels, between the ground seen by the two views."""
    view = chosen.encoder.preprocessing.project(to_tensor([sample.strip.copy()]), sample.north)
    tile = to_tensor([sample.tile.copy()])
    metres = (torch.arange(32) + 0.5) * 24 / 32 - 12
    away = torch.hypot(*torch.meshgrid(metres, metres, indexing="ij"))
    seen = (away > 3) & (away < 10)
    return 255 * (view - tile)[0, :, seen].abs().mean().item()


@pytest.mark.parametrize(
    "overrides",
    [(), ("rotation=joint",), ("mirror=true",), ("rotation=joint", "mirror=true")],
    ids=["none", "joint", "mirror", "both"],
)
def test_both_views_still_show_the_same_ground(overrides):
    chosen, arrays = recipe(*overrides), worlds(4)
    differences = [
        disagreement(augment(arrays, i, chosen, epoch, 0), chosen)
        for i in range(4)
        for epoch in range(4)
    ]
    assert max(differences) < 8
    wrong = augment(arrays, 0, chosen, 0, 0)
    assert disagreement(wrong._replace(north=wrong.north + 0.25), chosen) > 20


def test_a_joint_rotation_is_the_same_quarter_turn_in_both_views():
    polar = ("encoder.preprocessing.projection=polar", "rotation=joint")
    chosen, arrays = recipe(*polar), worlds(1, overrides=polar)
    project, quarters = chosen.encoder.preprocessing.project, set()
    before = project(to_tensor(arrays.strips), 0.5)
    for epoch in range(20):
        sample = augment(arrays, 0, chosen, epoch, seed=1)
        (k,) = (k for k in range(4) if (sample.tile == np.rot90(arrays.chips[0], k)).all())
        after = project(to_tensor([sample.strip]), sample.north)
        torch.testing.assert_close(after, before.rot90(k, (-2, -1)), atol=1e-3, rtol=0)
        quarters.add(k)
    assert quarters == {0, 1, 2, 3}


def test_a_mirror_flips_both_views():
    polar = ("encoder.preprocessing.projection=polar", "mirror=true")
    chosen, arrays = recipe(*polar), worlds(1, overrides=polar)
    project, flips = chosen.encoder.preprocessing.project, set()
    arrays.norths[:] = 0.3
    before = project(to_tensor(arrays.strips), 0.3)
    for epoch in range(10):
        sample = augment(arrays, 0, chosen, epoch, seed=1)
        flipped = bool((sample.tile == arrays.chips[0][:, ::-1]).all())
        after = project(to_tensor([sample.strip]), sample.north)
        expected = before.flip(-1) if flipped else before
        torch.testing.assert_close(after, expected, atol=1e-3, rtol=0)
        flips.add(flipped)
    assert flips == {True, False}


def test_an_offset_moves_the_tile_s_content_and_its_position_alike():
    chosen, arrays = recipe("offset_m=6"), worlds(1, margin=8)
    arrays.chips[0, ..., :2] = np.moveaxis(np.mgrid[0:48, 0:48], 0, -1)  # row, column
    shifts = []
    for epoch in range(40):
        sample = augment(arrays, 0, chosen, epoch, seed=0)
        south, east = ((sample.tile[0, 0, :2].astype(int) - 8) * 0.75).tolist()
        expected = earth_centred(offset(HERE, east, -south))
        assert sample.tile_position == pytest.approx(np.array(expected), abs=0.03)
        shifts.append((south, east))
    assert 5 < np.abs(shifts).max() <= 6
    assert np.abs(np.mean(shifts, 0)).max() < 2


def test_an_unknown_position_stays_unknown():
    arrays = worlds(1)
    arrays.positions[:] = np.nan
    assert np.isnan(augment(arrays, 0, recipe(), 0, 0).tile_position).all()
    assert math.isnan(EarthCentred(*arrays.positions[0]).x)


def test_street_rotation_leaves_the_tile_and_takes_every_heading():
    arrays, chosen = worlds(1), recipe("rotation=street")
    samples = [augment(arrays, 0, chosen, epoch, 0) for epoch in range(60)]
    assert all((sample.tile == arrays.chips[0]).all() for sample in samples)
    counts = np.histogram([sample.north for sample in samples], 4, (0, 1))[0]
    assert counts.min() >= 5


def test_heading_noise_is_bounded_and_centred():
    arrays, chosen = worlds(1), recipe("heading_noise_deg=6")
    degrees = [(augment(arrays, 0, chosen, e, 0).north - 0.5) * 360 for e in range(200)]
    assert 5 < max(degrees) <= 6
    assert -6 <= min(degrees) < -5
    assert abs(np.mean(degrees)) < 1


def test_a_missing_band_blanks_only_rows_at_the_edges():
    chosen, arrays = recipe("missing_band=0.5"), worlds(1)
    fill, blanked = chosen.encoder.preprocessing.fill, 0
    for epoch in range(60):
        strip = augment(arrays, 0, chosen, epoch, 0).strip
        lost = (strip == fill).all((1, 2))
        kept = (~lost).nonzero()[0]
        assert (strip[~lost] == arrays.strips[0][~lost]).all()
        assert (np.diff(kept) == 1).all()
        assert kept[0] <= BLANK_SHARE * 24
        assert 23 - kept[-1] <= BLANK_SHARE * 24
        blanked += lost.any()
    assert 15 < blanked < 45


def test_a_limited_view_keeps_one_arc(monkeypatch):
    monkeypatch.setattr(augmentation, "HAND_TILT_DEG", 0.0)
    chosen, arrays = recipe("limited_view=0.5"), worlds(1)
    fill, shares, framed = chosen.encoder.preprocessing.fill, [], 0
    for epoch in range(60):
        strip = augment(arrays, 0, chosen, epoch, 0).strip
        lost = (strip == fill).all(2)
        columns = lost.all(0)
        assert (strip[~lost] == arrays.strips[0][~lost]).all()
        assert (columns != np.roll(columns, 1)).sum() in (0, 2)
        shares += [(~columns).mean()] * bool(lost.any())
        framed += bool(lost[:, ~columns].any())
    assert 15 < len(shares) < 45
    assert 0.1 < min(shares) < max(shares) < 0.55
    assert 2 < framed < len(shares)


def camera_directions(azimuths_deg, elevations_deg):
    """Unit vectors (h, w, 3): to the right, ahead, up."""
    azimuth, elevation = np.radians(np.meshgrid(azimuths_deg, elevations_deg))
    flat = np.cos(elevation)
    return np.stack([np.sin(azimuth) * flat, np.cos(azimuth) * flat, np.sin(elevation)], axis=-1)


def test_a_frame_keeps_what_a_rectilinear_photograph_shows():
    width_deg, tallness = 80.0, 0.75
    elevations, azimuths = 15 - (np.arange(96) + 0.5) / 1.6, (np.arange(512) + 0.5) / 512 * 360
    strips = torch.full((1, 96, 512, 3), 9, dtype=torch.uint8)
    edge, centre = np.tan(np.radians(width_deg / 2)), np.array([0.25])
    kept = limit_view(strips, np.array([width_deg]), centre, (0, 0, 0))
    kept = limit_height(kept, np.array([edge * tallness]), centre, elevations, (0, 0, 0))
    right, ahead, up = camera_directions(azimuths - 90.0, elevations).transpose(2, 0, 1)
    ahead = ahead.clip(1e-9)
    inside = (np.abs(right / ahead) <= edge) & (np.abs(up / ahead) <= edge * tallness)
    assert ((kept[0, :, :, 0].numpy() > 0) == inside).mean() > 0.999


def test_a_leaning_strip_is_nearly_what_a_tilted_camera_sees():
    elevations, azimuths = 15 - (np.arange(96) + 0.5) / 1.6, (np.arange(512) + 0.5) / 512 * 360
    seen = camera_directions(azimuths, elevations)
    down = Tilt(pitch_deg=-3.0).to_level  # towards the first column
    rows = (15.0 - np.degrees(np.arcsin((seen @ down.T)[..., 2]))) * 1.6 - 0.5
    strip = torch.arange(96, dtype=torch.uint8)[None, :, None, None].expand(1, 96, 512, 3)
    leaning = lean(strip.contiguous(), np.array([3.0 * 1.6]), np.zeros(1))[0, :, :, 0].numpy()
    assert np.abs(leaning - rows.clip(0, 95)).max() < 1.0  # rows: 0.6 degrees


def test_a_ramp_begins_without_augmentation_and_ends_in_full():
    sure = ("missing_band=1", "limited_view=1", "colour_jitter=0.2", "heading_noise_deg=6")
    ramped, full = recipe(*sure, "ramp_epochs=4"), recipe(*sure)
    arrays = worlds(1)
    first = augment(arrays, 0, ramped, 0, 0)
    assert (first.strip == arrays.strips[0]).all()
    assert first.north == arrays.norths[0]
    for epoch in (4, 9):
        ours, theirs = (
            augment(arrays, 0, changed_recipe, epoch, 0) for changed_recipe in (ramped, full)
        )
        assert (ours.strip == theirs.strip).all()
        assert ours.north == theirs.north
    half = augment(arrays, 0, ramped, 2, 0).north - 0.5
    assert half == pytest.approx((augment(arrays, 0, full, 2, 0).north - 0.5) / 2)


def test_colours_change_separately_in_each_view_and_keep_the_order_of_levels():
    arrays = worlds(1)
    sample = augment(arrays, 0, recipe("colour_jitter=0.2"), 0, 0)
    for old, new in [(arrays.strips[0], sample.strip), (arrays.chips[0], sample.tile)]:
        assert (old != new).any()
        order = np.argsort(old[..., 0].ravel(), kind="stable")
        assert (np.diff(new[..., 0].ravel()[order].astype(int)) >= 0).all()


def test_a_convolution_keeps_each_channel_s_mean_and_spread():
    random = np.random.default_rng(0)
    images = random.integers(60, 190, (3, 20, 30, 3), dtype=np.uint8)
    kernels = random.uniform(-1, 1, (3, 3, 3, 3, 3))
    blend = np.array([0.0, 1.0, 0.4])
    changed = convolve(torch.from_numpy(images.copy()), blend, kernels).numpy()
    assert (changed[0] == images[0]).all()
    for before, after, share, kernel in zip(images, changed, blend, kernels, strict=True):
        levels = np.moveaxis(before.astype(float), -1, 0)
        for channel, own in enumerate(levels):
            weights = zip(levels, kernel[channel], strict=True)
            seen = sum(ndimage.correlate(*pair, mode="nearest") for pair in weights)
            seen = (seen - seen.mean()) / seen.std() * own.std() + own.mean()
            expected = np.clip((1 - share) * own + share * seen, 0, 255)
            assert np.abs(after[..., channel] - expected).max() < 0.7


def test_the_stated_share_of_views_is_convolved_with_different_kernels():
    chosen, pairs = recipe("random_convolution=0.5"), 2000
    uniform = np.random.default_rng(1).random((pairs, sum(draw_counts(chosen).values())))
    found = draw(uniform, chosen, 0, margin=0)
    assert (found.blend > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef((found.blend > 0).T)[0, 1] == pytest.approx(0, abs=0.08)
    around = found.kernels.copy()
    around[..., 1, 1] = 0
    alone = (around == 0).all((2, 3, 4, 5))
    assert alone.mean() == pytest.approx(0.5, abs=0.03)
    assert np.abs(found.kernels.mean()) < 0.01
    assert (found.kernels[:, 0] != found.kernels[:, 1]).any((1, 2, 3, 4)).all()
    arrays = worlds(1)
    none = augment(arrays, 0, recipe(), 0, 0)
    both = augment(arrays, 0, recipe("random_convolution=1"), 0, 0)
    assert (none.strip != both.strip).mean() > 0.5
    assert (none.tile != both.tile).mean() > 0.5


EVERYTHING = ("rotation=joint", "mirror=true", "heading_noise_deg=6", "missing_band=0.5")


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    chosen, arrays = recipe(*EVERYTHING, "colour_jitter=0.2"), worlds(3)
    first = augment(arrays, 1, chosen, 5, 7)
    augment(arrays, 2, chosen, 5, 7)
    again = augment(arrays, 1, chosen, 5, 7)
    assert (first.strip == again.strip).all()
    assert first.north == again.north
    others = [augment(arrays, 1, chosen, 5, 8), augment(arrays, 1, chosen, 6, 7)]
    assert all(first.north != sample.north for sample in others)


def test_each_epoch_shows_each_pair_at_most_once_in_a_new_order():
    chosen, arrays = recipe(*EVERYTHING), worlds(10)
    epochs = [
        list(batches(arrays, chosen, epoch, 0, shuffled(arrays, chosen, epoch, 0)))
        for epoch in range(6)
    ]
    orders = [torch.cat([batch.rows for batch in epoch]).tolist() for epoch in epochs]
    for epoch, taken in zip(epochs, orders, strict=True):
        assert [len(batch.ids) for batch in epoch] == [4, 4]
        assert len(set(taken)) == 8
    assert len({tuple(taken) for taken in orders}) == 6
    assert {i for taken in orders for i in taken} == set(range(10))


def test_a_batch_is_its_samples():
    more = ("offset_m=6", "limited_view=0.5", "colour_jitter=0.2")
    chosen, arrays = recipe(*EVERYTHING, *more), worlds(6, margin=8)
    (batch,) = batches(arrays, chosen, 3, 1, shuffled(arrays, chosen, 3, 1))
    for row, index in enumerate(batch.rows.tolist()):
        sample = augment(arrays, index, chosen, 3, 1)
        assert (batch.strips[row].permute(1, 2, 0).numpy() == sample.strip).all()
        assert (batch.tiles[row].permute(1, 2, 0).numpy() == sample.tile).all()
        assert batch.norths[row].item() == sample.north
        assert (batch.tile_positions[row].numpy() == sample.tile_position).all()


def test_a_resumed_epoch_continues_with_the_next_batch():
    chosen, arrays = recipe(*EVERYTHING), worlds(13)
    whole = list(batches(arrays, chosen, 2, 0, shuffled(arrays, chosen, 2, 0)))
    rest = list(batches(arrays, chosen, 2, 0, shuffled(arrays, chosen, 2, 0), start=1))
    assert [batch.ids.tolist() for batch in rest] == [batch.ids.tolist() for batch in whole[1:]]
    assert all(torch.equal(a.strips, b.strips) for a, b in zip(rest, whole[1:], strict=True))


def test_streets_of_one_tile_are_never_negatives_of_each_other():
    """Rows 0 and 2 share a tile. No position is known, so only the tile number shows this."""
    chosen, arrays = recipe(*EVERYTHING), worlds(4)
    arrays.positions[:] = np.nan
    taken = np.array([3, 2, 1, 0])
    (own,) = batches(arrays, chosen, 0, 0, taken)
    (shared,) = batches(replace(arrays, tiles=np.array([0, 1, 0, 3])), chosen, 0, 0, taken)
    assert own.ids.tolist() == own.rows.tolist() == shared.rows.tolist() == taken.tolist()
    assert (own.ids.dtype, shared.ids.dtype) == (torch.int64, torch.int64)
    masked = same_place(shared.ids, shared.street_positions, shared.ids, shared.tile_positions)
    expected = torch.eye(4, dtype=torch.bool)
    expected[1, 3] = expected[3, 1] = True
    assert torch.equal(masked, expected)
    assert torch.equal(own.strips, shared.strips)
    assert torch.equal(own.tiles, shared.tiles)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["sent by batch", "on the GPU"])
def test_a_gpu_gets_the_batches_of_the_cpu(monkeypatch, share, cuda):
    monkeypatch.setattr(augmentation, "RESIDENT_SHARE", share)
    chosen = recipe(*EVERYTHING, "colour_jitter=0.2", "random_convolution=0.5", "offset_m=6")
    arrays = worlds(6, margin=8)
    taken = shuffled(arrays, chosen, 3, 1)
    images = ImageTensors.of(arrays, cuda)
    assert images.strips.is_cuda == (share > 0)
    (there,) = batches(arrays, chosen, 3, 1, taken, images=images)
    (here,) = batches(arrays, chosen, 3, 1, taken)
    for ours, theirs in zip(there, here, strict=True):
        # One level of a colour: a GPU rounds powers and TF32 convolutions differently.
        torch.testing.assert_close(ours.cpu().double(), theirs.double(), atol=1.0, rtol=1e-12)
    assert there.strips.is_cuda
    assert (there.tiles.cpu() == here.tiles).double().mean() > 0.99
