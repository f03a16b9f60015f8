"""The query path against brute force: geometry's precedence, unknown headings, place hints."""

import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.geo import Bounds, LatLon, offset
from model.images import ImageError, decode_image, open_image
from model.panorama import GeometryError, Panorama
from model.stated_heading import HeadingTrust
from service.index.catalogue import Tile
from service.index.frozen_tiles import TileTable, freeze
from service.index.stored_calibration import Calibration
from service.locate.hints import UNKNOWN, HintError, Hints
from service.locate.localizer import Localizer

COLUMNS = 64
ORIGIN = LatLon(25.0, -80.0)
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" '
    'GPano:ProjectionType="{projection}" GPano:PoseHeadingDegrees="{heading}"/>'
    "</rdf:RDF></x:xmpmeta>"
)


class TurningEncoder:
    """A descriptor is the strip turned north-up, as one unit vector: exact under rolls."""

    fingerprint = "turning"
    at_once = 1

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def read_street(self, panorama: Panorama) -> NDArray[np.uint8]:
        small = Image.fromarray(panorama.image.decode()).resize((COLUMNS, 8), Image.Resampling.BOX)
        return np.asarray(small)

    def encode_strips(
        self, strips: list[NDArray[np.uint8]], norths: list[float]
    ) -> NDArray[np.float32]:
        self.encoded.append(len(strips))
        turned = [
            np.roll(strip, round((0.5 - north) * COLUMNS), axis=1).ravel()
            for strip, north in zip(strips, norths, strict=True)
        ]
        vectors = np.array(turned, np.float32) - 127.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class ListedTiles:
    """An index in memory, searched by brute force; its own live holder."""

    version = "v1"
    calibration = Calibration(reach_m=32.0, spacing_m=100.0, depth=5)

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.vectors = vectors
        self.searches = 0
        self.centres = [offset(ORIGIN, 100.0 * row, 0.0) for row in range(len(vectors))]
        tiles = [
            Tile(f"t{row}", "town", *centre, 64.0, bytes(32))
            for row, centre in enumerate(self.centres)
        ]
        self.tiles = TileTable(freeze(tiles, len(tiles)))

    def get(self) -> "ListedTiles":
        return self

    def search(
        self, vectors: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        self.searches += 1
        rows = np.arange(len(self.vectors)) if allowed is None else np.flatnonzero(allowed)
        squared = ((vectors[:, None] - self.vectors[rows][None]) ** 2).sum(-1)
        order = np.argsort(squared, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(squared, order, 1), rows[order]


def panorama(seed: int, heading: float | None = None, projection: str = "equirectangular") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, COLUMNS, 3), np.uint8)
    buffer = io.BytesIO()
    xmp = {} if heading is None else {"xmp": XMP.format(heading=heading, projection=projection)}
    Image.fromarray(pixels).save(buffer, "PNG") if not xmp else Image.fromarray(pixels).save(
        buffer, "WEBP", lossless=True, xmp=xmp["xmp"].encode()
    )
    return buffer.getvalue()


@pytest.fixture
def encoder() -> TurningEncoder:
    return TurningEncoder()


@pytest.fixture
def tiles(encoder: TurningEncoder) -> ListedTiles:
    """Tile i is the descriptor of panorama(i) with north in its centre column."""
    strips = [encoder.read_street(Panorama(open_image(panorama(seed)))) for seed in range(20)]
    return ListedTiles(encoder.encode_strips(strips, [0.5] * 20))


@pytest.fixture
def localizer(encoder: TurningEncoder, tiles: ListedTiles) -> Localizer:
    return Localizer(encoder, tiles, rolls=16)


def test_a_known_heading_finds_its_tile(localizer: Localizer, tiles: ListedTiles) -> None:
    fix = localizer.locate(panorama(7), Hints(heading_deg=0.0), 3)
    assert [match.rank for match in fix.matches] == [1, 2, 3]
    assert fix.matches[0].tile_id == "t7"
    assert fix.matches[0].distance == pytest.approx(0.0, abs=1e-6)
    assert fix.position == tiles.centres[7]
    assert (fix.index_version, fix.encoder) == ("v1", "turning")
    assert set(fix.timings_ms) == {"geometry", "decode", "queue", "encode", "search"}


