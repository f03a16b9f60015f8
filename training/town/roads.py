"""Roads: carriageways with wear and patches, markings, kerbs, sidewalks, shoulders, verges."""

import numpy as np

from training.town.layout import LANE, MAIN, Street
from training.town.noise import CLOUDY, chance, sample
from training.town.numba_options import F32, I16, Triple, compiled, faded, inlined, span, triple
from training.town.style import Style
from training.town.surfaces import GRASS, GRAVEL, LAWN, PAVED, ROAD, WATER, Canvas

# Columns of the table of streets.
_HALF, _RANK, _UNPAVED, _RED, _, _, _CENTRE, _EDGES, _DASH, _GOLD, _WALK, _KERBED = range(12)
_NONE, _DASHED, _SOLID, _DOUBLE = range(4)  # centre lines
_BARE, _WHITE, _CENTRE_COLOUR = range(3)  # what a point of the carriageway is painted
_EDGE, _NEXT, _ALONG, _ACROSS = range(4)  # planes of the fields, all in metres
_REACH_M = 13.0  # how far from the carriageway a street is known
_ATTACHED, _DETACHED = 1, 2  # sidewalks


def pave(canvas: Canvas, style: Style, lines: list[Street], rng: np.random.Generator) -> F32:
    """Paint the streets; returns (H, W) metres to the nearest carriageway, 99 where far."""
    size = canvas.material.shape[0]
    fields = np.full((4, size, size), 99.0, np.float32)
    who = np.full((2, size, size), -1, np.int16)
    table = np.array([_row(street, style, rng) for street in lines], np.float32)
    for k, street in enumerate(lines):
        _stamp(street.points.astype(np.float32), k, street.half_m, canvas.metres, fields, who)
    _paint(canvas, fields, who, table, rng.uniform(4, 8))
    return np.asarray(fields[_EDGE])


def _row(street: Street, style: Style, rng: np.random.Generator) -> list[float]:
    tint = np.array(style.asphalt) * rng.uniform(0.86, 1.12) + rng.normal(0, 2, 3)
    if street.unpaved:
        tint = np.array(style.dirt) * rng.uniform(0.92, 1.1)
    main, built = street.rank == MAIN, street.rank != LANE and not street.unpaved
    marked = (main or rng.uniform() < 0.35) and built
    centre = rng.choice([_DASHED, _SOLID, _DOUBLE], p=(0.45, 0.2, 0.35)) if marked else _NONE
    edges, dash = main and rng.uniform() < 0.6, rng.choice([6.0, 9.0, 12.0])
    walk = {"none": 0, "attached": _ATTACHED, "detached": _DETACHED}[style.sidewalk] * built
    kind = [street.half_m, street.rank, street.unpaved]
    return [*kind, *tint, centre, edges, dash, style.yellow, walk, style.kerbed and built]


@compiled
def _stamp(points: F32, k: int, half: float, metres: float, fields: F32, who: I16) -> None:
    """Keep, for each pixel, the nearest street (edge distance, along, across) and the next one."""
    margin = half + _REACH_M
    start = 0.0
    for i in range(points.shape[0] - 1):
        ax, ay, bx, by = points[i, 0], points[i, 1], points[i + 1, 0], points[i + 1, 1]
        length = np.hypot(bx - ax, by - ay)
        sx, sy = (bx - ax) / length, (by - ay) / length
        c0, c1 = span(min(ax, bx) - margin, max(ax, bx) + margin, metres, who.shape[2])
        r0, r1 = span(min(ay, by) - margin, max(ay, by) + margin, metres, who.shape[1])
        for r in range(r0, r1):
            dy = (r + 0.5) * metres - ay
            for c in range(c0, c1):
                dx = (c + 0.5) * metres - ax
                along, across = dx * sx + dy * sy, dy * sx - dx * sy
                past = min(max(along, 0.0), length)
                edge = np.hypot(along - past, across) - half
                nearest = edge < fields[_EDGE, r, c]
                if who[0, r, c] != k:
                    if nearest:
                        fields[_NEXT, r, c], who[1, r, c] = fields[_EDGE, r, c], who[0, r, c]
                    elif edge < fields[_NEXT, r, c]:
                        fields[_NEXT, r, c], who[1, r, c] = edge, k
                if nearest:
                    fields[_EDGE, r, c], who[0, r, c] = edge, k
                    fields[_ALONG, r, c], fields[_ACROSS, r, c] = start + past, across
        start += length


