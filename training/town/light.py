"""The light of a day: sun and sky as numbers, cast shadows, the sky's colours, and exposure.

Rendering is in linear light with gamma 2 (linear = (sRGB / 255)^2), 2 % off the true sRGB curve
in mid-tones, because a square root is cheap.
"""

import numpy as np

from training.town.day import Day
from training.town.noise import CLOUDY, sample
from training.town.numba_options import F32, F64, U8, U16, Triple, compiled, faded, inlined, triple
from training.town.surfaces import CROP, GRASS, LAWN, MATERIALS
from training.town.vegetation import DECIDUOUS, T_RED

# Entries of the light vector: direction to the sun (x east, y south, z up), direct and diffuse
# colour, horizon and zenith colour, cloud cover and its phase, haze length.
SUN, DIRECT, DIFFUSE, HORIZON, ZENITH = 0, 3, 6, 9, 12
COVER, PHASE, HAZE, LEAVES = 15, 16, 17, 18
LENGTH = 19


def light(day: Day) -> F64:
    """The light vector of a day; level ground in full sun receives 1."""
    made = np.zeros(LENGTH)
    azimuth, elevation = np.radians([day.sun_azimuth_deg, day.sun_elevation_deg])
    level = np.sin(elevation)
    flat = np.cos(elevation)
    made[SUN : SUN + 3] = np.sin(azimuth) * flat, -np.cos(azimuth) * flat, level
    diffuse = 0.36 + 0.5 * (1 - day.sunshine)
    warm = np.array([1.06, 1.0, 0.9]) if day.sun_elevation_deg < 40 else np.array([1.02, 1.0, 0.95])
    made[DIRECT : DIRECT + 3] = warm * (1 - diffuse) / max(level, 0.45)
    made[DIFFUSE : DIFFUSE + 3] = diffuse * np.array([0.94, 1.0, 1.1])
    gray = 1 - day.sunshine
    made[HORIZON : HORIZON + 3] = np.array([0.66, 0.74, 0.82]) * (1 - gray) + 0.72 * gray
    made[ZENITH : ZENITH + 3] = np.array([0.10, 0.22, 0.46]) * (1 - gray) + 0.62 * gray
    made[[COVER, PHASE, HAZE, LEAVES]] = (day.clouds, day.seed % 509, day.haze_m, day.leaves)
    return made


def ground_tints(day: Day) -> F32:
    """(MATERIALS, 3) linear factors of the season."""
    tints = np.ones((MATERIALS, 3), np.float32)
    tints[[GRASS, LAWN, CROP]] = np.square(day.grass_tint)
    return tints


def leaf_colours(trees: F32, day: Day) -> F32:
    """(M, 4) linear colour of each tree's leaves on that day, and how full its crown is."""
    colour = np.square(np.clip(trees[:, T_RED : T_RED + 3], 10, 240) / 255)
    sheds = trees[:, DECIDUOUS : DECIDUOUS + 1] > 0
    # In autumn every tree turns by its own amount, from 0.3 to 1.3 of the day's tint.
    turn = 0.3 + np.modf(trees[:, 7:8] * np.float32(0.618))[0]
    colour = np.where(sheds, colour * np.power(np.square(day.leaf_tint), turn), colour)
    full = np.where(sheds, day.leaves, 1.0)
    return np.concatenate([colour, full], axis=1).astype(np.float32)


@compiled
def shadow_tops(height: U16, crown_top: U16, metres: float, sun: F64, out: F32) -> None:
    """out: metres up to which each cell lies in shadow or solid, by one sweep away from the sun.

    Linear interpolation between the two upwind cells softens long shadows by about a cell.
    """
    rows, columns = height.shape
    sx, sy, sz = sun[0], sun[1], sun[2]
    by_row = abs(sy) >= abs(sx)
    outer, inner = (rows, columns) if by_row else (columns, rows)
    main, cross = (sy, sx) if by_row else (sx, sy)
    shift = cross / abs(main)
    drop = np.float32(metres * np.sqrt(1.0 + shift * shift) * sz / np.sqrt(sx * sx + sy * sy))
    whole = int(np.floor(shift))
    part = np.float32(shift - whole)
    for k in range(outer):
        i = k if main < 0 else outer - 1 - k
        up = i - 1 if main < 0 else i + 1
        for j in range(inner):
            r, c = (i, j) if by_row else (j, i)
            top = np.float32(0.01) * max(height[r, c], crown_top[r, c])
            a, b = j + whole, j + whole + 1
            if k > 0 and a >= 0 and b < inner:
                if by_row:
                    incoming = out[up, a] * (1 - part) + out[up, b] * part
                else:
                    incoming = out[a, up] * (1 - part) + out[b, up] * part
                top = max(top, incoming - drop)
            out[r, c] = top


