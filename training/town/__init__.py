"""The procedural town: a seed turned into an aerial raster and panoramas with known poses.

    build_town(TownSpec(seed)) -> Town            rasters and tables, no light yet
    day(seed) -> Day                              sun, season, exposure, traffic
    render_aerial(town, day)                      uint8 (H, W, 3), north-up
    sample_poses(town, count, seed) -> [Pose]     along the roads
    render_street(town, pose, day, size)          uint8 (h, 2h, 3), centre column = heading
    write_town(out, spec, panoramas)              the town as a folder

Where to change what:

    style.py layout.py                 a town's character; its streets
    ground.py roads.py surfaces.py     land use and water; carriageways, kerbs, markings; materials
    settlement.py plots.py homes.py    which plot becomes what; a plot's frame; houses and yards
    solids.py facades.py               boxes with roofs; how their walls and roofs look
    vegetation.py                      trees and the canopy layer
    day.py light.py traffic.py         what differs between visits
    variety.py                         land, plants, materials and film, far apart
    scene.py aerial.py                 a town on a day; drawn from above
    ray_march.py street.py             drawn from a camera, level; then tilted and developed
    poses.py routes.py drives.py       where cameras stand; ways along streets; frames in order
    camera.py dataset.py               what a file keeps of the sphere; the folder
"""

from training.town.aerial import render_aerial
from training.town.camera import Camera
from training.town.dataset import visit, write_town
from training.town.day import Day, day
from training.town.drives import DrivePlan
from training.town.poses import Pose, sample_poses
from training.town.street import render_street
from training.town.town import Town, TownError, TownSpec, build_town

__all__ = [
    "Camera", "Day", "DrivePlan", "Pose", "Town", "TownError", "TownSpec", "build_town", "day",
    "render_aerial", "render_street", "sample_poses", "visit", "write_town",
]  # fmt: skip
