"""The ground: what each block is used for, its plants, soil and water, and patches laid on top.

Colours are sRGB 0..255 as on a bright day in summer; the day's tint and light come at rendering.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from training.town.layout import Lattice, Street
from training.town.noise import CLOUDY, LEAFY, chance, sample, texture
from training.town.numba_options import F32, F64, U8, Triple, compiled, faded, inlined, span, triple
from training.town.roads import pave
from training.town.solids import Pair, in_frame
from training.town.style import RURAL, Style
from training.town.surfaces import CROP, GRASS, GRAVEL, LAWN, PAVED, ROAD, SOIL, WATER, Canvas

HOMES, SHOPS, PARK, MEADOW, FIELD, FOREST = range(6)  # land uses

_GRID_M = 4.0  # pitch of the coarse raster of block coordinates
_PATH_WIDTH = 0.035  # of a park's winding path, in units of the noise it is a contour of


class _Blocks(NamedTuple):
    nodes: F32  # (N, N, 2) block coordinates every _GRID_M metres
    uses: U8
    first: int  # index of the first block in `uses`
    spacing: Pair  # metres of a block, along and across
    river: tuple[
        float, ...
    ]  # x, y, angle, amplitude, wave number, half width: negative for no river


@dataclass(frozen=True)
class Ground:
    """What lies on the ground, and what later placement needs to know about it."""

    canvas: Canvas
    clearance_m: F32  # at 1 m pitch: metres to the nearest carriageway, negative on it
    blocks: _Blocks
    grid: Lattice

    def use_at(self, points: F64) -> U8:
        """Land use at points (N, 2)."""
        i = np.floor(self.grid.to_nodes(points)).astype(int) - self.blocks.first
        i = np.clip(i, 0, self.blocks.uses.shape[0] - 1)
        return np.asarray(self.blocks.uses[i[:, 0], i[:, 1]])

    def at_metres(self, raster: U8) -> U8:
        """A full raster at the 1 m pitch of `clearance_m`."""
        pitch, n = round(raster.shape[0] / self.clearance_m.shape[0]), self.clearance_m.shape[0]
        return raster[pitch // 2 :: pitch, pitch // 2 :: pitch][:n, :n]


def land_uses(size_m: float, style: Style, grid: Lattice, seed: int) -> tuple[U8, int]:
    """(table of land uses by block, index of its first block): shops cluster, open land outside."""
    rng = np.random.default_rng([seed, 4])
    reach = int(np.ceil(size_m / min(style.spacing))) + 2
    index = np.arange(-reach, reach + 1) + 0.5
    blocks: F64 = np.stack(np.meshgrid(index, index, indexing="ij"), -1)
    centre = rng.uniform(0.25, 0.75, 2) * size_m
    away = np.hypot(*(grid.to_metres(blocks) - centre).transpose(2, 0, 1)) / size_m
    shops = style.centre * np.exp(-((away / 0.22) ** 2))
    open_land = np.clip(style.open_land * (0.6 + 0.8 * away), 0, 0.97)
    draw = rng.uniform(size=away.shape)
    kinds = (PARK, MEADOW, FIELD, FOREST)
    shares = (0.05, 0.3, 0.42, 0.23) if style.pattern == RURAL else (0.45, 0.2, 0.1, 0.25)
    wild = rng.choice(kinds, size=away.shape, p=shares)
    uses = np.where(draw < shops, SHOPS, np.where(draw > 1 - open_land, wild, HOMES))
    return uses.astype(np.uint8), -reach


def paint_ground(
    size: int, metres: float, style: Style, grid: Lattice, lines: list[Street], seed: int
) -> Ground:
    """Land, water and roads of a town of size x size pixels."""
    rng = np.random.default_rng([seed, 5])
    uses, first = land_uses(size * metres, style, grid, seed)
    pitch = np.arange(int(size * metres / _GRID_M) + 2) * _GRID_M
    nodes = grid.to_nodes(np.stack(np.meshgrid(pitch, pitch), -1)).astype(np.float32)
    colour = np.zeros((size, size, 3), np.uint8)
    material = np.zeros((size, size), np.uint8)
    tones = np.array([style.grass, style.dirt, *style.crops], np.float32)
    grass, dirt, *crops = (triple(tone, 0) for tone in tones)
    canvas = Canvas(colour, material, metres, grass, dirt, tuple(crops), texture(), seed % 9973)
    spacing, river = np.array(style.spacing, np.float32).tolist(), _river(size * metres, rng)
    blocks = _Blocks(nodes, uses, first, tuple(spacing), river)
    _land(canvas, blocks)
    edge = pave(canvas, style, lines, rng)
    step = max(1, round(1 / metres))
    clearance = edge[step // 2 :: step, step // 2 :: step].copy()
    return Ground(canvas, clearance, blocks, grid)


def _river(size_m: float, rng: np.random.Generator) -> tuple[float, ...]:
    half = rng.uniform(2, 11) if rng.uniform() < 0.45 else -1.0
    x, y = rng.uniform(0.2, 0.8, 2) * size_m
    angle, amplitude, wave = rng.uniform(0, np.pi), rng.uniform(10, 45), rng.uniform(180, 420)
    return x, y, angle, amplitude, 2 * np.pi / wave, half


@inlined
def _node(nodes: F32, x: float, y: float) -> tuple[float, float]:
    """Block coordinates at (x, y), bilinear between the coarse grid's points."""
    gx, gy = x / _GRID_M, y / _GRID_M
    c, r = int(gx), int(gy)
    fx, fy = gx - c, gy - r
    a, b = (1 - fx) * (1 - fy), fx * (1 - fy)
    d, e = (1 - fx) * fy, fx * fy
    i = nodes[r, c, 0] * a + nodes[r, c + 1, 0] * b
    j = nodes[r, c, 1] * a + nodes[r, c + 1, 1] * b
    i += nodes[r + 1, c, 0] * d + nodes[r + 1, c + 1, 0] * e
    j += nodes[r + 1, c, 1] * d + nodes[r + 1, c + 1, 1] * e
    return i, j


