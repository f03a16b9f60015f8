"""Recipes: everything that decides what a training run makes, in one frozen dataclass.

`msae-vgg16` is the paper to the letter; where the paper is silent, the field's comment says what
was chosen and why. The resolved recipe is stored in the checkpoint that it made.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from model.checkpoint import EncoderConfig
from model.errors import SkyfixError
from model.network import NetworkConfig
from model.panorama import Band
from model.preprocessing import Preprocessing
from model.trunks import BATCH_NORM_TRUNKS, TRUNKS


class RecipeError(SkyfixError):
    """An unknown recipe, or a value its field cannot take."""


class _Range(NamedTuple):
    words: str
    holds: Callable[[Any], bool]  # False of NaN, which no comparison holds of


def _at_least(low: int) -> _Range:
    return _Range(f"at least {low}, and finite", lambda value: low <= value < math.inf)


_ABOVE_0 = _Range("above 0, and finite", lambda value: 0 < value < math.inf)
_BELOW_1 = _Range("at least 0 and below 1", lambda value: 0 <= value < 1)
_SHARE = _Range("from 0 to 1", lambda value: 0 <= value <= 1)

# What a recipe's numbers may be; of a tuple, each of its numbers.
_RANGES = {
    "encoder.network.trunk": _Range(f"one of {', '.join(TRUNKS)}", TRUNKS.__contains__),
    "encoder.network.neck": _at_least(1),
    "encoder.network.group_channels": _at_least(1),
    "encoder.network.dimension": _at_least(1),
    "encoder.preprocessing.input_size": _at_least(32),  # the stride of most trunks
    "encoder.preprocessing.strip_size": _at_least(1),
    "encoder.preprocessing.band": _Range(
        "none, or within 90,-90 with its top above its bottom",
        lambda band: band is None or 90 >= band.top_deg > band.bottom_deg >= -90,
    ),
    "encoder.preprocessing.ground_span_m": _ABOVE_0,
    "encoder.preprocessing.ground_camera_height_m": _ABOVE_0,
    "encoder.preprocessing.mean": _SHARE,
    "encoder.preprocessing.std": _ABOVE_0,
    "encoder.aerial_footprint_m": _ABOVE_0,
    "frozen_maps": _Range("from 0 to 3", lambda value: 0 <= value <= 3),
    "alpha": _ABOVE_0,
    "temperature": _ABOVE_0,
    "label_smoothing": _BELOW_1,
    "negative_distance_m": _at_least(0),
    "queue_length": _at_least(0),
    "queue_hardest": _at_least(1),
    "queue_start_epoch": _at_least(0),
    "queue_weight": _at_least(0),
    "region_m": _ABOVE_0,
    "sampling_group": _at_least(2),
    "sampling_visual_epoch": _at_least(0),
    "epochs": _at_least(1),
    "batch_size": _at_least(2),
    "learning_rate": _ABOVE_0,
    "betas": _BELOW_1,
    "weight_decay": _at_least(0),
    "step_epochs": _at_least(1),
    "warmup_steps": _at_least(0),
    "ema": _BELOW_1,
    "chunk_size": _at_least(0),
    "ramp_epochs": _at_least(0),
    "heading_noise_deg": _at_least(0),
    "offset_m": _at_least(0),
    "missing_band": _SHARE,
    "limited_view": _SHARE,
    "colour_jitter": _SHARE,
    "random_convolution": _SHARE,
}


@dataclass(frozen=True)
class Recipe:
    """One training run. Lengths in metres, angles in degrees, durations in epochs or steps."""

    name: str
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pretrained: bool = False  # ImageNet initialisation of the trunk
    # The trunk's weights up to so many of its maps stay as they begin: what ImageNet taught them
    # of photographs is kept, and a step is cheaper.
    frozen_maps: int = 0

    loss: Literal["triplet", "info_nce"] = "triplet"
    alpha: float = 10.0  # "triplet", eq. 4-6
    temperature: float = 0.07  # "info_nce"
    label_smoothing: float = 0.1  # "info_nce"
    # Two views nearer than this show the same place and are no negatives of each other. The paper
    # knows no positions; 0 keeps every other pair a negative.
    negative_distance_m: float = 0.0

    # Global mining strategy (GMS). The paper fixes none of these. To "info_nce" the queue is more
    # aerials that each street must be told from.
    queue_length: int = 0  # descriptors kept; 0: without GMS
    queue_hardest: int = 8  # "the most difficult negatives" of a batch: the top eighth
    queue_start_epoch: int = 0  # fig. 7: at the beginning of training it hurts
    queue_weight: float = 1.0  # "triplet": of the queue's mean beside the batch's mean

    # Which pairs share a batch: "shuffle" takes them from everywhere, as the paper does; "region"
    # from ground `region_m` wide; "hard" groups neighbours on the ground, and from an epoch on,
    # look-alikes by the descriptors of the epoch before.
    sampling: Literal["shuffle", "region", "hard"] = "shuffle"
    region_m: float = 3000.0
    sampling_group: int = 8
    sampling_visual_epoch: int = 2

    # Optimisation.
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["step", "cosine"] = "step"
    step_epochs: int = 80  # "step": every so many epochs the rate falls to a tenth
    warmup_steps: int = 0
    ema: float = 0.0  # decay of the moving average of weights that is stored; 0: the weights
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the network's arithmetic in training
    # Pairs through the network at a time, 0: the whole batch. Smaller ones save memory and cost a
    # second forward pass; the gradient is the whole batch's. Trunks with batch norm must be at 0.
    chunk_size: int = 0
    stored: Literal["fp32", "fp16"] = "fp32"  # of the checkpoint's weights

    # Augmentation.
    # What follows but for rotation and mirror grows from nothing over so many epochs: at full
    # strength from the start it costs most of what a short run can learn.
    ramp_epochs: int = 0
    # "street" turns the street view alone, as the paper does (which loses the north alignment);
    # "joint" turns both views by the same quarter turn; "none".
    rotation: Literal["street", "joint", "none"] = "street"
    mirror: bool = False  # both views, east for west
    heading_noise_deg: float = 0.0  # uniform, street only: compass error, and rolls that miss
    offset_m: float = 0.0  # the street may stand so far from the tile's centre, on each axis
    missing_band: float = 0.0  # share of panoramas that lose a random top and bottom
    limited_view: float = 0.0  # share of panoramas of which an arc is left, as of a photograph
    colour_jitter: float = 0.0  # each view alone: brightness, contrast, colour balance
    # Share of views, each alone, blended with a random convolution of themselves (RandConv, Xu et
    # al. 2021): shapes stay, and neither colour nor texture can be relied on.
    random_convolution: float = 0.0

    def __post_init__(self) -> None:
        for name, (words, holds) in _RANGES.items():
            value = attrgetter(name)(self)
            for one in value if type(value) is tuple else (value,):  # a Band is one value
                if not holds(one):
                    raise RecipeError(f"{name} is {one}: it must be {words}")
        if self.chunk_size and self.encoder.network.trunk in BATCH_NORM_TRUNKS:
            raise RecipeError(
                f"chunk_size is {self.chunk_size}: {self.encoder.network.trunk} has batch norm, "
                "which needs the batch whole; set chunk_size to 0, or choose another trunk"
            )


MSAE_VGG16 = Recipe(
    name="msae-vgg16",
    encoder=EncoderConfig(
        # D = 1024: the paper names no length; pool5 as features keeps the layer at 42 M weights.
        NetworkConfig(trunk="vgg16", group_channels=32, dimension=1024),
        # The whole CVUSA panorama, as published: 224 rows of 1232 columns.
        Preprocessing(input_size=288, strip_size=(224, 1232), band=None),
        # A CVUSA aerial, 750 px of about 0.235 m.
        aerial_footprint_m=176.0,
    ),
    pretrained=True,
    queue_length=1024,  # two epochs' worth is stale, one batch's is not global: 16 batches of 64
    queue_start_epoch=10,
)

MSAE_DEMO = Recipe(
    name="msae-demo",
    encoder=EncoderConfig(NetworkConfig(), Preprocessing(), aerial_footprint_m=64.0),
    negative_distance_m=11.0,  # within half a stride on both axes a tile still is the place
    queue_length=1024,
    queue_hardest=16,
    queue_start_epoch=2,
    epochs=12,  # of 16,000 pairs: 30 minutes on two cores
    learning_rate=1e-3,
    weight_decay=1e-4,
    schedule="cosine",
    warmup_steps=200,
    precision="bf16",
    stored="fp16",  # 15 MiB; validation measures what is stored
    rotation="joint",
    mirror=True,
    ramp_epochs=8,  # measured: docs/decisions.md
    heading_noise_deg=6.0,
    offset_m=8.0,  # half the stride of the tiles that `skyfix ingest` cuts
    missing_band=0.15,
    colour_jitter=0.2,
)

# What it does beyond the paper is for photographs, whose two views differ more than a town's:
# docs/decisions.md.
SKYFIX_MODERN = replace(
    MSAE_DEMO,
    name="skyfix-modern",
    encoder=EncoderConfig(
        # It costs a CPU less than the small trunk, and ImageNet taught it photographs.
        NetworkConfig(trunk="efficientnet_lite0", neck=64),
        # It was taught with (level - 127) / 128, which this is but for 0.4 %.
        Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        aerial_footprint_m=64.0,
    ),
    pretrained=True,
    frozen_maps=1,
    loss="info_nce",
    queue_length=0,
    sampling="hard",
    sampling_visual_epoch=1,
    sampling_group=16,
    epochs=7,  # of 26,400 pairs: 50 minutes on two cores
    learning_rate=5e-4,
    ema=0.998,
    ramp_epochs=3,
    missing_band=0.3,
    limited_view=0.1,
    colour_jitter=0.4,
    random_convolution=0.2,  # measured: docs/benchmarks.md
)

RECIPES = {recipe.name: recipe for recipe in (MSAE_VGG16, MSAE_DEMO, SKYFIX_MODERN)}

# The paper's table 2: the method less one part at a time. Each is a recipe too; see the end.
WITHOUT = {
    "ipt": "encoder.preprocessing.projection=none",
    "msae": "encoder.network.attention=false",
    "gms": "queue_length=0",
}


def find(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name with `field=value` overrides applied in order.

    Fields of the encoder are reached by dots: `encoder.preprocessing.projection=ground`.

    Raises:
        RecipeError: unknown recipe or field, or a value of the wrong type or out of its range.
    """
    try:
        recipe = RECIPES[name]
    except KeyError:
        raise RecipeError(f"recipe {name!r} is unknown; known: {', '.join(RECIPES)}") from None
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise RecipeError(f"override {override!r} is not of the form field=value")
        recipe = _replaced(recipe, path.split("."), text, override)
    return recipe