@compiled
def _marking(own: F32, other: F32, after: float, along: float, across: float, zebra: bool) -> int:
    """What a point is painted; `after` is its distance from the next street's carriageway."""
    a = abs(across)
    if zebra:
        return _WHITE if across % 1.1 < 0.55 else _BARE
    crossing = after < 1.2
    if crossing and other[_RANK] <= own[_RANK]:
        yields = other[_RANK] < own[_RANK] and 0.15 < after < 0.55
        return _WHITE if yields and across % 1.2 < 0.8 else _BARE
    if own[_EDGES] > 0 and abs(a - (own[_HALF] - 0.55)) < 0.11 and not crossing:
        return _WHITE
    centre = own[_CENTRE]
    if centre == _DASHED and a < 0.12 and along % own[_DASH] < 0.4 * own[_DASH]:
        return _CENTRE_COLOUR
    if (centre == _SOLID and a < 0.12) or (centre == _DOUBLE and abs(a - 0.2) < 0.11):
        return _CENTRE_COLOUR
    if own[_HALF] > 6.0 and abs(a - 0.5 * own[_HALF]) < 0.1 and along % 9.0 < 3.0:
        return _WHITE  # lanes of a wide street
    return _BARE


@compiled
def _painted(
    tone: Triple, own: F32, other: F32, after: float, along: float, across: float,
    zebra: bool, metres: float, fresh: float,
) -> Triple:  # fmt: skip
    """The carriageway's colour with its markings, averaged over four points of the pixel."""
    white, centre = 0.0, 0.0
    for q in range(4):
        s, t = along + (0.5 * (q >> 1) - 0.25) * metres, across + (0.5 * (q & 1) - 0.25) * metres
        mark = _marking(own, other, after, s, t, zebra)
        white += 0.25 * fresh * (mark == _WHITE)
        centre += 0.25 * fresh * (mark == _CENTRE_COLOUR)
    line = (226.0, 176.0, 70.0) if own[_GOLD] > 0 else (228.0, 228.0, 224.0)
    return faded(faded(tone, (228.0, 228.0, 224.0), white), line, centre)


@inlined
def _worn(
    canvas: Canvas, own: F32, k: int, x: float, y: float, along: float, across: float, wide: float
) -> float:
    """Shade of the carriageway: wheel tracks, cracks and patches, or the ruts of a track."""
    if own[_UNPAVED] > 0:
        middle = min(max(1.0 - abs(across) / 0.6, 0.0), 1.0)
        return float(1.0 - 0.2 * middle * (0.6 + 0.4 * wide))
    shade = 1.0
    if own[_HALF] > 2.5:
        track = abs(abs(abs(across) - 0.5 * own[_HALF]) - 0.8)
        shade -= 0.05 * max(0.0, 1.0 - track / 0.45)
    crack = abs(sample(canvas.noise, CLOUDY, 300 + x * 5.5, 200 + y * 5.5)) < 0.035
    if crack and chance(k, canvas.seed, 21) < 0.5:
        shade *= 0.78
    if chance(int(along / 7.0), k, int(across > 0) + canvas.seed) < 0.05:
        shade *= 0.84
    return shade


