import math

import numpy as np
import pytest
import torch
from pair_samples import World

from model.panorama import Band
from model.polar import ground_plane_projection, inverse_polar_transform

SIZES = [
    (224, 1232, 288),
    (96, 512, 128),
    (33, 64, 30),
]  # an odd size has a centre pixel, which no quarter turn moves


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def literal_transform(panorama, size):
    """Eq. 1 and 2, y_s upward, one pixel at a time in Python floats."""
    channels, height, width = panorama.shape
    result = np.empty((channels, size, size))
    for row, column in np.ndindex(size, size):
        x_t, y_t = column - (size - 1) / 2, row - (size - 1) / 2
        y_s = math.sqrt(2) * height / size * math.sqrt(x_t**2 + y_t**2)
        x_s = width / (2 * math.pi) * math.atan2(y_t, x_t) % width
        v = min(max(height - 1 - y_s, 0), height - 1)
        top, left = int(v), int(x_s)
        v, u = v - top, x_s - left
        below, right = min(top + 1, height - 1), (left + 1) % width
        upper = (1 - u) * panorama[:, top, left % width] + u * panorama[:, top, right]
        lower = (1 - u) * panorama[:, below, left % width] + u * panorama[:, below, right]
        result[:, row, column] = (1 - v) * upper + v * lower
    return result


@pytest.mark.parametrize(("height", "width", "size"), [(20, 44, 24), (13, 32, 17), (9, 30, 40)])
def test_north_at_three_quarters_gives_the_paper_s_equations(height, width, size):
    panorama = noise(2, height, width).double()
    ours = inverse_polar_transform(panorama, size, north=0.75)
    np.testing.assert_allclose(ours, literal_transform(panorama.numpy(), size), atol=1e-9)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_a_quarter_turn_of_the_panorama_is_a_quarter_turn_of_the_view(height, width, size):
    panorama = noise(3, height, width)
    view = inverse_polar_transform(panorama, size)
    turned = inverse_polar_transform(panorama.roll(-width // 4, -1), size)
    torch.testing.assert_close(turned, view.rot90(1, (-2, -1)), atol=1e-3, rtol=0)
    stated = inverse_polar_transform(panorama, size, north=0.75)
    torch.testing.assert_close(stated, turned, atol=1e-3, rtol=0)


def test_ground_is_in_the_middle_and_the_top_row_in_the_corners():
    rows = torch.linspace(0, 1, 16)[None, :, None].expand(1, 16, 64)  # 1 at the bottom
    view = inverse_polar_transform(rows, 33)[0]
    assert view[16, 16] == 1
    assert view[[0, 0, -1, -1], [0, -1, 0, -1]].abs().max() == 0
    outward = view[16, 16:]
    assert (outward.diff() < 0).all()


@pytest.mark.parametrize("seen_at", [0.0, 0.25, 0.5, 0.75])
def test_compass(seen_at):
    """The columns of north, east, south and west are drawn up, right, down and left."""
    panorama = torch.zeros(1, 32, 64)
    panorama[..., round(seen_at * 64)] = 1
    view = inverse_polar_transform(panorama, 65, north=0.5)[0]
    edges = {0.5: view[8, 32], 0.75: view[32, 56], 0.0: view[56, 32], 0.25: view[32, 8]}
    assert max(edges, key=edges.get) == seen_at
    assert edges[seen_at] == pytest.approx(1)


@pytest.mark.parametrize("north", [0.0, 0.1, 0.5, 0.999])
def test_the_seam_is_invisible(north):
    """A wave of one period around the horizon stays this wave, to bilinear precision."""
    wave = torch.cos(2 * math.pi * torch.arange(256) / 256)
    view = inverse_polar_transform(wave.expand(1, 64, 256), 129, north=north)[0]
    offsets = torch.arange(129) - 64.0
    dy, dx = torch.meshgrid(offsets, offsets, indexing="ij")
    expected = torch.cos(torch.atan2(dy, dx) + 2 * math.pi * (north - 0.75))
    expected[64, 64] = view[64, 64]  # all headings meet in the centre
    torch.testing.assert_close(view, expected, atol=2e-4, rtol=0)


def test_gradient_flows():
    panorama = noise(1, 4, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: inverse_polar_transform(p, 7, north=0.3), panorama)
    inverse_polar_transform(panorama, 64).sum().backward()
    assert (panorama.grad > 0).all()


def test_each_sample_has_its_own_north_and_leading_dimensions_are_free():
    panoramas, norths = noise(2, 3, 1, 12, 32), torch.tensor([[0.5, 0.1, 0.9], [0.0, 0.25, 1.7]])
    together = inverse_polar_transform(panoramas, 16, north=norths)
    for i, j in np.ndindex(2, 3):
        alone = inverse_polar_transform(panoramas[i, j], 16, north=float(norths[i, j]))
        assert torch.equal(together[i, j], alone)


def test_grids_made_in_inference_mode_do_not_break_training():
    with torch.inference_mode():
        inverse_polar_transform(noise(1, 4, 8), 11)
    panorama = noise(1, 4, 8).requires_grad_()
    inverse_polar_transform(panorama, 11).sum().backward()
    assert panorama.grad is not None


def test_ground_plane_undoes_the_perspective_of_flat_ground():
    world = World(3)
    strip = torch.from_numpy(world.panorama(512, 1024)[256:]).permute(2, 0, 1).double()
    view = ground_plane_projection(
        strip, 64, band=Band(0, -90), span_m=24.0, camera_height_m=2.0, north=0.5
    )
    error = (view - torch.from_numpy(world.tile(64, 24.0)).permute(2, 0, 1)).abs()
    assert error.mean() < 1.0
    assert error.max() < 6.0


def test_a_marker_lands_at_its_azimuth_and_range():
    heading, away, camera = 120.0, 9.0, 2.5
    strip = torch.zeros(1, 450, 720)  # band 0 to -45: 10 rows a degree; 2 columns a degree
    row = round(math.degrees(math.atan(camera / away)) * 10 - 0.5)
    strip[0, row - 2 : row + 3, round((heading / 360 + 0.5) * 720) % 720] = 1
    view = ground_plane_projection(
        strip, 101, band=Band(0, -45), span_m=30.3, camera_height_m=camera
    )[0]
    y, x = divmod(int(view.argmax()), 101)
    metres = (x - 50) * 0.3, (50 - y) * 0.3
    east, north = away * math.sin(math.radians(heading)), away * math.cos(math.radians(heading))
    assert metres == pytest.approx((east, north), abs=0.4)
