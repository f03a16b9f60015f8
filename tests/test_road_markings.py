"""The stated scales agree with road markings of known length. Skipped without the images."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from training.data.datasets import cvact, load


def period(levels, start, end, half_width=2.0):
    """Pixels after which levels repeat, at least 5 times from `start` to `end`, (column, row)."""
    start, end = np.array(start, float), np.array(end, float)
    length = np.hypot(*(end - start))
    across = np.array([start[1] - end[1], end[0] - start[0]]) / length
    count = int(4 * length)
    along = np.linspace(start, end, count)
    lines = [along + shift * across for shift in np.linspace(-half_width, half_width, 9)]
    profile = np.mean([map_coordinates(levels, line.T[::-1] - 0.5, order=1) for line in lines], 0)
    tapered = (profile - profile.mean()) * np.hanning(count)
    power = np.abs(np.fft.rfft(tapered, 2**16))
    least = 5 * 2**16 // count
    return 2**16 / (least + np.argmax(power[least:])) * length / count


@pytest.mark.parametrize(("repeat", "angle"), [(19.7, 0.3), (52.9, 2.0)])
def test_a_made_up_line_has_its_period(repeat, angle):
    row, column = np.mgrid[:600, :600] + 0.5
    along = (column - 300) * np.cos(angle) + (row - 300) * np.sin(angle)
    across = (row - 300) * np.cos(angle) - (column - 300) * np.sin(angle)
    levels = 255.0 * ((np.abs(across) < 2) & (along % repeat < repeat / 3))
    ends = 300 + 270 * np.outer([-1, 1], [np.cos(angle), np.sin(angle)])
    assert period(levels, *ends) == pytest.approx(repeat, rel=0.01)


@pytest.mark.parametrize("ends", [((477, 461), (707, 955)), ((637, 482), (847, 927))])
def test_cvact_s_give_way_lines_repeat_every_1_2_m(real, ends):
    """Australia's standard AS 1742.2: 0.6 m painted, 0.6 m not."""
    folder = real / "cvact" / "ANU_data_small" / "satview_polish"
    image = Image.open(folder / "2-6Pro9zN1qOxbFSTigfAg_satView_polish.jpg")
    levels = np.asarray(image.convert("L"), np.float64)
    scale = cvact.METRES_PER_PIXEL_AT_EQUATOR * math.cos(math.radians(35.3))
    assert period(levels, *ends) * scale == pytest.approx(1.2, rel=0.02)


def test_cvusa_s_yellow_lines_repeat_every_40_feet(real):
    """The MUTCD of the United States: 10 feet painted, 30 feet not."""
    pairs = load("cvusa", real / "cvusa", "all")
    (aerial,) = [pair.aerial for pair in pairs if pair.id == "0000021"]
    red, _, blue = np.asarray(Image.open(aerial.path), np.float64).transpose(2, 0, 1)
    repeat_m = period(red - blue, (95, 737), (318, 440)) * aerial.metres_per_pixel
    assert repeat_m == pytest.approx(40 * 0.3048, rel=0.02)
