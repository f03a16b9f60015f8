"""The JSON and GeoJSON answers about drives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field
from pydantic.config import JsonDict

from model.geo import LatLon
from model.geojson import line, point
from service.api.geojson import feature
from service.api.schemas import (
    ENCODER,
    VERSION,
    Angle,
    Answer,
    Heading,
    Metres,
    PositionSchema,
    Probability,
    ProblemSchema,
    like,
)
from service.locate.drive_times import Driven, Place
from service.runtime.drives import HeldDrive, Shot
from service.survey.formats import gpx

_FRAME: JsonDict = {
    "position": {"latitude": 25.7615, "longitude": -80.19325},
    "radius_m": 8.5,
    "confidence": 0.98,
    "in_index": True,
    "heading_deg": 91.5,
    "tile_id": "town-16m-n178034-e512",
    "drive": 0,
    "time": "2026-07-31T10:15:00+00:00",
    "problem": None,
}
_LATER: JsonDict = {
    "position": {"latitude": 25.7615, "longitude": -80.19313},
    "time": "2026-07-31T10:15:01+00:00",
}
_DRIVES: JsonDict = {
    "frames": [_FRAME, {**_FRAME, **_LATER}],
    "drives": [
        {
            "frames": [0, 1],
            "mount_deg": 0.5,
            "track": {
                "type": "LineString",
                "coordinates": [[-80.19325, 25.7615], [-80.19313, 25.7615]],
            },
        }
    ],
    "order": "times",
    "index_version": VERSION,
    "encoder": ENCODER,
}
_HELD: JsonDict = {
    "id": "Vq3mX0cJ8yTn5sWd2LfRb7Ka1HzPg6Eu",
    "images": 2,
    "encoding": 0,
    "expires_in_s": 3600.0,
    "index_version": VERSION,
    "encoder": ENCODER,
}


class DriveFrameSchema(Answer):
    """Where one frame of a drive was taken, or why it was left out."""

    position: PositionSchema | None = Field(default=None, description="null with a problem")
    radius_m: Metres | None = Field(default=None, description="metres around the position")
    confidence: Probability | None = Field(
        default=None,
        description="probability that the frame was taken within radius_m of the position",
    )
    in_index: bool | None = Field(
        default=None, description="false: probably not taken where this index has imagery"
    )
    heading_deg: Heading | None = Field(
        default=None,
        description="degrees clockwise from north that the image's centre column faces",
    )
    tile_id: str | None = Field(default=None, description="the likeliest tile")
    drive: int | None = Field(default=None, description="number in `drives`, from 0")
    time: str | None = Field(default=None, description="as stated, or from EXIF; null when unknown")
    problem: ProblemSchema | None = None

    @classmethod
    def of(cls, shot: Shot, place: Place | None) -> DriveFrameSchema:
        """The outcome of an uploaded image."""
        where = {**vars(place.frame), "drive": place.drive} if place else {}
        time = shot.taken and shot.taken.text
        return cls.model_validate({**where, "time": time, "problem": shot.problem})


class DriveSchema(Answer):
    """Frames that one vehicle took one after another. A pause of two minutes ends a drive."""

    frames: list[int] = Field(description="numbers in `frames`, from 0, in the order driven")
    mount_deg: Angle | None = Field(
        description="degrees from the direction of travel to the camera's heading; null where the "
        "camera does not keep to an angle, or the drive stands still"
    )
    track: dict[str, Any] | None = Field(
        description="GeoJSON LineString through the frames that are in the index, or a "
        "MultiLineString across 180 degrees; null for fewer than two"
    )


class DrivesSchema(Answer):
    """Every image's outcome in the order of the uploads, and the drives that they make."""

    model_config = like(_DRIVES)

    frames: list[DriveFrameSchema]
    drives: list[DriveSchema]
    order: Literal["times", "uploads"] = Field(
        description="what orders the frames: their times, if every frame has one of the same kind "
        "(seconds, local time or UTC), else the order of the uploads"
    )
    index_version: str = Field(examples=[VERSION])
    encoder: str = Field(description="fingerprint of the weights and their preprocessing")

    @classmethod
    def of(cls, drive: HeldDrive, located: Driven) -> DrivesSchema:
        """The answer for the images that were looked at: the first."""
        frames = list(map(DriveFrameSchema.of, drive.shots, located.places))
        drives = []
        for found, numbers in zip(located.drives, located.numbers, strict=True):
            track = line([at for at, _ in _inside(frames[number] for number in numbers)])
            drives.append(DriveSchema(frames=numbers, mount_deg=found.mount_deg, track=track))
        return cls(
            frames=frames,
            drives=drives,
            order="times" if located.timed else "uploads",
            index_version=drive.index.version,
            encoder=drive.localizer.encoder.fingerprint,
        )

    def geojson(self) -> dict[str, Any]:
        """A FeatureCollection of the drives' tracks and every frame's point."""
        members, features = self.model_dump(mode="json"), []
        for number, drive in enumerate(members.pop("drives")):
            track, stated = drive.pop("track"), {"number": number, **drive}
            features.append(feature(f"drive-{number}", track, "drive", stated))
        for number, frame in enumerate(members.pop("frames")):
            position, stated = frame.pop("position"), {"number": number, **frame}
            place = position and point(LatLon(**position))
            features.append(feature(f"frame-{number}", place, "frame", stated))
        return {"type": "FeatureCollection", "features": features, **members}

    def gpx(self) -> str:
        """A track for each drive, through its frames that are in the index."""
        driven = [[self.frames[number] for number in drive.frames] for drive in self.drives]
        return gpx(enumerate(map(_inside, driven)))


