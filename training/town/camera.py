"""Cameras: what a file keeps of the full sphere, with the metadata that cameras write."""

import io
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from training.town.day import Day
from training.town.numba_options import U8
from training.town.poses import Pose
from training.town.town import TownError

PROJECTIONS = EQUIRECTANGULAR, RECTILINEAR = "equirectangular", "rectilinear"

_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_TIME, _SUBSECOND, _FOCAL_LENGTH_35MM, _DIRECTION_REF, _DIRECTION = 0x9003, 0x9291, 0xA405, 16, 17

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"
 GPano:ProjectionType="equirectangular" GPano:UsePanoramaViewer="True"{heading}
 GPano:FullPanoWidthPixels="{full_width}" GPano:FullPanoHeightPixels="{height}"
 GPano:CroppedAreaImageWidthPixels="{width}" GPano:CroppedAreaImageHeightPixels="{height}"
 GPano:CroppedAreaLeftPixels="{left}" GPano:CroppedAreaTopPixels="0"/>
</rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


@dataclass(frozen=True)
class Camera:
    """An equirectangular camera sees every elevation and states GPano. A rectilinear camera takes
    photographs of 3:2 and states EXIF. No camera states its position.
    """

    fov_deg: float = 360.0  # horizontal
    projection: str = EQUIRECTANGULAR
    states_heading: bool = True

    def __post_init__(self) -> None:
        most = 150 if self.projection == RECTILINEAR else 360
        if not 20 <= self.fov_deg <= most:
            raise TownError(f"fov_deg is {self.fov_deg:g}: give 20 to {most} for {self.projection}")


PANORAMA = Camera()


class Shot(NamedTuple):
    """A picture that a camera takes. `file` is relative to the folder of its poses.csv."""

    file: str
    pose: Pose
    day: Day
    camera: Camera
    time: datetime | None = None  # local

    def encode(self, sphere: U8) -> bytes:
        """JPEG bytes of what the camera keeps of the sphere (H, 2H, 3) that it stands in."""
        exif, xmp = self._exif(), ""
        if self.camera.projection == RECTILINEAR:
            sphere = _photograph(sphere, self.camera.fov_deg)
        else:
            height, full_width = sphere.shape[:2]
            left = full_width // 2 - round(full_width * self.camera.fov_deg / 720)
            sphere = sphere[:, left : full_width - left]
            heading = f'\n GPano:PoseHeadingDegrees="{self.pose.heading_deg % 360:.2f}"'
            xmp = _XMP.format(
                heading=heading * self.camera.states_heading, full_width=full_width, height=height,
                width=sphere.shape[1], left=left,
            )  # fmt: skip
        buffer = io.BytesIO()
        Image.fromarray(sphere).save(
            buffer, "JPEG", quality=self.day.jpeg_quality, xmp=xmp.encode(), exif=exif
        )
        return buffer.getvalue()

    def _exif(self) -> bytes:
        exif, fields = Image.Exif(), dict[int, str | int]()
        if self.time:
            fields[_TIME] = f"{self.time:%Y:%m:%d %H:%M:%S}"
            fields[_SUBSECOND] = f"{self.time.microsecond // 1000:03d}"
        if self.camera.projection == RECTILINEAR:
            slope = np.tan(np.radians(self.camera.fov_deg / 2))
            fields[_FOCAL_LENGTH_35MM] = round(18 / slope)
            if self.camera.states_heading:
                exif[_GPS_IFD] = {_DIRECTION_REF: "T", _DIRECTION: self.pose.heading_deg % 360}
        if fields:
            exif[_EXIF_IFD] = fields
        return exif.tobytes() if fields else b""


def _photograph(sphere: U8, fov_deg: float) -> U8:
    """A pinhole camera's picture of 3:2, in its middle as fine as the sphere; bilinear."""
    rows, columns = sphere.shape[:2]
    per_radian, slope = columns / (2 * np.pi), np.tan(np.radians(fov_deg / 2))
    half = round(per_radian * slope)  # the width; columns of pixels are at half a pixel
    right = ((np.arange(2 * half) + 0.5) / half - 1) * slope
    down = (np.arange(2 * round(half / 1.5)) + 0.5 - round(half / 1.5)) / half * slope
    azimuth, depression = np.arctan(right), np.arctan(down[:, None] / np.hypot(1, right))
    row = rows / 2 - 0.5 + depression * per_radian
    column = np.broadcast_to(columns / 2 - 0.5 + azimuth * per_radian, row.shape)
    bands = [map_coordinates(band, [row, column], order=1) for band in np.moveaxis(sphere, -1, 0)]
    return np.stack(bands, axis=-1)
