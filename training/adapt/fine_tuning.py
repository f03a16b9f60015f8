"""A short training from given weights, on a region's few pairs."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from model.atomic_write import write_atomically
from model.checkpoint import Checkpoint
from model.trunks import BATCH_NORM_TRUNKS
from training.averaging import mean
from training.data.arrays import Arrays
from training.data.augmentation import ImageTensors, batches
from training.data.sampling import order
from training.recipes import RECIPES, SKYFIX_MODERN, Recipe, changed
from training.run.loop import train
from training.run.start import start, steps_per_epoch
from training.run.step import step

log = logging.getLogger(__name__)

BATCH = 32
EPOCHS = 40  # at most
LEARNING_RATE = 1e-4
ADAPTED_SHARE = 0.5  # of the adapted weights in the mean with their start
TIMED_STEPS = 3


def recipe_for(weights: Checkpoint, pairs: int, device: str, overrides: Sequence[str]) -> Recipe:
    """The recipe that made the weights, with a low rate and a batch that so few pairs fill.

    Raises:
        RecipeError: an override's field or value.
    """
    name = str(weights.provenance.get("recipe", {}).get("name"))
    made_by = RECIPES.get(name, SKYFIX_MODERN)
    frozen = 0 if weights.config.network.trunk in BATCH_NORM_TRUNKS else made_by.frozen_maps
    precision = made_by.precision if _multiplies_halves(device) else "fp32"
    recipe = dataclasses.replace(
        made_by,
        encoder=weights.config,
        batch_size=max(2, min(BATCH, pairs // 2)),
        epochs=EPOCHS,
        frozen_maps=frozen,
        learning_rate=LEARNING_RATE,
        precision=precision,
        ramp_epochs=0,
        schedule="cosine",
        warmup_steps=10,
    )
    return changed(recipe, overrides)


def _multiplies_halves(device: str) -> bool:
    """Whether half precision is faster: on a GPU, and on processors with AMX."""
    return device != "cpu" or bool(torch.cpu.get_capabilities().get("amx_bf16"))


def within_time(
    recipe: Recipe, arrays: Arrays, weights: Checkpoint, device: str, minutes: float, out: Path
) -> Recipe:
    """The recipe with no more epochs than fit into `minutes`, by the time of its first steps.

    The number is kept in `out`/plan.json: a resumed run must not measure another.
    """
    plan = out / "plan.json"
    steps = steps_per_epoch(recipe, len(arrays))
    if plan.is_file():
        known = json.loads(plan.read_text())
        if known["minutes"] == minutes and known["most"] == recipe.epochs:
            return dataclasses.replace(recipe, epochs=known["epochs"])
    seconds = seconds_of_a_step(recipe, arrays, weights, device)
    epochs = max(1, min(recipe.epochs, int(60.0 * minutes / (steps * seconds))))
    log.info(
        "%d pairs, %d steps of %.2f s: about %.0f minutes",
        len(arrays), epochs * steps, seconds, epochs * steps * seconds / 60.0,
    )  # fmt: skip
    stated = {"minutes": minutes, "most": recipe.epochs, "epochs": epochs}
    write_atomically(plan, json.dumps(stated).encode())
    return dataclasses.replace(recipe, epochs=epochs)


def seconds_of_a_step(recipe: Recipe, arrays: Arrays, weights: Checkpoint, device: str) -> float:
    """Of a few steps, the fastest; their weights are thrown away."""
    state = start(recipe, arrays, 0, device, weights)
    rows = order(recipe, arrays.positions, 0, 0)
    images = ImageTensors.of(arrays, device)
    seconds = []
    for epoch in range(TIMED_STEPS):
        began = time.monotonic()
        batch = next(iter(batches(arrays, recipe, epoch, 0, rows, images=images)))
        step(state, batch, recipe, device).wait()
        seconds.append(time.monotonic() - began)
    return min(seconds)


def fine_tune(
    recipe: Recipe, arrays: Arrays, weights: Checkpoint, device: str, seed: int, out: Path
) -> Checkpoint:
    """Train, or resume the training in `out`, and mix its weights with their start.

    Raises:
        TrainingError, LockedError, ResumeError: see `train`.
    """
    last = train(recipe, arrays, out, seed=seed, device=device, init=weights)
    trained = Checkpoint.load(last)
    provenance = {
        **weights.provenance_of_new_weights,
        "recipe": recipe.as_dict(),
        "epochs": recipe.epochs,
        "seed": seed,
        "adapted_from": weights.fingerprint,
        "adapted_share": ADAPTED_SHARE,
        "adapted_on": f"{len(arrays)} photographs",
    }
    tensors = mean([weights.tensors, trained.tensors], [1.0 - ADAPTED_SHARE, ADAPTED_SHARE])
    return Checkpoint(weights.config, tensors, provenance)
