"""The GPano fields of XMP packets: what a file states about the sphere around its camera."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from xml.parsers import expat

log = logging.getLogger(__name__)

_FIELDS = {
    "ProjectionType",
    "PoseHeadingDegrees",
    "PosePitchDegrees",
    "PoseRollDegrees",
    "FullPanoWidthPixels",
    "FullPanoHeightPixels",
    "CroppedAreaImageWidthPixels",
    "CroppedAreaImageHeightPixels",
    "CroppedAreaLeftPixels",
    "CroppedAreaTopPixels",
}


def read_gpano(packets: Iterable[bytes]) -> dict[str, str]:
    """GPano's fields, without namespace; empty when there are none. A later packet goes before.

    A packet that cannot be parsed is ignored and logged.
    """
    fields: dict[str, str] = {}
    for packet in packets:
        try:
            fields |= _fields_of(packet)
        except Exception as error:  # ExpatError, ValueError, whatever hostile XMP provokes
            log.warning("the XMP metadata cannot be parsed and is ignored: %s", error)
    return fields


def _fields_of(packet: bytes) -> dict[str, str]:
    """Attributes and elements that GPano names. No tree is built: it would take 60 times as much.

    A document type is refused, as defusedxml does, and with it every entity. defusedxml takes
    twice as long.
    """
    fields: dict[str, str] = {}
    text: list[str] | None = None  # of the open element, where GPano names it

    def start(element: str, attributes: dict[str, str]) -> None:
        nonlocal text
        text = [] if _local(element) in _FIELDS else None
        for name, value in attributes.items():
            if _local(name) in _FIELDS:
                fields[_local(name)] = value.strip()

    def characters(content: str) -> None:
        if text is not None:
            text.append(content)

    def end(element: str) -> None:
        nonlocal text
        if text is not None:
            fields[_local(element)] = "".join(text).strip()
        text = None

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = characters, refuse
    parser.Parse(packet, True)
    return fields


def _local(name: str) -> str:
    return name.rpartition(":")[2]