@inlined
def _field(
    canvas: Canvas, blocks: _Blocks, i: float, j: float, pick: float
) -> tuple[Triple, float, int]:
    """A field, half a block: (colour, shade of its furrows, material)."""
    half, block = int(np.floor(2.0 * i)), int(np.floor(j))
    line = j * blocks.spacing[1] if pick < 0.5 else i * blocks.spacing[0]
    period = 0.8 + 2.4 * chance(half, block, 6)
    shade = 0.88 + 0.2 * abs((line / period) % 1.0 - 0.5) * 2.0
    crop = chance(half, block + canvas.seed, 5)
    tone = canvas.grass if crop >= 0.85 else canvas.crops[int(crop >= 0.3) + int(crop >= 0.55)]
    return tone, shade, (SOIL if crop < 0.3 else CROP)


@inlined
def _cover(
    canvas: Canvas, blocks: _Blocks, use: int, x: float, y: float, i: float, j: float, wide: float
) -> tuple[Triple, float, int]:
    """What grows or lies in a block: (colour, shade, material)."""
    grass, noise = canvas.grass, canvas.noise
    mid = sample(noise, CLOUDY, 150 + x * 9.0, y * 9.0)
    fine = sample(noise, LEAFY, x * 2.3, y * 2.3)
    shade = 1.0 + 0.07 * wide + 0.06 * mid + 0.05 * fine
    pick = chance(int(np.floor(2.0 * i)) + canvas.seed, int(np.floor(j)), 3)
    if use == PARK:
        contour = sample(noise, CLOUDY, 77 + x * 0.9, 31 + y * 0.9)
        if abs(contour) < _PATH_WIDTH and pick < 0.8:
            return (178.0, 164.0, 140.0), shade, GRAVEL
        return (grass[0], grass[1] * 1.06, grass[2]), shade, LAWN
    if use == SHOPS:
        return ((138.0, 134.0, 128.0), shade, PAVED) if pick < 0.7 else (grass, shade, LAWN)
    if use == MEADOW:
        shrubs = 0.65 if fine + 0.8 * mid > 1.1 else 1.0
        bare = min(max(0.5 * (wide - 0.9), 0.0), 0.8)
        tuft = (grass[0] * shrubs, grass[1] * shrubs, grass[2] * shrubs)
        return faded(tuft, canvas.dirt, bare), shade, GRASS
    if use == FIELD:
        colour, furrow, kind = _field(canvas, blocks, i, j, pick)
        return colour, shade * furrow, kind
    if use == FOREST:
        return (grass[0] * 0.72, grass[1] * 0.74, grass[2] * 0.7), shade + 0.08 * fine, GRASS
    return grass, shade, GRASS


