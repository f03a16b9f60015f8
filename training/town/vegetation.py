"""Trees and bushes: where they grow, and the canopy layer (a slab of leaves above its trunk)."""

import numpy as np

from training.town import solids as box
from training.town.ground import FIELD, FOREST, HOMES, MEADOW, PARK, SHOPS, Ground
from training.town.layout import LANE, Street
from training.town.noise import CLOUDY, LEAFY, sample, texture
from training.town.numba_options import F32, F64, U16, Flags, Triple, compiled, inlined, span
from training.town.solids import solid
from training.town.style import Style
from training.town.surfaces import PAVED, WATER

# Columns of the table of trees.
TX, TY, RADIUS, CROWN_TOP, CROWN_BASE, SHAPE, DECIDUOUS, T_SEED, T_RED = range(9)
ROUND, CONE, BUSH = range(3)

_PITCH_M = 3.0  # of the jittered grid of places where a tree might grow
# Trees per place, by land use, before the style's factor and the clumping.
_DENSITY = {HOMES: 0.06, SHOPS: 0.03, PARK: 0.10, MEADOW: 0.03, FIELD: 0.002, FOREST: 0.42}


def grow(
    lines: list[Street], ground: Ground, taken: Flags, style: Style, seed: int
) -> tuple[F32, list[F32]]:
    """(table of trees, rows of their trunks). `taken` is the 1 m raster of plots and roads."""
    rng = np.random.default_rng([seed, 7])
    wild, lined = _wild_places(ground, taken, style, rng), _lined_places(lines, taken, style, rng)
    places = np.concatenate([wild, lined])
    street_tree = np.arange(len(places)) >= len(wild)
    table = _table(places, street_tree, ground, style, rng)
    c, r = _cells(places, taken)
    over_road = table[:, RADIUS] > ground.clearance_m[r, c] - 0.3
    low = over_road & (table[:, CROWN_BASE] < 3.4) & (table[:, SHAPE] == ROUND)
    table[low, CROWN_TOP] += 3.6 - table[low, CROWN_BASE]
    table[low, CROWN_BASE] = 3.6  # a camera on the road never stands in leaves
    keep = ~over_road | (table[:, SHAPE] == ROUND)
    table = table[keep][:60000]
    return table, [_trunk(t) for t in table if t[SHAPE] == ROUND]


def _trunk(tree: F32) -> F32:
    """A post up into the crown."""
    x, y, radius, top, base, seed = (
        float(tree[k]) for k in (TX, TY, RADIUS, CROWN_TOP, CROWN_BASE, T_SEED)
    )
    bark, half = 20 * (seed % 3), 0.05 + 0.035 * radius
    colour = (92 + bark, 78 + bark, 66 + 0.9 * bark)
    height = base + 0.3 * (top - base)
    return solid(x, y, (1, 0), (half, half), height, box.TRUNK, colour, seed=int(seed))


def _cells(places: F64, raster: Flags) -> tuple[np.ndarray, np.ndarray]:
    """(columns, rows) of places in a 1 m raster."""
    c, r = np.clip(places.astype(int), 0, raster.shape[0] - 1).T
    return c, r


def _wild_places(ground: Ground, taken: Flags, style: Style, rng: np.random.Generator) -> F64:
    size = taken.shape[0]
    axis = np.arange(1.5, size - 1.5, _PITCH_M)
    places = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    places = places + rng.uniform(-1.4, 1.4, places.shape)
    density = np.zeros(256)
    density[list(_DENSITY)] = list(_DENSITY.values())
    density *= style.trees
    density[[MEADOW, FIELD]] += style.scrub, 0.2 * style.scrub
    noise = texture()[CLOUDY]
    i = (places * 1.7).astype(int) % noise.shape[0]
    clump = np.exp(0.9 * noise[i[:, 1], i[:, 0]])
    wanted = density[ground.use_at(places)] * clump
    c, r = _cells(places, taken)
    kind = ground.at_metres(ground.canvas.material)[r, c]
    allowed = (kind != WATER) & (kind != PAVED) & ~taken[r, c]
    return np.asarray(places[allowed & (rng.uniform(size=len(places)) < wanted)])


def _lined_places(lines: list[Street], taken: Flags, style: Style, rng: np.random.Generator) -> F64:
    """Rows of trees along some streets, on the verge."""
    found = [np.zeros((0, 2))]
    for street in lines:
        lined = rng.uniform() < style.street_trees * (0.4 if street.rank == LANE else 1)
        gap, offset = rng.uniform(7, 22), street.half_m + rng.uniform(1.4, 4.5)
        if not lined or street.length_m < 2 * gap:
            continue
        for side in (-1, 1):
            s = np.arange(gap / 2, street.length_m, gap)
            s = s[rng.uniform(size=len(s)) < 0.8]
            if len(s):
                found.append(street.at(s + rng.normal(0, 1, len(s)), side * offset)[0])
    places = np.concatenate(found)
    inside = np.all((places > 1) & (places < taken.shape[0] - 1), axis=1)
    places = places[inside]
    c, r = _cells(places, taken)
    return np.asarray(places[~taken[r, c]])


