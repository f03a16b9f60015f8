"""Street images whose colour is the direction that a pixel shows, of every projection."""

import numpy as np
from scipy.spatial.transform import Rotation

from model.panorama import Band, PanoramaGeometry

BAND, SIZE = Band(15, -45), (96, 512)
STRIP = PanoramaGeometry(horizon=0.25, vertical_fov_deg=60)  # as an image: the band itself


def rays(geometry, height, width):
    """The level direction (east, north, up) that each pixel shows, (height, width, 3).

    North is where the centre column would look if the camera were level.
    """
    rows, columns = (np.arange(side) + 0.5 for side in (height, width))
    half = np.radians(geometry.horizontal_fov_deg / 2)
    x = columns / width * 2 - 1
    top, bottom = np.radians(geometry.extent(height, width))
    share = (rows / height)[:, None]
    if geometry.projection == "equirectangular":
        azimuth, elevation = np.broadcast_arrays(x * half, top + share * (bottom - top))
        flat = np.cos(elevation)
        own = [flat * np.sin(azimuth), flat * np.cos(azimuth), np.sin(elevation)]
    elif geometry.projection == "cylindrical":
        azimuth, up = np.broadcast_arrays(
            x * half, np.tan(top) + share * (np.tan(bottom) - np.tan(top))
        )
        own = [np.sin(azimuth), np.cos(azimuth), up]
    else:
        plane = x * np.tan(half), (1 - 2 * share) * np.tan(half) * height / width
        right, up = np.broadcast_arrays(*plane)
        own = [right, np.ones_like(right), up]
    axes = np.stack(own, -1) / np.linalg.norm(own, axis=0)[..., None]
    tilt = Rotation.from_euler("XY", geometry.tilt, degrees=True)  # capitals: intrinsic
    return tilt.apply(axes.reshape(-1, 3)).reshape(height, width, 3)


def coloured(directions):
    """Three colours that change smoothly over the sphere."""
    return (128 + 100 * directions).round().astype(np.uint8)
