"""GPano's PoseHeadingDegrees in the text of an XMP packet; every other character stays."""

from __future__ import annotations

import re

from model.gpano import read_gpano
from service.survey.place import MetadataError

NAME = "PoseHeadingDegrees"
_ATTRIBUTE = re.compile(rb"([\w-]+:PoseHeadingDegrees\s*=\s*)([\"'])[^\"'<]*\2")
_ELEMENT = re.compile(rb"(<[\w-]+:PoseHeadingDegrees(?:\s[^>]*)?>)[^<]*(</)")
_ABOUT = re.compile(rb"[\w-]+:about\s*=\s*(\"[^\"]*\"|'[^']*')")
_END = re.compile(rb"</([\w-]+):RDF\s*>")
_ADDED = (
    '<{rdf}:Description {rdf}:about={about} xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
    ' GPano:PoseHeadingDegrees="{heading}"/>'
)
_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF>'
    '</x:xmpmeta><?xpacket end="w"?>'
).encode()


def with_heading(packet: bytes | None, heading_deg: float) -> bytes:
    """The packet with this PoseHeadingDegrees. None: there is no packet.

    Raises:
        MetadataError: the packet is not UTF-8, or no XMP.
    """
    heading = f"{heading_deg:.2f}"
    text, attributes = _ATTRIBUTE.subn(rb"\g<1>\g<2>%b\g<2>" % heading.encode(), packet or _EMPTY)
    text, elements = _ELEMENT.subn(rb"\g<1>%b\g<2>" % heading.encode(), text)
    if not attributes + elements:
        text = _added(text, heading)
    if read_gpano([text]).get(NAME) != heading:
        raise MetadataError(
            "its XMP is not UTF-8, or no XMP: save the file again with another program"
        )
    return text


def _added(text: bytes, heading: str) -> bytes:
    """All descriptions of a packet must be about the same."""
    end, about = _END.search(text), _ABOUT.search(text)
    if end is None:
        return text
    element = _ADDED.format(
        rdf=end[1].decode(), about=about[1].decode() if about else '""', heading=heading
    )
    return text[: end.start()] + element.encode() + text[end.start() :]
