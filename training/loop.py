"""The training loop, on a page. Everything it decides by stands in the recipe."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.errors import SkyfixError
from training.augmentation import Batch, batches
from training.losses import info_nce, soft_margin_triplet
from training.mining import HardNegativeQueue, same_place
from training.pairs import Arrays
from training.protocols import centre
from training.recipes import Recipe, describe
from training.state import TrainingState

log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0  # of training lost at most when the process is killed


class TrainingError(SkyfixError):
    """Training cannot go on; the last checkpoint on disk is intact."""


def train(
    recipe: Recipe,
    arrays: Arrays,
    out: Path,
    *,
    validation: Arrays | None = None,
    seed: int = 0,
    device: str = "cpu",
    provenance: Mapping[str, Any] | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> Path:
    """Train, or go on with the run that `out` holds, and return the last checkpoint's path.

    `out` gets last.safetensors, best.safetensors (by recall@1 on `validation`), log.jsonl (a
    line an epoch) and state.safetensors, from which a killed run goes on: on the CPU to the very
    bits of an uninterrupted one.

    Raises:
        TrainingError: fewer pairs than a batch, or the loss is no longer a number.
        ResumeError: `out` holds another run.
    """
    steps = len(arrays) // recipe.batch_size
    if not steps:
        raise TrainingError(
            f"{len(arrays)} pairs do not fill one batch of {recipe.batch_size}: "
            "add pairs, or override batch_size"
        )
    state = _start(recipe, arrays, seed, device)
    if state.resume(out / "state.safetensors"):
        log.info("going on at epoch %d, step %d", state.epoch, state.step)
    saved = time.monotonic()
    with Progress(
        *Progress.get_default_columns(), "{task.fields[at]}", console=Console(stderr=True)
    ) as progress:
        task = progress.add_task(recipe.name, total=recipe.epochs * steps, at="")
        while state.epoch < recipe.epochs:
            state.network.train()
            for batch in batches(arrays, recipe, state.epoch, seed, start=state.step):
                number = state.epoch * steps + state.step
                for group in state.optimiser.param_groups:
                    group["lr"] = recipe.learning_rate * rate(recipe, steps, number)
                loss = _step(state, batch, recipe, device)
                state.step += 1
                state.total_loss += loss
                progress.update(task, completed=number + 1, at=f"{state.epoch}: {loss:.4f}")
                if time.monotonic() - saved > save_every_s:
                    state.save(out / "state.safetensors")
                    saved = time.monotonic()
            _finish_epoch(state, recipe, validation, out, device, provenance or {})
    return out / "last.safetensors"


def _start(recipe: Recipe, arrays: Arrays, seed: int, device: str) -> TrainingState:
    torch.manual_seed(seed)
    network = recipe.encoder.build(pretrained=recipe.pretrained).to(device)
    optimiser = torch.optim.AdamW(_parameter_groups(network, recipe), betas=recipe.betas)
    queue = None
    if recipe.queue_length:
        queue = HardNegativeQueue(recipe.queue_length, recipe.encoder.network.dimension, device)
    data = hashlib.sha256(arrays.norths.tobytes() + arrays.positions.tobytes()).hexdigest()
    run = json.dumps([describe(recipe), seed, len(arrays), data])
    return TrainingState(run, network, optimiser, queue)


def _step(state: TrainingState, batch: Batch, recipe: Recipe, device: str) -> float:
    """One step down the loss of a batch against itself and the queue; returns that loss."""
    ids, near = batch.ids.to(device), recipe.negative_distance_m
    streets_at, tiles_at = batch.street_positions.to(device), batch.tile_positions.to(device)
    street, aerial = _describe(state.network, batch, recipe, device)
    queue = state.queue if state.epoch >= recipe.queue_start_epoch else None
    mined: dict[str, Any] = {}
    if queue:
        mined = {"queue": queue.negatives(), "queue_mask": queue.mask(ids, streets_at, near)}
    same = same_place(ids, streets_at, ids, tiles_at, near)
    if recipe.loss == "info_nce":
        loss = info_nce(street, aerial, recipe.temperature, recipe.label_smoothing, same)
    else:
        loss = soft_margin_triplet(
            street,
            aerial,
            recipe.alpha,
            pair_mask=same,
            queue_weight=recipe.queue_weight,
            **mined,
        )
    if not math.isfinite(loss.item()):
        raise TrainingError(
            f"the loss is {loss.item()} in epoch {state.epoch}, step {state.step}: "
            "lower the learning rate, or look for broken images"
        )
    state.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()
    state.average(recipe.ema)
    if queue is not None:
        queue.push(
            aerial, ids, tiles_at, street=street, hardest=recipe.queue_hardest, min_distance_m=near
        )
    return loss.item()


def _describe(
    network: nn.Module, batch: Batch, recipe: Recipe, device: str
) -> tuple[Tensor, Tensor]:
    preprocessing = recipe.encoder.preprocessing
    strips = batch.strips.to(device).float().div_(255.0)
    views = preprocessing.normalise(preprocessing.project(strips, batch.norths.to(device)))
    tiles = preprocessing.normalise(batch.tiles.to(device).float().div_(255.0))
    with torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bf16"):
        street, aerial = network(
            views.contiguous(memory_format=torch.channels_last),
            tiles.contiguous(memory_format=torch.channels_last),
        )
    return street, aerial


def _parameter_groups(network: nn.Module, recipe: Recipe) -> Iterable[dict[str, Any]]:
    """Weight decay on matrices and kernels only; without any, AdamW is the paper's Adam."""
    parameters = list(network.parameters())
    return [
        {
            "params": [one for one in parameters if one.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]


def rate(recipe: Recipe, steps: int, step: int) -> float:
    """The learning rate's factor at a step: warm-up, then steps of a tenth or half a cosine."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.schedule == "step":
        return warm * math.pow(0.1, step // steps // recipe.step_epochs)
    return warm * 0.5 * (1.0 + math.cos(math.pi * step / (recipe.epochs * steps)))


def _finish_epoch(
    state: TrainingState,
    recipe: Recipe,
    validation: Arrays | None,
    out: Path,
    device: str,
    provenance: Mapping[str, Any],
) -> None:
    """Measure, and write checkpoints, log and the state to go on from."""
    report: dict[str, Any] = {"epoch": state.epoch, "loss": state.total_loss / state.step}
    described = {**provenance, "epochs": state.epoch + 1, "recipe": describe(recipe)}
    dtype = torch.float16 if recipe.stored == "fp16" else torch.float32
    weights = {
        name: one.to(dtype) if one.is_floating_point() else one
        for name, one in state.network.state_dict().items()
    }
    if not all(bool(one.isfinite().all()) for one in weights.values()):
        raise TrainingError(
            f"a weight is no longer a finite number after epoch {state.epoch}: "
            "lower the learning rate"
        )
    checkpoint = Checkpoint(recipe.encoder, weights, described)
    if validation is not None:
        report |= centre(Encoder(checkpoint, device), validation)
        if report["1"] > max((one["1"] for one in state.history), default=-1.0):
            checkpoint.save(out / "best.safetensors")
    checkpoint.save(out / "last.safetensors")
    state.history.append(report)
    state.epoch, state.step, state.total_loss = state.epoch + 1, 0, 0.0
    state.save(out / "state.safetensors")
    (out / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in state.history))
    log.info("%s", report)
