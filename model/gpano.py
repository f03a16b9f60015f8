"""The GPano fields of XMP packets: what a file states about the sphere around its camera."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml import sax

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
        handler = _Handler()
        try:
            sax.parseString(packet, handler, forbid_dtd=True)
        except Exception as error:  # SAXParseException, DTDForbidden, whatever hostile XMP provokes
            log.warning("the XMP metadata cannot be parsed and is ignored: %s", error)
        else:
            fields |= handler.fields
    return fields


class _Handler(ContentHandler):
    """Collects attributes and elements that GPano names. Keeps no tree: a tree takes 60 times."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._text: list[str] | None = None  # of the open element

    def startElement(self, name: str, attrs: AttributesImpl) -> None:
        self._text = [] if _local(name) in _FIELDS else None
        for attribute, value in attrs.items():
            if _local(attribute) in _FIELDS:
                self.fields[_local(attribute)] = value.strip()

    def characters(self, content: str) -> None:
        if self._text is not None:
            self._text.append(content)

    def endElement(self, name: str) -> None:
        if self._text is not None:
            self.fields[_local(name)] = "".join(self._text).strip()
        self._text = None


def _local(name: str) -> str:
    return name.rpartition(":")[2]
