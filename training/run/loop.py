"""The training loop, on a page. The recipe holds every decision."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from model.atomic_write import write_atomically
from model.checkpoint import Checkpoint
from model.encoder import Encoder
from training import distributed
from training.data.arrays import Arrays
from training.data.augmentation import Batch, ImageTensors, batches
from training.data.sampling import order
from training.evaluate.encoded_pairs import measure_centre
from training.evaluate.report import line
from training.recipes import Recipe
from training.run.folder_lock import locked
from training.run.start import start, steps_per_epoch
from training.run.state import TrainingError, TrainingState
from training.run.step import step

log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0  # a killed process loses at most this much training


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
    workers: int = 1,
    init: Checkpoint | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda report: None,
) -> Path:
    """Train, or resume the run that `out` holds, and return the last checkpoint's path.

    `out` gets last.safetensors, best.safetensors (by recall@1 on `validation`), log.jsonl (a
    line an epoch) and state.safetensors, from which a killed run resumes: on the CPU to the same
    bits as an uninterrupted run. With several processes, the first writes the files.

    Args:
        workers: threads that augment batches ahead of the network; see `augmentation.batches`.
        init: weights to start from, instead of random weights.
        on_epoch: called with each line of the log.

    Raises:
        TrainingError: fewer pairs than a batch, or the loss is not finite; see also `start`.
        LockedError: another process is training in `out`.
        ResumeError: `out` holds another run.
    """
    steps = steps_per_epoch(recipe, len(arrays))
    with locked(out) if distributed.is_first() else nullcontext():
        state = start(recipe, arrays, seed, device, init)
        if state.resume(out / "state.safetensors"):
            if state.epoch == recipe.epochs:
                log.info("%s holds this run, finished after %d epochs", out, recipe.epochs)
                return out / "last.safetensors"
            log.info("resuming at epoch %d, step %d", state.epoch, state.step)
        images = ImageTensors.of(arrays, device)
        saved = time.monotonic()
        with _progress() as progress:
            task = progress.add_task(recipe.name, total=recipe.epochs * steps, at="")
            while state.epoch < recipe.epochs:
                for batch in _batches_left(state, recipe, arrays, images, workers):
                    _set_rate(state, recipe, steps)
                    state.add_loss(step(state, batch, recipe, device))
                    state.step += 1
                    done = state.epoch * steps + state.step
                    mean = state.total_loss / max(1, state.step - 1)
                    progress.update(task, completed=done, at=f"{state.epoch}: {mean:.4f}")
                    if distributed.is_first() and time.monotonic() - saved > save_every_s:
                        state.save(out / "state.safetensors")
                        saved = time.monotonic()
                on_epoch(_finish_epoch(state, recipe, validation, out, device, provenance or {}))
    distributed.wait_for_all()
    return out / "last.safetensors"


def _progress() -> Progress:
    return Progress(
        *Progress.get_default_columns(),
        "{task.fields[at]}",
        console=Console(stderr=True),
        disable=not distributed.is_first(),
    )


def _batches_left(
    state: TrainingState, recipe: Recipe, arrays: Arrays, images: ImageTensors, workers: int
) -> Iterator[Batch]:
    """The batches that the epoch still needs; a new epoch gets its order first."""
    state.network.train()
    if state.step == 0:
        state.order = order(recipe, arrays.positions, state.epoch, state.seed, state.seen)
    yield from batches(
        arrays,
        recipe,
        state.epoch,
        state.seed,
        state.order,
        start=state.step,
        workers=workers,
        images=images,
    )


def _set_rate(state: TrainingState, recipe: Recipe, steps: int) -> None:
    """Set the optimiser's learning rate for the next step; an epoch has `steps`."""
    factor = rate(recipe, steps, state.epoch * steps + state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = recipe.learning_rate * factor


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
) -> dict[str, Any]:
    """Measure, write checkpoints, log and state, and return the log's line."""
    state.settle()
    report: dict[str, Any] = {"epoch": state.epoch, "loss": state.total_loss / state.step}
    checkpoint = _checkpoint(state, recipe, provenance)
    measured: dict[str, Any] = {}
    if distributed.is_first():
        if validation is not None:
            measured = measure_centre(Encoder(checkpoint, device), validation)
            report |= measured
            # Earlier epochs lack recall if the run started without validation.
            if measured["1"] > max((epoch.get("1", -1.0) for epoch in state.history), default=-1.0):
                checkpoint.save(out / "best.safetensors")
        checkpoint.save(out / "last.safetensors")
    state.history.append(report)
    state.epoch, state.step, state.total_loss = state.epoch + 1, 0, 0.0
    if distributed.is_first():
        # The state last: after a kill before this line, the epoch ends again with the same bits.
        lines = "".join(json.dumps(epoch) + "\n" for epoch in state.history)
        write_atomically(out / "log.jsonl", lines.encode())
        state.save(out / "state.safetensors")
        log.info("epoch %d: loss %.4f  %s", report["epoch"], report["loss"], line(measured))
    return report


def _checkpoint(state: TrainingState, recipe: Recipe, provenance: Mapping[str, Any]) -> Checkpoint:
    """The averaged weights after an epoch. Raises TrainingError: a weight is not finite."""
    dtype = torch.float16 if recipe.stored == "fp16" else torch.float32
    weights = {
        name: weight.to(dtype) if weight.is_floating_point() else weight
        for name, weight in state.averaged.items()
    }
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise TrainingError(
            f"a weight is no longer a finite number after epoch {state.epoch}: "
            "lower the learning rate"
        )
    made_by = {**provenance, "epochs": state.epoch + 1, "recipe": recipe.as_dict()}
    return Checkpoint(recipe.encoder, weights, made_by)
