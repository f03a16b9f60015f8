"""Images that nobody means well with: every format, cut, flipped, glued, with lying metadata."""

import io
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {fields}/></rdf:RDF></x:xmpmeta>'
)
ENTITIES = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'
    "<x>&c;&f;</x>"
)
GPANO = (
    "ProjectionType",
    "PoseHeadingDegrees",
    "FullPanoWidthPixels",
    "FullPanoHeightPixels",
    "CroppedAreaImageWidthPixels",
    "CroppedAreaImageHeightPixels",
    "CroppedAreaLeftPixels",
    "CroppedAreaTopPixels",
)
VALUES = ("nan", "inf", "-1", "0", "1e308", "4096", "equirectangular", "", "९", "0x10", "x" * 5000)
MODES = ("RGB", "L", "CMYK", "RGBA", "P", "1", "I;16", "LA")
FORMATS = {"JPEG": ("RGB", "L", "CMYK"), "PNG": MODES[:2] + MODES[3:], "WEBP": ("RGB", "RGBA")}
Random = np.random.Generator


def hostile_images(seed: int, count: int) -> Iterator[bytes]:
    """`count` files, the same for the same seed; about one in eight is whole."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        data = whole(random)
        for _ in range(int(random.integers(0, 3))):
            data = MUTATIONS[random.integers(len(MUTATIONS))](random, data)
        yield data


def whole(random: Random) -> bytes:
    """A readable file of any format, mode and metadata."""
    file_format = str(random.choice(list(FORMATS)))
    mode = str(random.choice(FORMATS[file_format]))
    width = int(random.choice([1, 16, 40, 64, 200]))
    height = int(random.choice([1, 16, width // 2 + 1, width]))
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels).convert("RGB" if mode in ("I;16", "LA") else mode)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    options: dict[str, object] = {"exif": exif(random)} if random.random() < 0.5 else {}
    if file_format == "JPEG":
        options |= {"progressive": bool(random.random() < 0.3), "xmp": xmp(random)}
    if file_format == "WEBP":
        options["xmp"] = xmp(random)
    if file_format != "JPEG" and mode != "I;16" and random.random() < 0.2:
        options |= {"save_all": True, "append_images": [image.rotate(90)]}
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(random: Random) -> bytes:
    """Any orientation and direction, or bytes that only begin like EXIF."""
    if random.random() < 0.3:
        return b"Exif\0\0" + random.bytes(int(random.integers(0, 200)))
    fields = Image.Exif()
    fields[0x0112] = int(random.integers(0, 300))
    fields.get_ifd(0x8825)[17] = float(random.choice([0.0, 90.0, 400.0]))
    return fields.tobytes()


def xmp(random: Random) -> bytes:
    """GPano fields with any value, entity bombs, deep nesting, or no XML at all."""
    kind = random.integers(4)
    if kind == 0:
        return ENTITIES.encode()
    if kind == 1:
        return ("<a>" * 3000).encode()
    if kind == 2:
        return random.bytes(100)
    names = random.choice(GPANO, int(random.integers(1, 6)), replace=False)
    fields = " ".join(f'GPano:{name}="{random.choice(VALUES)}"' for name in names)
    return XMP.format(fields=fields).encode()


def truncated(random: Random, data: bytes) -> bytes:
    return data[: int(random.integers(0, len(data) + 1))]


def flipped(random: Random, data: bytes) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    places = random.integers(0, max(len(data), 1), min(len(data), 8))
    changed[places] = random.integers(0, 256, len(places))
    return changed.tobytes()


def lying_size(random: Random, data: bytes) -> bytes:
    """Large numbers where a header may keep its sides."""
    if len(data) < 40:
        return data
    at = int(random.choice([16, 20, 24, 26]))
    frame = data.find(b"\xff\xc0")
    at = frame + 5 if frame > 0 else at
    side = struct.pack(">HH", *random.choice([1, 15, 8192, 65535], 2).tolist())
    return data[:at] + side + data[at + 4 :]


def glued(random: Random, data: bytes) -> bytes:
    """Two files in one, as polyglots are."""
    other = [b"PK\x03\x04", b"<html><script>", b"%PDF-1.7", whole(random)][random.integers(4)]
    return data + other if random.random() < 0.5 else other + data


def repeated(random: Random, data: bytes) -> bytes:
    start, stop = sorted(random.integers(0, len(data) + 1, 2).tolist())
    return data[:stop] + data[start:stop] * int(random.integers(1, 50)) + data[stop:]


MUTATIONS: tuple[Callable[[Random, bytes], bytes], ...] = (
    truncated,
    flipped,
    lying_size,
    glued,
    repeated,
)
