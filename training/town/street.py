"""The town from the street on one day: a full-sphere panorama from a posed, tilted camera."""

import numpy as np

from model.tilt import Tilt
from training.town.day import Day
from training.town.light import Film, develop, film
from training.town.numba_options import F32, F64, U8, compiled
from training.town.poses import Pose
from training.town.ray_march import draw_level
from training.town.scene import scene
from training.town.town import Town


def render_street(town: Town, pose: Pose, day: Day, size: tuple[int, int] = (512, 1024)) -> U8:
    """uint8 (height, width, 3), equirectangular, full sphere; the centre column looks at
    `pose.heading_deg`, columns run clockwise, the middle row is the horizon before tilt.
    """
    height, width = size
    x, y = town.to_local(pose.east_m, pose.north_m)
    around = scene(town, day, (x, y))
    camera = np.array([x - around.left, y - around.top, pose.camera_height_m])
    sphere = np.zeros((width, height, 3), np.float32)
    draw_level(sphere, camera, float(np.radians(pose.heading_deg)), around)
    out = np.zeros((width, height, 3), np.uint8)
    _expose(sphere, Tilt(pose.pitch_deg, pose.roll_deg).to_level, film(day), out)
    return np.ascontiguousarray(out.transpose(1, 0, 2))


@compiled
def _turned(tilt: F64, up: float, flat: float, sine: float, cosine: float) -> tuple[float, float]:
    """By how many radians the tilt moves a direction: (azimuth, elevation).

    The direction is given by sine (up) and cosine (flat) of its elevation and sine and cosine of
    its azimuth. Tilts are small, so short series do, good to 1e-5 rad below 0.15 rad.
    """
    a, b = flat * sine, flat * cosine
    right = tilt[0, 0] * a + tilt[0, 1] * b + tilt[0, 2] * up
    ahead = tilt[1, 0] * a + tilt[1, 1] * b + tilt[1, 2] * up
    above = tilt[2, 0] * a + tilt[2, 1] * b + tilt[2, 2] * up
    lift = above * flat - np.sqrt(right * right + ahead * ahead) * up  # sine of the change
    lift = lift + lift**3 / 6.0 if abs(lift) < 0.15 else np.arcsin(lift)
    across, onward = right * cosine - ahead * sine, right * sine + ahead * cosine
    turn = across / onward if onward > 0.0 else 9.0  # tangent of the change
    turn = turn - turn**3 / 3.0 if abs(turn) < 0.15 else np.arctan2(across, onward)
    return turn, lift


@compiled
def _expose(sphere: F32, tilt: F64, film: Film, out: U8) -> None:
    """Tilt the level sphere (columns first, linear) into the picture, bilinear, and develop it."""
    width, height = out.shape[0], out.shape[1]
    columns, rows = sphere.shape[0], sphere.shape[1]
    level = tilt[0, 0] == 1.0 and tilt[1, 1] == 1.0 and tilt[2, 2] == 1.0
    per_radian = columns / (2.0 * np.pi)  # twice as wide as high: the same both ways
    elevations = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    ups, flats = np.sin(elevations), np.cos(elevations)
    for col in range(width):
        azimuth = ((col + 0.5) / width - 0.5) * 2.0 * np.pi
        sine, cosine = np.sin(azimuth), np.cos(azimuth)
        for row in range(height):
            fc, fr = (col + 0.5) * columns / width - 0.5, (row + 0.5) * rows / height - 0.5
            if not level:
                turn, lift = _turned(tilt, ups[row], flats[row], sine, cosine)
                fc += turn * per_radian
                fc += columns if fc < -0.5 else -columns if fc >= columns - 0.5 else 0.0
                fr = min(max(fr - lift * per_radian, -0.5), rows - 0.5)
            c, r = int(fc + 1.0) - 1, int(fr + 1.0) - 1  # floor: both are above -1
            x, y = fc - c, fr - r
            c0, c1 = (c if c >= 0 else columns - 1), (c + 1 if c + 1 < columns else 0)
            r0, r1 = max(r, 0), min(r + 1, rows - 1)
            a, b, d, e = (1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y
            p, q, s, t = sphere[c0, r0], sphere[c1, r0], sphere[c0, r1], sphere[c1, r1]
            red = p[0] * a + q[0] * b + s[0] * d + t[0] * e
            green = p[1] * a + q[1] * b + s[1] * d + t[1] * e
            blue = p[2] * a + q[2] * b + s[2] * d + t[2] * e
            develop((red, green, blue), film, 3.0, row, col, out[col, row])
