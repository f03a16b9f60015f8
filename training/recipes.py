"""Recipes: every setting that decides what a training run makes, in one frozen dataclass.

`msae-vgg16` follows the paper to the letter. Where the paper is silent, a field's comment states
the choice and the reason. A checkpoint stores the resolved recipe that made it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, field, replace
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from model.checkpoint import EncoderConfig
from model.errors import SkyfixError
from model.network import NetworkConfig
from model.panorama import Band
from model.preprocessing import Preprocessing
from model.trunks import BATCH_NORM_TRUNKS, TRUNKS

_TINY, _LARGEST = math.ulp(0.0), sys.float_info.max  # the least number above 0, the last finite


class RecipeError(SkyfixError):
    """An unknown recipe, or a value that its field cannot take."""


def _check_encoder(encoder: EncoderConfig) -> EncoderConfig:
    trunk, band = encoder.network.trunk, encoder.preprocessing.band
    if trunk not in TRUNKS:
        allowed = f"one of {', '.join(TRUNKS)}"
        raise RecipeError(f"encoder.network.trunk is {trunk}: it must be {allowed}")
    if band is not None and not 90 >= band.top_deg > band.bottom_deg >= -90:
        allowed = "none, or within 90,-90 with its top above its bottom"
        raise RecipeError(f"encoder.preprocessing.band is {band}: it must be {allowed}")
    for name, least, most, allowed in (
        ("network.neck", 1, _LARGEST, "at least 1"),
        ("network.group_channels", 1, _LARGEST, "at least 1"),
        ("network.dimension", 1, _LARGEST, "at least 1"),
        ("preprocessing.input_size", 32, _LARGEST, "at least 32"),  # the stride of most trunks
        ("preprocessing.strip_size", 1, _LARGEST, "at least 1"),
        ("preprocessing.ground_span_m", _TINY, _LARGEST, "above 0, and finite"),
        ("preprocessing.ground_camera_height_m", _TINY, _LARGEST, "above 0, and finite"),
        ("preprocessing.mean", 0, 1, "from 0 to 1"),
        ("preprocessing.std", _TINY, _LARGEST, "above 0, and finite"),
        ("aerial_footprint_m", _TINY, _LARGEST, "above 0, and finite"),
    ):
        value = attrgetter(name)(encoder)
        for number in value if isinstance(value, tuple) else (value,):
            if not least <= number <= most:  # also refuses NaN
                raise RecipeError(f"encoder.{name} is {number}: it must be {allowed}")
    return encoder


Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=ConfigDict(allow_inf_nan=False))
class Recipe:
    """One training run. Lengths in metres, angles in degrees, durations in epochs or steps.

    Raises:
        ValidationError, RecipeError: a value that its field cannot take.
    """

    name: str
    encoder: Annotated[EncoderConfig, AfterValidator(_check_encoder)] = field(
        default_factory=EncoderConfig
    )
    pretrained: bool = False  # ImageNet initialisation of the trunk
    # The first maps of the trunk keep their initial weights: they know photographs from ImageNet,
    # and a step costs less.
    frozen_maps: Annotated[int, Field(ge=0, le=3)] = 0

    loss: Literal["triplet", "info_nce"] = "triplet"
    alpha: Positive = 10.0  # "triplet", eq. 4-6
    temperature: Positive = 0.07  # "info_nce"
    label_smoothing: Decay = 0.1  # "info_nce"
    # Two views nearer than this show the same place and are no negatives of each other. The paper
    # uses no positions; 0 keeps every other pair a negative.
    negative_distance_m: Amount = 0.0

    # Global mining strategy (GMS). The paper fixes none of these. For "info_nce" the queue holds
    # further negatives of each street.
    queue_length: Natural = 0  # descriptors kept; 0: without GMS
    queue_hardest: Count = 8  # "the most difficult negatives" of a batch: the top eighth
    queue_start_epoch: Natural = 0  # fig. 7: GMS hurts at the beginning of training
    queue_weight: Amount = 1.0  # "triplet": weight of the queue's mean beside the batch's mean

    # Which pairs share a batch. "shuffle": pairs from everywhere, as in the paper. "region": pairs
    # from ground `region_m` wide. "hard": groups of neighbours on the ground, and from
    # `sampling_visual_epoch` on of look-alikes by the previous epoch's descriptors.
    sampling: Literal["shuffle", "region", "hard"] = "shuffle"
    region_m: Positive = 3000.0
    sampling_group: Several = 8
    sampling_visual_epoch: Natural = 2

    # Optimisation.
    epochs: Count = 100
    batch_size: Several = 64
    learning_rate: Positive = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Amount = 0.0
    schedule: Literal["step", "cosine"] = "step"
    step_epochs: Count = 80  # "step": the rate falls to a tenth every so many epochs
    warmup_steps: Natural = 0
    ema: Decay = 0.0  # decay of the stored moving average of weights; 0: store the weights
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # arithmetic of the network in training
    # Pairs through the network at a time; 0: the whole batch. A small number saves memory and
    # costs a second forward pass; the gradient is the whole batch's. Batch norm requires 0.
    chunk_size: Natural = 0
    stored: Literal["fp32", "fp16"] = "fp32"  # type of the checkpoint's weights

    # Augmentation. Everything except rotation and mirror grows from nothing over `ramp_epochs`:
    # full strength from the start costs most of what a short run can learn.
    ramp_epochs: Natural = 0
    # "street" rolls the street view alone, as in the paper, which loses the north alignment;
    # "joint" rotates both views by the same quarter turn.
    rotation: Literal["street", "joint", "none"] = "street"
    mirror: bool = False  # exchange east and west in both views
    heading_noise_deg: Amount = 0.0  # uniform, street only: compass errors, rolls that miss
    offset_m: Amount = 0.0  # largest offset of the street from the tile's centre, on each axis
    missing_band: Share = 0.0  # share of panoramas that lose a random top and bottom
    limited_view: Share = 0.0  # share of panoramas that keep what a photograph by hand shows
    colour_jitter: Share = 0.0  # each view alone: brightness, contrast, colour balance
    # Share of views, each alone, blended with a random convolution of themselves (RandConv, Xu et
    # al. 2021): shapes stay; colour and texture become unreliable.
    random_convolution: Share = 0.0

    def __post_init__(self) -> None:
        if self.chunk_size and self.encoder.network.trunk in BATCH_NORM_TRUNKS:
            raise RecipeError(
                f"chunk_size is {self.chunk_size}: {self.encoder.network.trunk} has batch norm, "
                "which needs the whole batch; set chunk_size to 0, or choose another trunk"
            )

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return asdict(self) | {"encoder": self.encoder.as_dict()}


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
    queue_length=1024,  # 16 batches: two epochs would be stale, one batch is not global
    queue_start_epoch=10,
)

MSAE_DEMO = Recipe(
    name="msae-demo",
    encoder=EncoderConfig(NetworkConfig(), Preprocessing(), aerial_footprint_m=64.0),
    negative_distance_m=11.0,  # half a stride on both axes: such a tile shows the same place
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

# Its additions to the paper are for photographs, whose two views differ more than a town's: see
# docs/decisions.md.
SKYFIX_MODERN = replace(
    MSAE_DEMO,
    name="skyfix-modern",
    encoder=EncoderConfig(
        # It is cheaper on a CPU than the small trunk, and ImageNet taught it photographs.
        NetworkConfig(trunk="efficientnet_lite0", neck=64, half=True),
        # Its ImageNet weights expect (level - 127) / 128; this differs by 0.4 %.
        Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        aerial_footprint_m=64.0,
        turns=4,
    ),
    pretrained=True,
    frozen_maps=1,
    loss="info_nce",
    queue_start_epoch=3,  # late: docs/decisions.md
    sampling="hard",
    sampling_visual_epoch=1,
    sampling_group=16,
    epochs=7,  # of 26,400 pairs: 50 minutes on two cores
    learning_rate=5e-4,
    ema=0.998,
    ramp_epochs=3,
    missing_band=0.3,
    limited_view=0.5,
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

    Dots reach the fields of the encoder: `encoder.preprocessing.projection=ground`.

    Raises:
        RecipeError: unknown recipe or field, or a value of the wrong type or out of its range.
    """
    try:
        recipe = RECIPES[name]
    except KeyError:
        raise RecipeError(f"recipe {name!r} is unknown; known: {', '.join(RECIPES)}") from None
    return changed(recipe, overrides)


def changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with `field=value` overrides applied in order. Raises RecipeError, as `find`."""
    for override in overrides:
        try:
            recipe = Recipe(**_overridden(asdict(recipe), override))
        except ValidationError as error:
            raise RecipeError(f"override {override!r}: {_explained(error)}") from None
        except RecipeError as error:
            raise RecipeError(f"override {override!r}: {error}") from None
    return recipe


def _overridden(values: dict[str, Any], override: str) -> dict[str, Any]:
    """Nested `values` with the text of `override` in its field, which pydantic then parses."""
    path, separator, text = override.partition("=")
    if not separator:
        raise RecipeError("it is not of the form field=value")
    fields = values
    *parents, last = path.split(".")
    for parent in parents:
        fields = _field(fields, parent)
        if not isinstance(fields, dict):
            raise RecipeError(f"{parent!r} has no fields")
    before = _field(fields, last)
    if isinstance(before, dict):
        raise RecipeError(f"set the fields of {last} one by one: {', '.join(sorted(before))}")
    fields[last] = _split(text, before) if isinstance(before, tuple | None) else text
    return values


def _field(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise RecipeError(f"no field {name!r}; fields: {', '.join(sorted(fields))}")
    return fields[name]


def _split(text: str, before: tuple[Any, ...] | None) -> list[str] | None:
    """The parts of a tuple's text. Only a band can be None, before or now."""
    if text.lower() == "none":
        return None
    parts, count = text.split(","), len(before or Band._fields)
    if len(parts) != count:
        raise RecipeError(f"{text!r} is not {count} values separated by commas")
    return parts


def _explained(error: ValidationError) -> str:
    """The first error: field, value, allowed values."""
    first = error.errors()[0]
    name = ".".join(part for part in first["loc"] if isinstance(part, str))
    if first["type"] == "value_error":
        return f"{name}: {first['ctx']['error']}"
    return f"{name} is {first['input']}: {first['msg'].replace('Input should be', 'it must be')}"


for _part, _less in WITHOUT.items():
    _name = f"{MSAE_DEMO.name}-without-{_part}"
    RECIPES[_name] = find(MSAE_DEMO.name, (f"name={_name}", _less))
