"""Hostile images: every format, truncated, with flipped bytes, glued, with false metadata."""

import io
import re
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

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
    "PosePitchDegrees",
    "PoseRollDegrees",
    "FullPanoWidthPixels",
    "FullPanoHeightPixels",
    "CroppedAreaImageWidthPixels",
    "CroppedAreaImageHeightPixels",
    "CroppedAreaLeftPixels",
    "CroppedAreaTopPixels",
)
PROJECTIONS = ("equirectangular", "cylindrical", "rectilinear")
VALUES = ("nan", "inf", "-1", "0", "30", "1e308", "4096", *PROJECTIONS, "", "९", "0x10", "x" * 5000)
MODES = ("RGB", "L", "CMYK", "RGBA", "P", "1", "I;16", "LA")
FORMATS = {"JPEG": ("RGB", "L", "CMYK"), "PNG": MODES[:2] + MODES[3:], "WEBP": ("RGB", "RGBA")}
FORMATS["AVIF"] = FORMATS["WEBP"]
Random = np.random.Generator


def hostile_images(seed: int, count: int) -> Iterator[bytes]:
    """`count` random files and then the files `by_hand`, the same for the same seed.

    About one in eight is whole.
    """
    random = np.random.default_rng(seed)
    for _ in range(count):
        data = whole(random, str(random.choice(list(FORMATS))))
        for _ in range(int(random.integers(0, 3))):
            data = MUTATIONS[random.integers(len(MUTATIONS))](random, data)
        yield data
    yield from by_hand(random)


def by_hand(random: Random) -> Iterator[bytes]:
    """Files truncated where a parser changes its state, and bombs of scans and of XMP."""
    several = flat_jpeg(64, 32, scans=3)
    noise = Image.fromarray(random.integers(0, 256, (32, 64, 3), np.uint8))
    progressive = saved(noise, "JPEG", progressive=True)
    for data in (several, progressive, *(whole(random, form) for form in FORMATS)):
        yield from (data[:at] for at in borders(data))
    yield from (several, flat_jpeg(16384, 8192, scans=3))
    yield from (many_scans(progressive, 50), many_scans(progressive, 10_000))
    for file_format in FORMATS:
        elements = b"<x>" + b"<b/>" * (10_000 if file_format == "JPEG" else 700_000) + b"</x>"
        yield saved(Image.new("RGB", (64, 32)), file_format, **with_xmp(file_format, elements))


def borders(data: bytes) -> list[int]:
    """Where a JPEG's markers begin and end, where the chunks of other formats begin."""
    if data.startswith(b"\xff\xd8"):
        markers = re.finditer(rb"\xff[\x01-\xfe]", data)
        return [at for marker in markers for at in marker.span()]
    riff = data.startswith(b"RIFF")
    extra = {b"\x89PNG": 12, b"RIFF": 8}.get(data[:4], 0)  # bytes that a chunk's length leaves out
    found, at = [], {b"\x89PNG": 8, b"RIFF": 12}.get(data[:4], 0)
    while at < len(data):
        found.append(at)
        length = _even(data[at + 4 : at + 8]) if riff else int.from_bytes(data[at : at + 4], "big")
        at += length + extra
    return found


def _even(length: bytes) -> int:
    return -(-int.from_bytes(length, "little") // 2) * 2


def flat_jpeg(width: int, height: int, scans: int = 1) -> bytes:
    """A grey sequential JPEG (4:4:4), made without its pixels in memory.

    One scan holds three components; several scans hold one component each. Sides are multiples
    of 16.
    """
    model = saved(Image.new("L", (16, 16)), "JPEG")
    frame, scan = model.index(b"\xff\xc0"), model.index(b"\xff\xda")
    names = range(1, max(3, scans) + 1)
    components = b"".join(bytes([name, 0x11, 0]) for name in names)
    size = struct.pack(">HBHHB", 8 + len(components), 8, height, width, len(names))
    data = model[:frame] + b"\xff\xc0" + size + components + model[frame + 13 : scan]
    for part in [[name] for name in names] if scans > 1 else [list(names)]:
        chosen = b"".join(bytes([name, 0]) for name in part)
        data += b"\xff\xda" + struct.pack(">HB", 6 + len(chosen), len(part)) + chosen
        # Four blocks in three bytes: each "as bright as the last" (00) and "no more" (1010).
        data += b"\0\x3f\0" + b"\x28\xa2\x8a" * (width * height // 64 * len(part) // 4)
    return data + b"\xff\xd9"


def many_scans(progressive: bytes, count: int, before: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan, with its table, is repeated `count` times."""
    table = progressive.rindex(b"\xff\xc4")
    return progressive[:-2] + (before + progressive[table:-2]) * count + b"\xff\xd9"


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def with_xmp(file_format: str, data: bytes) -> dict[str, object]:
    """Pillow's options that write this XMP: a PNG keeps it as text."""
    if file_format != "PNG":
        return {"xmp": data}
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", data)
    return {"pnginfo": text}


def whole(random: Random, file_format: str) -> bytes:
    """A readable file of any mode and metadata."""
    mode = str(random.choice(FORMATS[file_format]))
    width = int(random.choice([1, 16, 40, 64, 200]))
    height = int(random.choice([1, 16, width // 2 + 1, width]))
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels).convert("RGB" if mode in ("I;16", "LA") else mode)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    options = with_xmp(file_format, xmp(random))
    if random.random() < 0.5:
        fields = exif(random)
        if file_format != "AVIF" or fields[6:10] in (b"MM\0*", b"II*\0"):  # else it is not written
            options["exif"] = fields
    if file_format == "JPEG":
        options["progressive"] = bool(random.random() < 0.3)
    if file_format == "AVIF":
        options["speed"] = 10
    if mode != "I;16" and random.random() < 0.2:
        file_format = "MPO" if file_format == "JPEG" else file_format
        options |= {"save_all": True, "append_images": [image.rotate(90)]}
    return saved(image, file_format, **options)


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
    others = [b"PK\x03\x04", b"<html><script>", b"%PDF-1.7", whole(random, "JPEG")]
    other = others[random.integers(4)]
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
