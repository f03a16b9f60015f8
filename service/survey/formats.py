"""The formats of a survey's table: CSV, JSON lines, GeoJSON, GPX and KML."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from xml.etree import ElementTree

from model.geo import LatLon
from model.geojson import line, point
from service.locate.drive_times import Taken, by_time
from service.survey.outcome import Outcome

KML = "http://www.opengis.net/kml/2.2"
Text = Callable[[Sequence[Outcome]], str]
Point = tuple[LatLon, str | None]  # of a drive, with its time as `Taken.read` takes it


def csv_line(values: Iterable[object]) -> str:
    """An outcome, or the names of its columns, as a line of CSV. An empty cell is unknown."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(map(_cell, values))
    return line.getvalue()


def _cell(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _csv(outcomes: Sequence[Outcome]) -> str:
    return "".join(map(csv_line, [Outcome._fields, *outcomes]))


def _jsonl(outcomes: Sequence[Outcome]) -> str:
    return "".join(json.dumps(outcome._asdict()) + "\n" for outcome in outcomes)


def _geojson(outcomes: Sequence[Outcome]) -> str:
    """RFC 7946; an image without a position is a feature without geometry."""
    features: list[dict[str, object]] = []
    for outcome in outcomes:
        columns = {**outcome._asdict()}
        del columns["latitude"], columns["longitude"]
        features.append(_feature(outcome.position and point(outcome.position), columns))
    for drive, points in _drives(outcomes):
        track = line([position for position, _ in points])
        features.append(_feature(track, {"drive": drive}))
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"


def _feature(geometry: object, properties: dict[str, object]) -> dict[str, object]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _drives(outcomes: Sequence[Outcome]) -> Iterator[tuple[int, list[Point]]]:
    """Drives of two frames or more, each in the order in which it was located."""
    found: dict[int, list[Point]] = {}
    for outcome in outcomes:
        if outcome.drive is not None and outcome.position is not None:
            found.setdefault(outcome.drive, []).append((outcome.position, outcome.time))
    for drive, points in found.items():
        order, _ = by_time([Taken.read(time) if time else None for _, time in points])
        if len(points) > 1:
            yield drive, [points[number] for number in order]


def _gpx(outcomes: Sequence[Outcome]) -> str:
    """A waypoint for each image that has a position, and a track for each drive."""
    return gpx(_drives(outcomes), outcomes) + "\n"


def gpx(tracks: Iterable[tuple[int, Iterable[Point]]], images: Iterable[Outcome] = ()) -> str:
    """A GPX 1.1 document.

    tracks: each drive's number and points.
    images: a waypoint is written for each that has a position.
    """
    import gpxpy.gpx

    document = gpxpy.gpx.GPX()
    document.creator = "Skyfix"
    for image in images:
        if image.position:
            point = gpxpy.gpx.GPXWaypoint(*image.position, time=_moment(image.time))
            point.name, point.description = image.file, _words(image)
            document.waypoints.append(point)
    for drive, points in tracks:
        track = gpxpy.gpx.GPXTrack(name=f"drive {drive}")
        segment = gpxpy.gpx.GPXTrackSegment()
        for position, time in points:
            segment.points.append(gpxpy.gpx.GPXTrackPoint(*position, time=_moment(time)))
        track.segments.append(segment)
        document.tracks.append(track)
    return document.to_xml()


def _moment(time: str | None) -> datetime | None:
    """None: unknown. GPX has dates, so seconds from a zero that nobody stated are left out."""
    if not time or Taken.read(time).clock == "stated":
        return None
    return datetime.fromisoformat(time)


def _kml(outcomes: Sequence[Outcome]) -> str:
    """A placemark for each image that has a position, with all columns as data."""
    root = ElementTree.Element("kml", xmlns=KML)
    document = ElementTree.SubElement(root, "Document")
    for outcome in outcomes:
        if outcome.latitude is None:
            continue
        mark = ElementTree.SubElement(document, "Placemark")
        ElementTree.SubElement(mark, "name").text = outcome.file
        ElementTree.SubElement(mark, "description").text = _words(outcome)
        if outcome.time:
            stamp = ElementTree.SubElement(mark, "TimeStamp")
            ElementTree.SubElement(stamp, "when").text = outcome.time
        columns = ElementTree.SubElement(mark, "ExtendedData")
        for name, value in outcome._asdict().items():
            if value is not None:
                data = ElementTree.SubElement(columns, "Data", name=name)
                ElementTree.SubElement(data, "value").text = str(_cell(value))
        point = ElementTree.SubElement(mark, "Point")
        place = f"{outcome.longitude},{outcome.latitude}"
        ElementTree.SubElement(point, "coordinates").text = place
    for drive, points in _drives(outcomes):
        mark = ElementTree.SubElement(document, "Placemark")
        ElementTree.SubElement(mark, "name").text = f"drive {drive}"
        line = ElementTree.SubElement(mark, "LineString")
        ElementTree.SubElement(line, "coordinates").text = " ".join(
            f"{position.longitude},{position.latitude}" for position, _ in points
        )
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _words(outcome: Outcome) -> str:
    sure = "" if outcome.confidence is None else f", confidence {outcome.confidence:g}"
    return f"within {outcome.radius_m:g} m{sure}, heading {outcome.heading_deg:g}"


FORMATS: dict[str, Text] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".geojson": _geojson,
    ".gpx": _gpx,
    ".kml": _kml,
}