@compiled
def linear(colour: Triple) -> Triple:
    """sRGB 0..255 to linear 0..1, by gamma 2."""
    return (colour[0] / 255.0) ** 2, (colour[1] / 255.0) ** 2, (colour[2] / 255.0) ** 2


@inlined
def received(colour: Triple, sky: float, facing: float, light: F64) -> Triple:
    """What a surface sends back: `sky` of the diffuse light, `facing` of the direct."""
    return (
        colour[0] * (light[DIFFUSE] * sky + light[DIRECT] * facing),
        colour[1] * (light[DIFFUSE + 1] * sky + light[DIRECT + 1] * facing),
        colour[2] * (light[DIFFUSE + 2] * sky + light[DIRECT + 2] * facing),
    )


@inlined
def sunward(light: F64, x: float, y: float, z: float) -> float:
    """Cosine of the angle between a unit vector and the sun."""
    return x * light[SUN] + y * light[SUN + 1] + z * light[SUN + 2]


@inlined
def received_from_above(colour: Triple, normal: Triple, lit: float, light: F64) -> Triple:
    """What an upper side sends back; `lit`: share of the sun that reaches it."""
    facing = max(sunward(light, normal[0], normal[1], normal[2]), 0.0) * lit
    return received(colour, 0.6 + 0.4 * normal[2], facing, light)


@inlined
def sky_colour(light: F64, noise: F32, dx: float, dy: float, dz: float) -> Triple:
    """Linear colour of the sky in a unit direction with dz >= 0."""
    rise = np.sqrt(min(max(dz, 0.0), 1.0))
    r, g, b = faded(triple(light, HORIZON), triple(light, ZENITH), rise)
    toward = max(sunward(light, dx, dy, dz), 0.0)
    strength = 1.0 - light[COVER] * 0.6
    t4 = toward**4
    t64 = t4**16
    glow = (0.10 * t4 * t4 + 0.35 * t64 + 2.5 * t64**16) * strength
    scale = 26.0 / (dz + 0.12)
    phase = light[PHASE]
    puff = sample(noise, CLOUDY, phase + dx * scale, 2 * phase + dy * scale)
    puff += 0.35 * sample(noise, CLOUDY, dx * scale * 4.1, phase + dy * scale * 4.1)
    edge = 2.1 - 3.9 * light[COVER]
    cover = min(max((puff - edge) * 0.9, 0.0), 1.0) * min(1.0, 0.25 + dz * 5.0)
    tone = 0.92 - 0.22 * min(max(puff - edge - 0.8, 0.0), 1.0) + 0.15 * t4
    r += (tone - r) * cover + glow
    g += (tone - g) * cover + glow * 0.96
    b += (tone * 1.02 - b) * cover + glow * 0.88
    return r, g, b


def tone_curve(day: Day) -> U8:
    """(4096,) byte for sqrt(linear / 1.5) * 4095: exposure is applied before, contrast here."""
    x = np.sqrt(1.5) * np.arange(4096) / 4095
    curved = 0.45 + (x - 0.45) * day.contrast
    rolled = np.where(curved > 0.85, 0.85 + 0.15 * np.tanh((curved - 0.85) / 0.25), curved)
    return np.asarray(np.clip(255 * rolled + 0.5, 0, 255).astype(np.uint8))


def gains(day: Day) -> F64:
    """Linear exposure of red, green and blue, then saturation."""
    return np.array([*(day.exposure * w for w in day.white_balance), day.saturation])


@inlined
def develop(tone: Triple, gains: F64, curve: U8, grain: float, pixel: U8) -> None:
    """Linear light to three bytes; `grain` is sensor noise in units of the byte."""
    r, g, b = tone[0] * gains[0], tone[1] * gains[1], tone[2] * gains[2]
    gray = 0.3 * r + 0.59 * g + 0.11 * b
    step = 4095.0 / np.sqrt(1.5)
    for k in range(3):
        saturated = gray + (tone[k] * gains[k] - gray) * gains[3]
        i = min(int(np.sqrt(max(saturated, 0.0)) * step + 16.0 * grain), 4095)
        pixel[k] = curve[max(i, 0)]
