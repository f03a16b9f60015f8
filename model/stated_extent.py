"""The part of the sphere that GPano states, restored where its writer got it wrong.

The pixels of an equirectangular image cover equal degrees across and down, so a full panorama is
twice as wide as high, and one side tells the other. Writers put the file's own size there, or keep
the numbers when they cut or resize the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from model.panorama import ASPECT_TOLERANCE, GeometryError

EXTENT = HORIZON, VERTICAL, HORIZONTAL = ("horizon", "vertical_fov_deg", "horizontal_fov_deg")
GIVE = f"give heading_deg, {', '.join(EXTENT)}, so that GPano is not read"
ASSUMED, STATED, CORRECTED = "assumed", "GPano", "GPano, corrected"
MIN_GROUND_DEG = 30.0  # below the horizon, in an image that is taken to begin where GPano says

_NEARLY = 0.99  # of a whole turn, or of the height from zenith to nadir


class StatedExtent(NamedTuple):
    """Fields of `PanoramaGeometry`, with sources and notes by their names.

    horizontal_fov_deg: None: unknown.
    centre_deg: azimuth of the image's centre from the middle of its full panorama; None: unknown.
    """

    horizon: float = 0.5
    vertical_fov_deg: float | None = None
    horizontal_fov_deg: float | None = 360.0
    centre_deg: float | None = 0.0
    sources: Mapping[str, str] = dict.fromkeys(EXTENT, ASSUMED)
    notes: Mapping[str, str] = {}


UNKNOWN = StatedExtent(horizontal_fov_deg=None)


class _Size(NamedTuple):
    width: float
    height: float

    def __str__(self) -> str:
        return f"{self.width:g}x{self.height:g}"

    def flatness(self, other: _Size) -> float:
        """How many times as flat as another; 1: of equal proportions."""
        return self.width * other.height / (self.height * other.width)

    def resembles(self, other: _Size) -> bool:
        return abs(self.flatness(other) - 1.0) <= ASPECT_TOLERANCE


class _Crop(NamedTuple):
    """An image as a part of its full panorama, in pixels; an offset is None where it is unknown.

    repairs: what was done to the numbers that GPano states.
    top_known: the image begins where `top` says.
    """

    full: _Size
    size: _Size
    left: float | None
    top: float | None
    repairs: tuple[str, ...] = ()
    top_known: bool = True


def choose_extent(gpano: Mapping[str, str], size: tuple[int, int]) -> StatedExtent:
    """The extent of an image of (height, width), as GPano states it; assumed without GPano.

    Raises:
        GeometryError: GPano contradicts itself or the image, and several readings are left.
    """
    file = _Size(size[1], size[0])
    stated = _stated_crop(gpano, file)
    if stated is None:
        return StatedExtent()
    crop = _spherical(_fitted(stated, file))
    found = _fields_of_view(crop)
    horizon, note = _horizon(crop, found["vertical_fov_deg"])
    sources = {"horizon": STATED if note is None else ASSUMED}
    notes = {} if note is None else {"horizon": note}
    for name, literal in _fields_of_view(stated).items():
        sources[name] = STATED if abs(found[name] - literal) < 1.0 else CORRECTED
        if sources[name] == CORRECTED:
            notes[name] = f"{'; '.join(crop.repairs)}. If that is wrong, {GIVE}"
    centre_deg = _centre_deg(crop)
    return StatedExtent(horizon, centre_deg=centre_deg, sources=sources, notes=notes, **found)


def choose_cylinder(gpano: Mapping[str, str]) -> StatedExtent:
    """As `choose_extent`, of a cylindrical image. GPano counts its top from the horizon down."""
    full, width, height = (
        _pixels(gpano, name, 1.0)
        for name in (
            "FullPanoWidthPixels",
            "CroppedAreaImageWidthPixels",
            "CroppedAreaImageHeightPixels",
        )
    )
    top, left = (_pixels(gpano, f"CroppedArea{side}Pixels", -1e6) for side in ("Top", "Left"))
    if full is None:
        return UNKNOWN
    width = width or full
    sources = {HORIZON: ASSUMED, VERTICAL: STATED, HORIZONTAL: STATED}
    horizon, notes = 0.5, {}
    if height and top is not None and -height < top < 0.0:
        horizon, sources[HORIZON] = -top / height, STATED
    else:
        notes[HORIZON] = "GPano leaves open how high the image begins: give horizon"
    if left is None:
        centre_deg = 0.0 if width >= _NEARLY * full else None
    else:
        centre_deg = (left + width / 2.0 - full / 2.0) * 360.0 / full
    fov_deg = min(360.0, 360.0 * width / full)
    return StatedExtent(horizon, None, fov_deg, centre_deg, sources, notes)


def _stated_crop(gpano: Mapping[str, str], file: _Size) -> _Crop | None:
    """A missing side follows from the other side. None without a full panorama."""
    full_width = _pixels(gpano, "FullPanoWidthPixels", 1.0)
    full_height = _pixels(gpano, "FullPanoHeightPixels", 1.0)
    if full_width is None:
        if full_height is None:
            return None
        full_width = 2.0 * full_height
    width = _pixels(gpano, "CroppedAreaImageWidthPixels", 1.0)
    height = _pixels(gpano, "CroppedAreaImageHeightPixels", 1.0)
    if height is None:
        if width is None:
            width = file.width if file.height == full_height else full_width
        height = width * file.height / file.width
    elif width is None:
        width = height * file.width / file.height
    left, top = (_pixels(gpano, f"CroppedArea{side}Pixels", -1e6) for side in ("Left", "Top"))
    full = _Size(full_width, full_height or full_width / 2.0)
    return _Crop(full, _Size(width, height), left, top)


def _fields_of_view(crop: _Crop) -> dict[str, float]:
    return {
        "vertical_fov_deg": min(180.0, 180.0 * crop.size.height / crop.full.height),
        "horizontal_fov_deg": min(360.0, 360.0 * crop.size.width / crop.full.width),
    }


def _fitted(crop: _Crop, file: _Size) -> _Crop:
    """The crop in the image's proportions: the image was cut, resized or filled up since.

    Raises:
        GeometryError: the image is narrower than the crop.
    """
    full, size = crop.full, crop.size
    if crop.left == crop.top == 0.0 and full != size and size.resembles(full):
        said = f"GPano's crop of {size} is its full panorama of {full}, resized"
        crop = crop._replace(full=size, repairs=(said,))
    if file == full != size:
        said = f"the image of {file} is GPano's full panorama, not its crop of {size}"
        return _Crop(full, full, 0.0, 0.0, (said,))
    if size.resembles(file):
        return crop
    if file.flatness(size) < 1.0:
        raise GeometryError(
            f"GPano states a crop of {size} but the image is {file}: it was distorted, or cut at "
            f"its sides. Correct GPano, or {GIVE}"
        )
    said = f"the image of {file} is GPano's crop of {size}, cut at the top or the bottom"
    lower = _Size(size.width, size.width * file.height / file.width)
    return crop._replace(size=lower, repairs=(*crop.repairs, said), top_known=False)


def _spherical(crop: _Crop) -> _Crop:
    """The crop with a full panorama twice as wide as high.

    Where the sides disagree, a side is wrong if the crop would then cover more than a sphere, else
    if the side is the crop's own.

    Raises:
        GeometryError: neither side fits, or both.
    """
    full, size = crop.full, crop.size
    by_width, by_height = _Size(full.width, full.width / 2), _Size(2 * full.height, full.height)
    fitting = [
        sphere
        for sphere in (by_width, by_height)
        if max(size.width / sphere.width, size.height / sphere.height) <= 1.0 + ASPECT_TOLERANCE
    ]
    if fitting and by_width.resembles(full):
        return crop
    own_width = full.width == size.width
    if len(fitting) == 2:
        own = own_width, full.height == size.height
        fitting = [sphere for sphere, lies in zip(fitting, own, strict=True) if not lies]
    if len(fitting) != 1:
        raise _contradiction(crop)
    (sphere,) = fitting
    side = "width" if sphere == by_width else "height"
    said = f"GPano's full panorama of {full} is not twice as wide as high: its {side} is believed"
    crop = crop._replace(full=sphere, repairs=(*crop.repairs, said))
    if sphere == by_width:
        return crop._replace(top_known=False)
    # The heading of a full panorama that is the image itself is the heading of the image's centre.
    return crop._replace(left=(sphere.width - size.width) / 2.0 if own_width else None)


def _horizon(crop: _Crop, vertical_fov_deg: float) -> tuple[float, str | None]:
    """The horizon and, where GPano leaves it open, a note."""
    full, height = crop.full.height, crop.size.height
    if height >= _NEARLY * full:
        return 0.5, None
    top = crop.top or 0.0
    horizon = (full / 2.0 - top) / height
    inside = _lies_inside(top, height, full)
    if crop.top is not None and crop.top_known:
        if not inside:
            raise _contradiction(crop)
        return horizon, None
    if not inside or (1.0 - horizon) * vertical_fov_deg < MIN_GROUND_DEG:
        horizon = 0.5
    return horizon, (
        f"GPano leaves open how high the image begins; the horizon is taken to lie at {horizon:.3f}"
        " of the height: give horizon if that is wrong"
    )


def _centre_deg(crop: _Crop) -> float | None:
    full, width = crop.full.width, crop.size.width
    if crop.left is None:
        return 0.0 if width >= _NEARLY * full else None
    if not _lies_inside(crop.left, width, full):
        raise _contradiction(crop)
    return (crop.left + width / 2.0 - full / 2.0) * 360.0 / full


def _lies_inside(start: float, length: float, whole: float) -> bool:
    rounding = whole / 1000.0
    return -rounding <= start <= whole - length + rounding


def _contradiction(crop: _Crop) -> GeometryError:
    places = ("?" if offset is None else f"{offset:g}" for offset in (crop.left, crop.top))
    return GeometryError(
        f"GPano states a crop of {crop.size} at ({', '.join(places)}) of a full panorama of "
        f"{crop.full}: the crop must lie inside, and the panorama be twice as wide as high. "
        f"Correct GPano, or {GIVE}"
    )


def _pixels(gpano: Mapping[str, str], name: str, low: float) -> float | None:
    text = gpano.get(name)
    if not text:
        return None
    value = _float(text)
    if not low <= value <= 1e6:
        raise GeometryError(
            f"GPano states {name} {text[:40]!r}; expected {low:g} to 1e+06: correct it, or {GIVE}"
        )
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
