"""A town: a seed turned into georeferenced rasters and tables that both views are rendered from."""

from dataclasses import dataclass

import numpy as np
from rasterio.warp import transform

from model.errors import SkyfixError
from model.geo import LatLon
from training.town.ground import paint_ground, stamp_patches
from training.town.layout import Street, lattice, streets
from training.town.noise import texture
from training.town.numba_options import F32, U8, U16
from training.town.settlement import settle
from training.town.solids import COLUMNS, stamp_solids
from training.town.style import Style, style
from training.town.variety import varied_style
from training.town.vegetation import grow, stamp_crowns


class TownError(SkyfixError):
    """The town, or the dataset asked of it, is impossible."""


@dataclass(frozen=True)
class TownSpec:
    """What determines a town, completely: the same spec always gives the same one."""

    seed: int
    size_m: float = 800.0
    resolution_m: float = 0.25
    varied: bool = False  # appearance far apart, on the same streets: variety.py

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise TownError(f"town seed {self.seed} is negative: give 0 or more")
        if not (100 <= self.size_m <= 4000 and self.size_m == round(self.size_m)):
            raise TownError(f"town size {self.size_m} m: give whole metres from 100 to 4000")
        if self.resolution_m not in (0.2, 0.25, 0.5):
            raise TownError(f"town resolution {self.resolution_m} m: give 0.2, 0.25 or 0.5")

    @property
    def pixels(self) -> int:
        return round(self.size_m / self.resolution_m)


@dataclass(frozen=True)
class Town:
    """Rasters (row 0 = north edge), tables and the georeference.

    The CRS is a UTM zone and the town lies within 2.1 km of its central meridian, so that grid
    north is true north within 0.04 degrees. `left_m`, `top_m`: CRS coordinates of the
    north-west corner. Inside the package, places are local metres: x east, y SOUTH of it.
    """

    spec: TownSpec
    style: Style
    crs: str
    left_m: float
    top_m: float
    streets: tuple[Street, ...]
    ground: U8  # (H, W, 3) colour of the ground, sRGB
    material: U8  # (H, W), see ground.py
    height: U16  # (H, W) cm, top of the solid that stands here
    owner: U16  # (H, W) its row in `solids` + 1, or 0
    solids: F32  # (N, COLUMNS), see solids.py
    crown_top: U16  # (H, W) cm
    crown_base: U16  # (H, W) cm
    tree: U16  # (H, W) row in `trees` + 1, or 0
    trees: F32  # (M, 11), columns in vegetation.py
    stands: F32  # (K, 3) x, y, radians: places where cars park off the street

    def to_local(self, east_m: float, north_m: float) -> tuple[float, float]:
        return east_m - self.left_m, self.top_m - north_m

    def to_crs(self, x: float, y: float) -> tuple[float, float]:
        return self.left_m + x, self.top_m - y

    def latlon(self, east_m: float, north_m: float) -> LatLon:
        """WGS84 position of CRS coordinates."""
        (longitude,), (latitude,) = transform(self.crs, "EPSG:4326", [east_m], [north_m])
        return LatLon(latitude, longitude)


def build_town(spec: TownSpec) -> Town:
    """Lay out, paint, settle and plant a town. About 5 s at 800 m; deterministic in the spec."""
    seed, metres = spec.seed, spec.resolution_m
    character = varied_style(style(seed), seed) if spec.varied else style(seed)
    grid = lattice(spec.size_m, character, seed)
    lines = streets(spec.size_m, character, grid, seed)
    ground = paint_ground(spec.pixels, metres, character, grid, lines, seed)
    plots = settle(lines, ground, character, seed)
    if plots.patches:
        stamp_patches(np.array(plots.patches, np.float32), ground.canvas)
    trees, trunks = grow(lines, ground, plots.taken, character, seed)
    solids = np.array(plots.solids + trunks, np.float32).reshape(-1, COLUMNS)[:60000]
    height, owner, top, base, tree = np.zeros((5, spec.pixels, spec.pixels), np.uint16)
    stamp_solids(solids, 0, metres, height, owner)
    stamp_crowns(trees, metres, top, base, tree, texture())
    return Town(
        spec, character, *_georeference(spec), tuple(lines), ground.canvas.colour,
        ground.canvas.material, height, owner, solids, top, base, tree, trees,
        np.array(plots.stands, np.float32).reshape(-1, 3),
    )  # fmt: skip


def _georeference(spec: TownSpec) -> tuple[str, float, float]:
    """A UTM zone and the town's north-west corner, on whole metres, near the central meridian."""
    rng = np.random.default_rng([spec.seed, 8])
    zone, latitude = int(rng.integers(1, 61)), float(rng.uniform(22, 58) * rng.choice([-1, 1]))
    crs = f"EPSG:{326 if latitude > 0 else 327}{zone:02d}"
    (east,), (north,) = transform("EPSG:4326", crs, [zone * 6 - 183], [latitude])
    half = spec.size_m / 2
    offset = max(0.0, 2000.0 - half)
    left, top = east + rng.uniform(-offset, offset) - half, north + half
    return crs, float(round(left)), float(round(top))
