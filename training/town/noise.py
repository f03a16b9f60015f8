"""Noise as a texture: one tile, made once, read bilinearly by every kernel.

A texture read costs four loads and no hashing, which is what makes the painting kernels fast.
"""

from functools import cache

import numpy as np

from training.town.numba_options import F32, compiled, inlined

SIZE = 512  # texels per side; a power of two, so that wrapping is a mask
CLOUDY, LEAFY = 0, 1  # the two channels: falling spectrum; band around four texels


@cache
def texture() -> F32:
    """(2, SIZE, SIZE) float32, tileable, zero mean, unit variance; the same on every call."""
    white = np.fft.fft2(np.random.default_rng(20240229).standard_normal((SIZE, SIZE)))
    fy, fx = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    f = np.hypot(fx, fy)
    f[0, 0] = np.inf
    spectra = (np.where(f > 2.5 / SIZE, f**-1.45, 0.0), np.exp(-(((f - 0.2) / 0.11) ** 2)))
    tiles = [np.fft.ifft2(white * s).real for s in spectra]
    made = np.stack([(t - t.mean()) / t.std() for t in tiles]).astype(np.float32)
    made.setflags(write=False)
    return made


@inlined
def sample(noise: F32, channel: int, x: float, y: float) -> float:
    """Bilinear, wrapping read at (x, y) in texels."""
    ix, iy = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - ix, y - iy
    x0, x1 = ix & (SIZE - 1), (ix + 1) & (SIZE - 1)
    y0, y1 = iy & (SIZE - 1), (iy + 1) & (SIZE - 1)
    top = noise[channel, y0, x0] * (1.0 - fx) + noise[channel, y0, x1] * fx
    low = noise[channel, y1, x0] * (1.0 - fx) + noise[channel, y1, x1] * fx
    return float(top * (1.0 - fy) + low * fy)


@compiled
def chance(a: int, b: int, c: int) -> float:
    """A number in [0, 1) that depends on three integers and on nothing else."""
    h = (a * 73856093 ^ b * 19349663 ^ c * 83492791) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    h = ((h ^ (h >> 12)) * 0x297A2D39) & 0xFFFFFFFF
    return float(h ^ (h >> 15)) / 4294967296.0