def _replaced(config: Any, path: Sequence[str], text: str, override: str) -> Any:
    hints = typing.get_type_hints(type(config))
    name = path[0]
    if name not in {one.name for one in dataclasses.fields(config)}:
        known = ", ".join(sorted(hints))
        raise RecipeError(f"override {override!r}: no field {name!r}; fields: {known}")
    if len(path) > 1:
        if not dataclasses.is_dataclass(hints[name]):
            raise RecipeError(f"override {override!r}: {name!r} has no fields of its own")
        value = _replaced(getattr(config, name), path[1:], text, override)
    else:
        try:
            value = _parsed(text, hints[name])
        except (TypeError, ValueError) as error:
            raise RecipeError(f"override {override!r}: {error}") from None
    try:
        return replace(config, **{name: value})
    except ValueError as error:
        raise RecipeError(f"override {override!r}: {error}") from None


def _parsed(text: str, hint: Any) -> Any:
    """`text` as a value of a field's type."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if text not in options:
            raise ValueError(f"{text!r} is not one of {', '.join(options)}")
        return text
    if origin in (types.UnionType, typing.Union):
        if text.lower() == "none" and type(None) in options:
            return None
        return _parsed(text, next(one for one in options if one is not type(None)))
    if origin is tuple:
        return tuple(map(_parsed, _parts(text, len(options)), options))
    if hint is Band:
        return Band(*map(float, _parts(text, 2)))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    if hint in (int, float, str):
        return hint(text)
    raise TypeError(f"a whole {getattr(hint, '__name__', hint)} cannot be given")


def _parts(text: str, count: int) -> list[str]:
    parts = text.split(",")
    if len(parts) != count:
        raise ValueError(f"{text!r} is not {count} values between commas")
    return parts


def describe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values."""
    return asdict(recipe) | {"encoder": recipe.encoder.as_dict()}


for _part, _less in WITHOUT.items():
    _name = f"{MSAE_DEMO.name}-without-{_part}"
    RECIPES[_name] = find(MSAE_DEMO.name, (f"name={_name}", _less))
