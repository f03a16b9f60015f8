"""The light of a day: sun and sky as numbers, cast shadows, the sky's colours, and exposure.

Rendering is in linear light with gamma 2 (linear = (sRGB / 255)^2), 2 % off the true sRGB curve
in mid-tones, because a square root is cheap.
"""

from typing import NamedTuple

import numpy as np

from training.town.day import Day
from training.town.noise import CLOUDY, chance, sample
from training.town.numba_options import F32, F64, U8, U16, Triple, compiled, faded, inlined, triple
from training.town.surfaces import CROP, GRASS, LAWN, MATERIALS
from training.town.vegetation import DECIDUOUS, T_RED


class Light(NamedTuple):
    """Linear light; level ground in full sun receives 1."""

    sun: Triple  # unit vector towards it: x east, y south, z up
    direct: Triple  # colours
    diffuse: Triple
    horizon: Triple
    zenith: Triple
    clouds: float  # share of the sky covered
    phase: float  # where in the noise the clouds begin
    haze_m: float


def light(day: Day) -> Light:
    azimuth, elevation = np.radians([day.sun_azimuth_deg, day.sun_elevation_deg])
    level, flat, gray = np.sin(elevation), np.cos(elevation), 1 - day.sunshine
    diffuse = 0.36 + 0.5 * gray
    warm = np.array([1.06, 1.0, 0.9]) if day.sun_elevation_deg < 40 else np.array([1.02, 1.0, 0.95])
    return Light(
        (np.sin(azimuth) * flat, -np.cos(azimuth) * flat, level),
        triple(warm * (1 - diffuse) / max(level, 0.45), 0),
        triple(diffuse * np.array([0.94, 1.0, 1.1]), 0),
        triple(np.array([0.66, 0.74, 0.82]) * (1 - gray) + 0.72 * gray, 0),
        triple(np.array([0.10, 0.22, 0.46]) * (1 - gray) + 0.62 * gray, 0),
        day.clouds,
        day.seed % 509,
        day.haze_m,
    )


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
def shadow_tops(height: U16, crown_top: U16, metres: float, sun: Triple, out: F32) -> None:
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
def dot(a: Triple, b: Triple) -> float:
    """The scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def received(colour: Triple, sky: float, facing: float, light: Light) -> Triple:
    """What a surface sends back: `sky` of the diffuse light, `facing` of the direct."""
    diffuse, direct = light.diffuse, light.direct
    return (
        colour[0] * (diffuse[0] * sky + direct[0] * facing),
        colour[1] * (diffuse[1] * sky + direct[1] * facing),
        colour[2] * (diffuse[2] * sky + direct[2] * facing),
    )


@inlined
def received_from_above(colour: Triple, normal: Triple, lit: float, light: Light) -> Triple:
    """What an upper side sends back; `lit`: share of the sun that reaches it."""
    facing = max(dot(normal, light.sun), 0.0) * lit
    return received(colour, 0.6 + 0.4 * normal[2], facing, light)


@inlined
def sky_colour(light: Light, noise: F32, dx: float, dy: float, dz: float) -> Triple:
    """Linear colour of the sky in a unit direction with dz >= 0."""
    rise = np.sqrt(min(max(dz, 0.0), 1.0))
    r, g, b = faded(light.horizon, light.zenith, rise)
    toward = max(dot((dx, dy, dz), light.sun), 0.0)
    strength = 1.0 - light.clouds * 0.6
    t4 = toward**4
    t64 = t4**16
    glow = (0.10 * t4 * t4 + 0.35 * t64 + 2.5 * t64**16) * strength
    scale = 26.0 / (dz + 0.12)
    phase = light.phase
    puff = sample(noise, CLOUDY, phase + dx * scale, 2 * phase + dy * scale)
    puff += 0.35 * sample(noise, CLOUDY, dx * scale * 4.1, phase + dy * scale * 4.1)
    edge = 2.1 - 3.9 * light.clouds
    cover = min(max((puff - edge) * 0.9, 0.0), 1.0) * min(1.0, 0.25 + dz * 5.0)
    tone = 0.92 - 0.22 * min(max(puff - edge - 0.8, 0.0), 1.0) + 0.15 * t4
    r += (tone - r) * cover + glow
    g += (tone - g) * cover + glow * 0.96
    b += (tone * 1.02 - b) * cover + glow * 0.88
    return r, g, b


class Film(NamedTuple):
    gains: F64  # linear exposure of red, green and blue, then saturation
    curve: U8  # (4096,) byte for sqrt(linear / 1.5) * 4095: contrast
    seed: int  # of the sensor's grain


def film(day: Day) -> Film:
    x = np.sqrt(1.5) * np.arange(4096) / 4095
    curved = 0.45 + (x - 0.45) * day.contrast
    rolled = np.where(curved > 0.85, 0.85 + 0.15 * np.tanh((curved - 0.85) / 0.25), curved)
    gains = np.array([*(day.exposure * w for w in day.white_balance), day.saturation])
    return Film(gains, np.clip(255 * rolled + 0.5, 0, 255).astype(np.uint8), day.seed % 8191)


@inlined
def develop(tone: Triple, film: Film, grain: float, row: int, column: int, pixel: U8) -> None:
    """Linear light to three bytes; `grain` is the range of the sensor's noise in bytes."""
    gains, noise = film.gains, grain * (chance(row, column, film.seed) - 0.5)
    r, g, b = tone[0] * gains[0], tone[1] * gains[1], tone[2] * gains[2]
    gray = 0.3 * r + 0.59 * g + 0.11 * b
    step = 4095.0 / np.sqrt(1.5)
    for k in range(3):
        saturated = gray + (tone[k] * gains[k] - gray) * gains[3]
        i = min(int(np.sqrt(max(saturated, 0.0)) * step + 16.0 * noise), 4095)
        pixel[k] = film.curve[max(i, 0)]
