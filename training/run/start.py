"""A run before its first step: the checks of its settings, and its initial state."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint import Checkpoint, EncoderConfig
from model.network import SiameseNetwork
from model.trunks import BATCH_NORM_TRUNKS, freeze
from training import distributed
from training.data.arrays import Arrays
from training.mining import HardNegativeQueue
from training.recipes import Recipe
from training.run.state import TrainingError, TrainingState
from training.run.step import record

log = logging.getLogger(__name__)

HASHED_BYTES = 96  # of each image, in a run's identity: 0.2 s for 40,000 pairs


def check(recipe: Recipe, pairs: int, init: Checkpoint | None = None) -> None:
    """Whether a run on so many pairs could start, before any pair is read.

    Raises:
        TrainingError: fewer pairs than a batch; see also `start`. PretrainedError: as `start`.
    """
    steps_per_epoch(recipe, pairs)
    _network(recipe, 0, init)


def steps_per_epoch(recipe: Recipe, pairs: int) -> int:
    """Whole batches in an epoch, at least 1. Raises TrainingError."""
    steps = pairs // recipe.batch_size
    if not steps:
        raise TrainingError(
            f"{pairs} pairs do not fill one batch of {recipe.batch_size}: "
            "add pairs, or override batch_size"
        )
    return steps


def start(
    recipe: Recipe, arrays: Arrays, seed: int, device: str, init: Checkpoint | None = None
) -> TrainingState:
    """A run before its first step.

    Raises:
        TrainingError: `init` holds another network than the recipe's; several processes would
            share a batch that the network's batch norm needs whole; or the frozen weights would
            be random, or moved by batch norm.
        PretrainedError: the recipe asks for ImageNet weights that are not available.
    """
    network = _network(recipe, seed, init)
    if init is not None:
        _warn_of_other_views(init.config, recipe.encoder)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    distributed.copy_from_first(network.state_dict().values())
    kind = torch.device(device).type
    optimiser = torch.optim.AdamW(
        _parameter_groups(network, recipe), betas=recipe.betas, fused=kind == "cuda"
    )
    # A recording begins with passes over noise, which would enter batch norm's statistics.
    trunk = recipe.encoder.network.trunk
    if kind == "cuda" and not recipe.chunk_size and trunk not in BATCH_NORM_TRUNKS:
        record(network, recipe, device)
    dimension = recipe.encoder.network.dimension
    queue = seen = None
    if recipe.queue_length:
        queue = HardNegativeQueue(recipe.queue_length, dimension, device)
    if recipe.sampling == "hard":
        seen = torch.zeros(2, len(arrays), dimension, device=device)
    run = {
        "recipe": recipe.as_dict(),
        "seed": seed,
        "number of pairs": len(arrays),
        "pairs": _fingerprint(arrays),
        "initial weights": None if init is None else init.fingerprint,
    }
    scaler = torch.amp.GradScaler(kind, enabled=recipe.precision == "fp16")  # type: ignore[attr-defined]
    return TrainingState(run, network, optimiser, queue, seen, scaler, seed)


def _network(recipe: Recipe, seed: int, init: Checkpoint | None) -> SiameseNetwork:
    """The network with its initial weights. Raises TrainingError, PretrainedError: see `start`."""
    _check_trunk(recipe, init)
    torch.manual_seed(seed)
    network = recipe.encoder.build(pretrained=recipe.pretrained and init is None)
    if init is not None:
        _check_shape(init.config, recipe.encoder)
        network.load_state_dict(_fitted(init, network))
    for branch in (network.street, network.aerial):
        freeze(branch.trunk, recipe.frozen_maps)
    return network


def _check_trunk(recipe: Recipe, init: Checkpoint | None) -> None:
    trunk, processes = recipe.encoder.network.trunk, distributed.process_count()
    if processes > 1 and trunk in BATCH_NORM_TRUNKS:
        raise TrainingError(
            f"{trunk} has batch norm, which would see only a share of each batch in each of "
            f"{processes} processes: use one process, or another encoder.network.trunk"
        )
    if recipe.frozen_maps and trunk in BATCH_NORM_TRUNKS:
        raise TrainingError(
            f"frozen_maps is {recipe.frozen_maps}, but the batch norm of {trunk} would still move "
            "those maps: set frozen_maps=0, or choose another encoder.network.trunk"
        )
    if recipe.frozen_maps and not recipe.pretrained and init is None:
        raise TrainingError(
            f"frozen_maps is {recipe.frozen_maps}, but the frozen weights would stay random: "
            "set frozen_maps=0, or start from --init or pretrained=true"
        )


def _check_shape(init: EncoderConfig, wanted: EncoderConfig) -> None:
    sizes = [config.preprocessing.input_size for config in (init, wanted)]
    network = init.network
    if wanted.network.half:  # may begin from whole views
        network = replace(network, half=True)
    if network != wanted.network or sizes[0] != sizes[1]:
        raise TrainingError(
            f"the initial weights are of {init.network} for {sizes[0]} pixels, the recipe's "
            f"network is {wanted.network} for {sizes[1]}: choose other weights, or override fields"
        )


def _fitted(init: Checkpoint, network: SiameseNetwork) -> dict[str, Tensor]:
    """The weights of `init` for a network of the same or of half views."""
    weights: dict[str, Tensor] = init.network().state_dict()
    for name, wanted in network.state_dict().items():
        if weights[name].shape != wanted.shape:  # a head that reads the features' upper half
            channels = network.street.feature_channels
            grid = weights[name].view(len(weights[name]), channels, 2, -1)
            weights[name] = grid[:, :, 0].flatten(1)
    return weights


def _warn_of_other_views(init: EncoderConfig, wanted: EncoderConfig) -> None:
    before, now = (
        asdict(config.preprocessing)
        | {"aerial_footprint_m": config.aerial_footprint_m, "turns": config.turns}
        for config in (init, wanted)
    )
    differing = [
        f"{name} {before[name]} (the recipe: {now[name]})"
        for name in now
        if before[name] != now[name]
    ]
    if differing:
        log.warning("the initial weights are for another use: %s", ", ".join(differing))


def _fingerprint(arrays: Arrays) -> str:
    """sha256 of the pairs' headings, positions and tiles and of some bytes of each image."""
    digest = hashlib.sha256(arrays.norths.tobytes() + arrays.positions.tobytes())
    if arrays.tiles is not None:
        digest.update(arrays.tiles.tobytes())
    for images in (arrays.strips, arrays.chips):
        rows = images.reshape(len(images), -1)
        # Some bytes in the middle: all images are gigabytes, which may lie on a disk.
        middle = rows.shape[1] // 2
        digest.update(rows[:, middle : middle + HASHED_BYTES].tobytes())
    return digest.hexdigest()


def _parameter_groups(network: nn.Module, recipe: Recipe) -> Iterable[dict[str, Any]]:
    """Weight decay on matrices and kernels only; without any, AdamW is the paper's Adam."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    kernels = [weight for weight in weights if weight.ndim > 1]
    vectors = [weight for weight in weights if weight.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