@inlined
def _beside(
    canvas: Canvas, tone: Triple, kind: int, own: F32, edge: float, along: float, wide: float,
    fine: float,
) -> tuple[Triple, int]:  # fmt: skip
    """Colour and material beside the carriageway: verge, then sidewalk or shoulder, then kerb."""
    metres, grass, dirt = canvas.metres, canvas.grass, canvas.dirt
    if kind != LAWN and kind != GRASS and edge < 3.5:
        tone, kind = (grass[0] + 5 * fine, grass[1] + 5 * fine, grass[2] + 4 * fine), GRASS
    if own[_WALK] > 0:
        middle = 0.9 if own[_WALK] == _ATTACHED else 2.45
        cover = min(max(0.5 - (abs(edge - middle) - 0.75) / metres, 0.0), 1.0)
        slab = (176.0 + 5 * wide + 3 * fine) * (0.9 if along % 1.6 < 0.2 else 1.0)
        tone = faded(tone, (slab, slab * 0.985, slab * 0.95), cover)
        kind = PAVED if cover > 0.5 else kind
    elif own[_KERBED] == 0:
        cover = min(max((0.75 + 0.35 * wide - edge) / 0.7, 0.0), 1.0)
        grit = (dirt[0] + 7 * fine, dirt[1] + 7 * fine, dirt[2] + 6 * fine)
        tone = faded(tone, grit, cover)
        kind = GRAVEL if cover > 0.6 else kind
    if own[_KERBED] > 0:
        cover = min(max(0.5 - (abs(edge) - 0.16) / metres, 0.0), 1.0)
        tone = faded(tone, (186.0, 183.0, 176.0), cover)
    return tone, kind


@compiled
def _paint(canvas: Canvas, fields: F32, who: I16, table: F32, fillet: float) -> None:
    """Paint all pixels near a street, and round the junctions' corners in fields[_EDGE]."""
    colour, material, metres = canvas.colour, canvas.material, canvas.metres
    size = who.shape[1]
    for r in range(size):
        for c in range(size):
            k = who[0, r, c]
            if k < 0:
                continue
            after = fields[_NEXT, r, c]
            h = max(fillet - abs(fields[_EDGE, r, c] - after), 0.0) / fillet
            edge = fields[_EDGE, r, c] - h * h * fillet * 0.25
            fields[_EDGE, r, c] = edge
            if edge > 6.0 or (edge > 0 and material[r, c] == WATER):  # on bridges, no verge
                continue
            own, along, across = table[k], fields[_ALONG, r, c], fields[_ACROSS, r, c]
            x, y = (c + 0.5) * metres, (r + 0.5) * metres
            wide = sample(canvas.noise, CLOUDY, 40 + x * 2.1, y * 2.1)
            fine = sample(canvas.noise, CLOUDY, x * 23.0, 90 + y * 23.0)
            tone = triple(colour[r, c], 0)
            tone, kind = _beside(canvas, tone, int(material[r, c]), own, edge, along, wide, fine)
            cover = min(max(0.5 - (edge + 0.14) / metres, 0.0), 1.0)
            if cover > 0.0:
                shade = _worn(canvas, own, k, x, y, along, across, wide)
                shade *= 1.0 + 0.045 * wide + 0.035 * fine
                tar = (own[_RED] * shade, own[_RED + 1] * shade, own[_RED + 2] * shade)
                tone = faded(tone, tar, cover)
                kind = ROAD if cover > 0.5 else kind
            if own[_UNPAVED] == 0 and edge < -0.2:
                other = table[max(who[1, r, c], 0)]
                zebra = own[_RANK] != LANE and other[_RANK] != LANE and 1.3 < after < 4.0
                zebra = zebra and chance(k, who[1, r, c], canvas.seed) < 0.3
                fresh = 0.85 + 0.12 * min(max(fine, -3.0), 1.0)
                tone = _painted(tone, own, other, after, along, across, zebra, metres, fresh)
            material[r, c] = kind
            for q in range(3):
                colour[r, c, q] = min(max(tone[q], 0.0), 255.0)