def _table(
    places: F64, street_tree: Flags, ground: Ground, style: Style, rng: np.random.Generator
) -> F32:
    n = len(places)
    use = ground.use_at(places)
    draw = rng.uniform(size=n)
    shape = np.where(draw < style.conifers, CONE, ROUND)
    bushy = np.where(np.isin(use, (MEADOW, HOMES)), 0.45, 0.1)
    shape = np.where((rng.uniform(size=n) < bushy) & ~street_tree, BUSH, shape)
    shape = np.where(street_tree, ROUND, shape)
    size = style.tree_size * rng.lognormal(0, 0.28, n)
    radius = size * np.choose(shape, [3.1, 1.9, 1.0])
    top = size * np.choose(shape, [8.0, 9.5, 1.6]) * rng.uniform(0.8, 1.25, n)
    base = np.where(shape == ROUND, top * rng.uniform(0.16, 0.36, n), 0.2)
    leaves = np.array(style.leaves)
    species = rng.integers(0, len(leaves), n)
    common = rng.integers(0, len(leaves))  # half the trees of a town are of one kind
    species = np.where(rng.uniform(size=n) < 0.5, common, species)
    leaf = leaves[species] * rng.normal(1, 0.09, (n, 1)) + rng.normal(0, 4, (n, 3))
    leaf = np.where((shape == CONE)[:, None], leaf * (0.72, 0.8, 0.9), leaf)
    deciduous = (shape == ROUND) & (rng.uniform(size=n) > 0.7 * style.evergreen)
    seeds = rng.integers(0, 65536, n)
    columns = [places[:, 0], places[:, 1], radius, top, base, shape, deciduous, seeds, *leaf.T]
    return np.stack(columns, 1).astype(np.float32)


@inlined
def crown_slab(t: F32, dx: float, dy: float, noise: F32) -> Triple:
    """(lower, upper, reach) of a crown at (dx, dy) metres from its trunk: metres above ground, and
    the distance from the trunk as a share of the crown's lobed outline (1 or more: outside).
    """
    phase = t[T_SEED] * 0.37
    wobble = sample(noise, CLOUDY, phase + dx * 16.0, dy * 16.0)
    lobe = sample(noise, LEAFY, phase + dx * 2.2, 50.0 + dy * 2.2)
    reach = np.sqrt(dx * dx + dy * dy) / (t[RADIUS] * (1.0 + 0.14 * wobble + 0.07 * lobe))
    if reach >= 1.0:
        return 0.0, 0.0, reach
    height = t[CROWN_TOP] - t[CROWN_BASE]
    if t[SHAPE] == CONE:
        return t[CROWN_BASE] + 0.3 * reach, t[CROWN_BASE] + height * (1.0 - reach), reach
    middle = 0.5 * (t[CROWN_TOP] + t[CROWN_BASE])
    bulge = 0.5 * height * np.sqrt(1.0 - reach * reach)
    return middle - bulge * (0.9 + 0.1 * lobe), middle + bulge * (1.0 + 0.07 * lobe), reach


@compiled
def stamp_crowns(trees: F32, metres: float, top: U16, base: U16, tree: U16, noise: F32) -> None:
    """Write each crown's upper and lower surface (cm) and its row + 1; the higher crown wins.

    A rim one cell wide carries the row without a surface, for renderers that ask crown_slab.
    """
    for i in range(trees.shape[0]):
        t = trees[i]
        bound = t[RADIUS] * 1.35
        rim = 1.0 + 1.2 * metres / t[RADIUS]
        r0, r1 = span(t[TY] - bound, t[TY] + bound, metres, tree.shape[0])
        c0, c1 = span(t[TX] - bound, t[TX] + bound, metres, tree.shape[1])
        for r in range(r0, r1):
            for c in range(c0, c1):
                dx, dy = (c + 0.5) * metres - t[TX], (r + 0.5) * metres - t[TY]
                low, high, reach = crown_slab(t, dx, dy, noise)
                if 1.0 <= reach < rim and tree[r, c] == 0:
                    tree[r, c] = i + 1
                height = np.uint16(max(100.0 * high, 1.0))
                if reach < 1.0 and height > top[r, c]:
                    base[r, c] = np.uint16(max(100.0 * low, 0.0))
                    top[r, c] = height
                    tree[r, c] = i + 1