def _inside(frames: Iterable[DriveFrameSchema]) -> list[tuple[LatLon, str | None]]:
    """Positions and times of the frames that are in the index."""
    found = ((frame.position, frame.time) for frame in frames if frame.in_index)
    return [(LatLon(at.latitude, at.longitude), time) for at, time in found if at is not None]


GEOJSON: dict[str, Any] = {
    "type": "object",
    "description": "the tracks, then the frames; other members as in JSON",
    "required": ["type", "features"],
    "properties": {"type": {"const": "FeatureCollection"}, "features": {"type": "array"}},
    "examples": [DrivesSchema.model_validate(_DRIVES).geojson()],
}
GPX: dict[str, Any] = {
    "type": "string",
    "description": "GPX 1.1: for each drive a track through the frames that are in the index, with "
    "their times unless those are seconds",
}


class HeldDriveSchema(Answer):
    """A drive whose frames arrive. One server process holds a drive, until it stops."""

    model_config = like(_HELD)

    id: str = Field(description="who knows the id may read, extend and delete the drive")
    images: int = Field(description="images that were uploaded and encoded, or have a problem")
    encoding: int = Field(description="images that are being encoded")
    expires_in_s: float = Field(description="seconds after which an unused drive is forgotten")
    index_version: str = Field(
        description="all frames are located in this version", examples=[VERSION]
    )
    encoder: str

    @classmethod
    def of(cls, drive: HeldDrive, ttl_s: float) -> HeldDriveSchema:
        """A drive that has been used just now."""
        return cls(
            id=drive.id,
            images=len(drive.shots),
            encoding=drive.encoding,
            expires_in_s=ttl_s,
            index_version=drive.index.version,
            encoder=drive.localizer.encoder.fingerprint,
        )


class HeldAnswerSchema(HeldDriveSchema):
    """A drive, and where its frames were taken as far as they have arrived."""

    model_config = like({**_HELD, "answer": _DRIVES})

    answer: DrivesSchema


class UploadSchema(Answer):
    """What became of an upload's images."""

    model_config = like({"drive": _HELD, "first": 0, "problems": [None, None]})

    drive: HeldDriveSchema
    first: int = Field(description="number of the upload's first image in the drive, from 0")
    problems: list[ProblemSchema | None] = Field(
        description="for each image of the upload, null where nothing is wrong"
    )