@inlined
def _bank(
    blocks: _Blocks, use: int, x: float, y: float, i: float, j: float, wide: float, seed: int
) -> float:
    """Metres to the nearest water, negative in it; 99 or so where there is none near."""
    bank, river, spacing = 99.0, blocks.river, blocks.spacing
    if river[5] > 0.0:
        east, south = x - river[0], y - river[1]
        along = east * np.cos(river[2]) + south * np.sin(river[2])
        across = south * np.cos(river[2]) - east * np.sin(river[2])
        bank = abs(across - river[3] * np.sin(river[4] * along)) - river[5] * (1.0 + 0.2 * wide)
    bi, bj = int(np.floor(i)), int(np.floor(j))
    if use in (PARK, MEADOW) and chance(bi, bj + seed, 8) < 0.4:  # a pond in the block's middle
        away = np.hypot((i - bi - 0.5) * spacing[0], 0.7 * (j - bj - 0.5) * spacing[1])
        size = (0.12 + 0.13 * chance(bi, bj, 9)) * min(spacing[0], spacing[1])
        bank = min(bank, away - size * (1.0 + 0.22 * wide))
    return float(bank)


@compiled
def _land(canvas: Canvas, blocks: _Blocks) -> None:
    """Paint every pixel with its block's cover, or with water."""
    # A field costs time in a loop.
    colour, material, noise, metres = canvas.colour, canvas.material, canvas.noise, canvas.metres
    nodes, uses, first = blocks.nodes, blocks.uses, blocks.first
    last = uses.shape[0] - 1
    for r in range(material.shape[0]):
        y = (r + 0.5) * metres
        for c in range(material.shape[1]):
            x = (c + 0.5) * metres
            i, j = _node(nodes, x, y)
            row, column = int(np.floor(i)) - first, int(np.floor(j)) - first
            use = uses[min(max(row, 0), last), min(max(column, 0), last)]
            wide = sample(noise, CLOUDY, x * 1.3, y * 1.3)
            tone, shade, kind = _cover(canvas, blocks, use, x, y, i, j, wide)
            bank = _bank(blocks, use, x, y, i, j, wide, canvas.seed)
            if bank < 0.0:
                deep = min(-bank / 4.0, 1.0)
                tone, shade, kind = (78 - 24 * deep, 88 - 22 * deep, 78 - 12 * deep), 1.0, WATER
            elif bank < 1.2:
                tone, kind = faded(tone, (124.0, 112.0, 92.0), 0.5), SOIL
            material[r, c] = kind
            for k in range(3):
                colour[r, c, k] = min(max(tone[k] * shade, 0.0), 255.0)


@compiled
def stamp_patches(patches: F32, canvas: Canvas) -> None:
    """Lay rectangles, rows (x, y, ux, uy, half_u, half_v, r, g, b, material, lines), off the roads.

    `lines` > 0 draws white bay lines across u at that pitch in metres (parking), < 0 mown stripes.
    """
    colour, material, metres = canvas.colour, canvas.material, canvas.metres
    for i in range(patches.shape[0]):
        p = patches[i]
        reach = np.hypot(p[4], p[5])
        r0, r1 = span(p[1] - reach, p[1] + reach, metres, material.shape[0])
        c0, c1 = span(p[0] - reach, p[0] + reach, metres, material.shape[1])
        for r in range(r0, r1):
            for c in range(c0, c1):
                if material[r, c] == ROAD or material[r, c] == WATER:
                    continue
                x, y = (c + 0.5) * metres, (r + 0.5) * metres
                u, v = in_frame(p, x, y)
                cover = min(max(min(p[4] - abs(u), p[5] - abs(v)) / metres + 0.5, 0.0), 1.0)
                if cover == 0.0:
                    continue
                shade = 1.0 + 0.035 * sample(canvas.noise, CLOUDY, x * 11.0, y * 11.0)
                painted = p[10] > 0 and abs(u % p[10] - 0.5 * p[10]) < 0.12 and 3.0 < abs(v) < 8.0
                if p[10] < 0 and u % 2.4 < 1.2:
                    shade *= 1.0 + p[10]
                for k in range(3):
                    tone = 212.0 if painted else p[6 + k] * shade
                    mixed = colour[r, c, k] + (tone - colour[r, c, k]) * cover
                    colour[r, c, k] = min(max(mixed, 0.0), 255.0)
                if cover >= 0.5:
                    material[r, c] = int(p[9])