@pytest.mark.parametrize("turn", range(0, 16, 3))
def test_an_unknown_heading_is_estimated(localizer: Localizer, turn: int) -> None:
    """One roll is right to the pixel; between rolls, noise changes without a pattern."""
    pixels = np.roll(decode_image(panorama(3)), turn * COLUMNS // 16, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    best = localizer.locate(buffer.getvalue(), top_k=1).matches[0]
    assert (best.tile_id, best.distance) == ("t3", pytest.approx(0.0, abs=1e-6))
    error = (best.heading_deg + turn * 22.5 + 180.0) % 360.0 - 180.0
    assert abs(error) <= 22.5 / 2


class Compass(TurningEncoder):
    """Encodes only where north lies, and changes with the heading as views of towns do."""

    def encode_strips(
        self, strips: list[NDArray[np.uint8]], norths: list[float]
    ) -> NDArray[np.float32]:
        angle = 2.0 * np.pi * np.array(norths)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


@pytest.mark.parametrize("north", [0.0, 0.3, 0.485, 0.99])
def test_a_heading_between_the_rolls_is_found(north: float) -> None:
    encoder = Compass()
    tiles = ListedTiles(encoder.encode_strips([], [north]))
    best = Localizer(encoder, tiles, rolls=16).locate(panorama(3), top_k=1).matches[0]
    error = (best.heading_deg - (0.5 - north) * 360.0 + 180.0) % 360.0 - 180.0
    assert abs(error) < 0.2  # the nearest roll is up to 11 degrees off


def error_deg(found: float, true: float) -> float:
    return abs((found - true + 180.0) % 360.0 - 180.0)


@pytest.mark.parametrize("off", [-20.0, -13.0, 0.0, 7.0, 20.0])
def test_a_stated_heading_is_searched_within_its_tolerance(off: float) -> None:
    encoder = Compass()
    tiles = ListedTiles(encoder.encode_strips([], [0.3]))
    true = (0.5 - 0.3) * 360.0
    hints = Hints(heading_deg=true + off, heading_tolerance_deg=20.0)
    fix = Localizer(encoder, tiles).locate(panorama(3), hints, 1)
    assert error_deg(fix.matches[0].heading_deg, true) < 0.2
    assert (fix.rolls, fix.geometry["heading_deg"].value) == (5, true + off)
    assert "within 20 degrees" in str(fix.geometry["heading_deg"].note)


def test_a_heading_outside_the_tolerance_is_never_answered() -> None:
    encoder = Compass()
    localizer = Localizer(encoder, ListedTiles(encoder.encode_strips([], [0.3])))
    for stated in range(0, 360, 45):
        hints = Hints(heading_deg=float(stated), heading_tolerance_deg=15.0)
        best = localizer.locate(panorama(3), hints, 1).matches[0]
        assert error_deg(best.heading_deg, stated) <= 15.0 + 1e-6


def test_a_tolerance_of_half_a_turn_is_an_unknown_heading(localizer: Localizer) -> None:
    unknown = localizer.locate(panorama(3, heading=90.0), Hints(heading_deg=UNKNOWN))
    hints = Hints(heading_deg=90.0, heading_tolerance_deg=180.0)
    assert localizer.locate(panorama(3), hints).matches == unknown.matches
    assert localizer.locate(panorama(3)).matches == unknown.matches
    assert (unknown.rolls, unknown.geometry["heading_deg"].value) == (16, None)


def test_metadata_are_searched_within_the_operator_s_tolerance(
    encoder: TurningEncoder, tiles: ListedTiles
) -> None:
    localizer = Localizer(encoder, tiles, trust=HeadingTrust(("GPano",), 20.0))
    asked = [(Hints(), 5), (Hints(heading_tolerance_deg=0.0), 1), (Hints(heading_deg=90.0), 1)]
    for hints, rolls in asked:
        assert localizer.locate(panorama(3, heading=90.0), hints).rolls == rolls
    distrustful = Localizer(encoder, tiles, trust=HeadingTrust(("EXIF",)))
    assert distrustful.locate(panorama(3, heading=90.0)).geometry["north"].source == "unknown"


def test_rolls_keep_each_tile_once_at_its_best(
    localizer: Localizer, encoder: TurningEncoder, tiles: ListedTiles
) -> None:
    strip = encoder.read_street(Panorama(open_image(panorama(42))))
    rolled = encoder.encode_strips([strip] * 16, [roll / 16 for roll in range(16)])
    squared = ((rolled[:, None] - tiles.vectors[None]) ** 2).sum(-1).min(axis=0)
    fix = localizer.locate(panorama(42), top_k=20)
    assert [match.tile_id for match in fix.matches] == [f"t{row}" for row in np.argsort(squared)]
    assert [match.distance for match in fix.matches] == pytest.approx(np.sort(squared), abs=1e-5)


def test_a_batch_gives_the_answers_of_single_queries(
    localizer: Localizer, encoder: TurningEncoder
) -> None:
    asked = [Hints(heading_deg=10.0), Hints(), Hints(near=ORIGIN, radius_m=450.0), Hints()]
    queries = [
        localizer.prepare(panorama(seed), hints, seed + 1) for seed, hints in enumerate(asked)
    ]
    encoder.encoded.clear()
    together = localizer.answer(queries)
    assert encoder.encoded == [1 + 16 + 16 + 16]
    for query, fix in zip(queries, together, strict=True):
        assert fix.matches == localizer.answer([query])[0].matches
        assert len(fix.matches) == min(query.top_k, 5 if query.hints.near else 20)


def test_position_hints_hide_every_other_tile(localizer: Localizer) -> None:
    near = offset(ORIGIN, 1000.0, 0.0)
    fix = localizer.locate(panorama(3), Hints(near=near, radius_m=150.0), 20)
    assert {match.tile_id for match in fix.matches} == {"t9", "t10", "t11"}
    box = Bounds(ORIGIN.longitude - 0.1, 24.0, near.longitude - 0.0005, 26.0)
    both = localizer.locate(panorama(3), Hints(near=near, radius_m=150.0, bbox=box), 20)
    assert {match.tile_id for match in both.matches} == {"t9"}


def test_an_area_without_tiles_gives_no_match(localizer: Localizer) -> None:
    fix = localizer.locate(panorama(3), Hints(near=LatLon(0.0, 0.0)), 5)
    assert (fix.matches, fix.position) == ((), None)


def test_given_wins_over_gpano_over_assumed(localizer: Localizer) -> None:
    unknown = localizer.locate(panorama(3)).geometry
    assert unknown["north"].value is None
    assert unknown["north"].source == unknown["heading_deg"].source == "unknown"
    assert (unknown["vertical_fov_deg"].value, unknown["horizon"].source) == (180.0, "assumed")
    read = localizer.locate(panorama(3, heading=90.0)).geometry
    assert (read["heading_deg"].value, read["heading_deg"].source) == (90.0, "GPano")
    given = localizer.locate(panorama(3, heading=90.0), Hints(north=0.5, horizon=0.4)).geometry
    assert (given["heading_deg"].value, given["north"].source) == (0.0, "given")
    assert (given["horizon"].value, given["horizon"].source) == (0.4, "given")


def test_the_answer_names_the_projection_and_the_tilt(localizer: Localizer) -> None:
    hints = Hints(projection="rectilinear", horizontal_fov_deg=90.0, roll_deg=5.0)
    stated = localizer.locate(panorama(3), hints).geometry
    assert (stated["projection"].value, stated["projection"].source) == ("rectilinear", "given")
    assert (stated["roll_deg"].value, stated["pitch_deg"].source) == (5.0, "assumed")
    half_as_high = 2 * math.degrees(math.atan(0.5))
    assert stated["vertical_fov_deg"].value == pytest.approx(half_as_high)


@pytest.mark.parametrize(
    ("orientation", "lying"),
    [
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_a_panorama_stored_on_its_side_is_found_like_the_upright_panorama(
    localizer: Localizer, orientation: int, lying: Image.Transpose
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(panorama(3))) as image:
        image.transpose(lying).save(buffer, "PNG", exif=exif)
    facing = Hints(heading_deg=0.0)
    fix, upright = (localizer.locate(data, facing, 5) for data in (buffer.getvalue(), panorama(3)))
    assert fix.matches == upright.matches
    assert fix.geometry == upright.geometry
    assert fix.geometry["vertical_fov_deg"].value == 180.0


def test_given_values_replace_wrong_gpano(localizer: Localizer) -> None:
    wrong = panorama(3, heading="721")
    unknown = localizer.locate(wrong).geometry["heading_deg"]
    assert (unknown.value, unknown.source) == (None, "unknown")
    assert "'721' is ignored" in str(unknown.note)
    given = localizer.locate(wrong, Hints(heading_deg=2.0)).geometry["heading_deg"]
    assert (given.value, given.source) == (2.0, "given")


@pytest.mark.parametrize(("given", "normalised"), [(2.0, 2.0), (359.9999999, 0.0), (-90.0, 270.0)])
def test_a_match_states_the_given_heading(
    given: float, normalised: float, localizer: Localizer
) -> None:
    fix = localizer.locate(panorama(3), Hints(heading_deg=given))
    stated = fix.geometry["heading_deg"].value
    assert (stated, {match.heading_deg for match in fix.matches}) == (normalised, {normalised})


def test_unusable_input_is_refused(localizer: Localizer) -> None:
    with pytest.raises(HintError, match="top_k=0"):
        localizer.locate(panorama(3), top_k=0)
    with pytest.raises(GeometryError, match="fisheye"):
        localizer.locate(panorama(3, heading=0.0, projection="fisheye"))
    with pytest.raises(ImageError):
        localizer.locate(b"no image")
