"""The training loop, on a page. Everything it decides by stands in the recipe."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from model.atomic_write import write_atomically
from model.checkpoint import Checkpoint, EncoderConfig
from model.encoder import Encoder
from model.network import SiameseNetwork
from model.trunks import BATCH_NORM_TRUNKS, freeze
from training import distributed as processes
from training.data.augmentation import Batch, Pictures, batches
from training.data.pairs import Arrays
from training.evaluate.protocols import centre
from training.evaluate.report import line
from training.mining import HardNegativeQueue
from training.recipes import Recipe, describe
from training.run.folder_lock import held
from training.run.sampling import order
from training.run.state import TrainingError, TrainingState
from training.run.step import record, step

log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0  # of training lost at most when the process is killed
SAMPLED_BYTES = 96  # of a picture, in a run's identity: 0.2 s for 40,000 pairs


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
    """Train, or go on with the run that `out` holds, and return the last checkpoint's path.

    `out` gets last.safetensors, best.safetensors (by recall@1 on `validation`), log.jsonl (a
    line an epoch) and state.safetensors, from which a killed run goes on: on the CPU to the very
    bits of an uninterrupted one. Under `processes.joined`, the first process writes them.

    Args:
        workers: threads that augment batches ahead of the network; see `augmentation.batches`.
        init: weights to begin with, instead of random ones.
        on_epoch: called with each line of the log.

    Raises:
        TrainingError: fewer pairs than a batch, or the loss is no longer a number; see `start`.
        HeldError: another process is training in `out`.
        ResumeError: `out` holds another run.
    """
    steps = _steps(recipe, len(arrays))
    with held(out) if processes.is_first() else nullcontext():
        state = start(recipe, arrays, seed, device, init)
        if state.resume(out / "state.safetensors"):
            if state.epoch == recipe.epochs:
                log.info("%s holds this run, finished after %d epochs", out, recipe.epochs)
                return out / "last.safetensors"
            log.info("going on at epoch %d, step %d", state.epoch, state.step)
        pictures = Pictures.of(arrays, device)
        saved = time.monotonic()
        with _progress() as progress:
            task = progress.add_task(recipe.name, total=recipe.epochs * steps, at="")
            while state.epoch < recipe.epochs:
                for batch in _batches_left(state, recipe, arrays, pictures, workers):
                    _take(state, batch, recipe, steps, device)
                    done = state.epoch * steps + state.step
                    mean = state.total_loss / max(1, state.step - 1)
                    progress.update(task, completed=done, at=f"{state.epoch}: {mean:.4f}")
                    if processes.is_first() and time.monotonic() - saved > save_every_s:
                        state.save(out / "state.safetensors")
                        saved = time.monotonic()
                on_epoch(_finish_epoch(state, recipe, validation, out, device, provenance or {}))
    processes.wait()
    return out / "last.safetensors"


def _steps(recipe: Recipe, pairs: int) -> int:
    """How many make an epoch. Raises TrainingError: not one."""
    steps = pairs // recipe.batch_size
    if not steps:
        raise TrainingError(
            f"{pairs} pairs do not fill one batch of {recipe.batch_size}: "
            "add pairs, or override batch_size"
        )
    return steps


def _batches_left(
    state: TrainingState, recipe: Recipe, arrays: Arrays, pictures: Pictures, workers: int
) -> Iterator[Batch]:
    """What the epoch still has to train on; a new epoch is put in order first."""
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
        pictures=pictures,
    )


def _take(state: TrainingState, batch: Batch, recipe: Recipe, steps: int, device: str) -> None:
    """The step that comes next; `steps` make an epoch."""
    _set_rate(state, recipe, steps)
    state.tell(step(state, batch, recipe, device))
    state.step += 1


def _progress() -> Progress:
    return Progress(
        *Progress.get_default_columns(),
        "{task.fields[at]}",
        console=Console(stderr=True),
        disable=not processes.is_first(),
    )


def check(recipe: Recipe, pairs: int, init: Checkpoint | None = None) -> None:
    """Whether a run of so many pairs could start, before any of them is read.

    Raises:
        TrainingError: fewer pairs than a batch; see also `start`. PretrainedError: as `start`.
    """
    _steps(recipe, pairs)
    _network(recipe, 0, init)


def start(
    recipe: Recipe, arrays: Arrays, seed: int, device: str, init: Checkpoint | None = None
) -> TrainingState:
    """A run before its first step.

    Raises:
        TrainingError: `init` holds another network than the recipe's, several processes would
            share a batch that the network's batch norm needs whole, or what would be frozen is
            random, or moved by batch norm.
        PretrainedError: the recipe asks for ImageNet weights that cannot be had.
    """
    network = _network(recipe, seed, init)
    if init is not None:
        _tell_of_other_views(init.config, recipe.encoder)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    processes.agree(network.state_dict().values())
    on_gpu = torch.device(device).type == "cuda"
    optimiser = torch.optim.AdamW(
        _parameter_groups(network, recipe), betas=recipe.betas, fused=on_gpu
    )
    # A recording begins with passes over noise, which batch norm would take into its statistics.
    trunk = recipe.encoder.network.trunk
    if on_gpu and not recipe.chunk_size and trunk not in BATCH_NORM_TRUNKS:
        record(network, recipe, device)
    dimension = recipe.encoder.network.dimension
    queue = seen = None
    if recipe.queue_length:
        queue = HardNegativeQueue(recipe.queue_length, dimension, device)
    if recipe.sampling == "hard":
        seen = torch.zeros(2, len(arrays), dimension, device=device)
    begun = None if init is None else init.fingerprint
    run = {
        "recipe": describe(recipe),
        "seed": seed,
        "number of pairs": len(arrays),
        "pairs": _fingerprint(arrays),
        "weights begun with": begun,
    }
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=recipe.precision == "fp16")  # type: ignore[attr-defined]
    return TrainingState(run, network, optimiser, queue, seen=seen, scaler=scaler, seed=seed)


def _network(recipe: Recipe, seed: int, init: Checkpoint | None) -> SiameseNetwork:
    """The network with the weights that training begins with."""
    _refuse(recipe, init)
    torch.manual_seed(seed)
    network = recipe.encoder.build(pretrained=recipe.pretrained and init is None)
    if init is not None:
        _compare(init.config, recipe.encoder)
        network.load_state_dict(init.network().state_dict())
    for branch in (network.street, network.aerial):
        freeze(branch.trunk, recipe.frozen_maps)
    return network


def _refuse(recipe: Recipe, init: Checkpoint | None) -> None:
    """What would train to no end. Raises TrainingError: see `start`."""
    trunk = recipe.encoder.network.trunk
    if processes.count() > 1 and trunk in BATCH_NORM_TRUNKS:
        raise TrainingError(
            f"{trunk} has batch norm, which {processes.count()} processes would each take of "
            "their share alone: use one process, or another encoder.network.trunk"
        )
    if recipe.frozen_maps and trunk in BATCH_NORM_TRUNKS:
        raise TrainingError(
            f"frozen_maps is {recipe.frozen_maps}, but what {trunk} counts of its batches would "
            "still move those maps: set frozen_maps=0, or choose another encoder.network.trunk"
        )
    if recipe.frozen_maps and not recipe.pretrained and init is None:
        raise TrainingError(
            f"frozen_maps is {recipe.frozen_maps}, and the weights would be random for ever: "
            "set frozen_maps=0, or begin with --init or pretrained=true"
        )


def _compare(init: EncoderConfig, wanted: EncoderConfig) -> None:
    """Refuse weights of another shape."""
    sizes = [one.preprocessing.input_size for one in (init, wanted)]
    if init.network != wanted.network or sizes[0] != sizes[1]:
        raise TrainingError(
            f"the initial weights are of {init.network} for {sizes[0]} pixels, the recipe's "
            f"network is {wanted.network} for {sizes[1]}: choose other weights, or override fields"
        )


def _tell_of_other_views(init: EncoderConfig, wanted: EncoderConfig) -> None:
    before, now = (
        asdict(one.preprocessing)
        | {"aerial_footprint_m": one.aerial_footprint_m, "turns": one.turns}
        for one in (init, wanted)
    )
    differing = [
        f"{name} {before[name]} (the recipe: {now[name]})"
        for name in now
        if before[name] != now[name]
    ]
    if differing:
        log.warning("the initial weights are for another use: %s", ", ".join(differing))


def _fingerprint(arrays: Arrays) -> str:
    """sha256 of what pairs are told by: headings, places, tiles and some bytes of each picture."""
    digest = hashlib.sha256(arrays.norths.tobytes() + arrays.positions.tobytes())
    if arrays.tiles is not None:
        digest.update(arrays.tiles.tobytes())
    for pictures in (arrays.strips, arrays.chips):
        rows = pictures.reshape(len(pictures), -1)
        # Some at its middle, in one run: pictures take gigabytes, and may lie on a disk.
        middle = rows.shape[1] // 2
        digest.update(rows[:, middle : middle + SAMPLED_BYTES].tobytes())
    return digest.hexdigest()


def _parameter_groups(network: nn.Module, recipe: Recipe) -> Iterable[dict[str, Any]]:
    """Weight decay on matrices and kernels only; without any, AdamW is the paper's Adam."""
    parameters = [one for one in network.parameters() if one.requires_grad]
    return [
        {
            "params": [one for one in parameters if one.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]


def _set_rate(state: TrainingState, recipe: Recipe, steps: int) -> None:
    """The optimiser's learning rate for the step that comes next; `steps` make an epoch."""
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
    """Measure, and write checkpoints, log and the state to go on from; returns the log's line."""
    state.settle()
    report: dict[str, Any] = {"epoch": state.epoch, "loss": state.total_loss / state.step}
    described = {**provenance, "epochs": state.epoch + 1, "recipe": describe(recipe)}
    dtype = torch.float16 if recipe.stored == "fp16" else torch.float32
    weights = {
        name: one.to(dtype) if one.is_floating_point() else one
        for name, one in state.averaged.items()
    }
    if not all(bool(one.isfinite().all()) for one in weights.values()):
        raise TrainingError(
            f"a weight is no longer a finite number after epoch {state.epoch}: "
            "lower the learning rate"
        )
    checkpoint = Checkpoint(recipe.encoder, weights, described)
    measured: dict[str, Any] = {}
    if processes.is_first():
        if validation is not None:
            measured = centre(Encoder(checkpoint, device), validation)
            report |= measured
            # A run may have begun without validation.
            if measured["1"] > max((one.get("1", -1.0) for one in state.history), default=-1.0):
                checkpoint.save(out / "best.safetensors")
        checkpoint.save(out / "last.safetensors")
    state.history.append(report)
    state.epoch, state.step, state.total_loss = state.epoch + 1, 0, 0.0
    if processes.is_first():
        # The state last: killed before it, all of this is done again, to the same bits.
        lines = "".join(json.dumps(epoch) + "\n" for epoch in state.history)
        write_atomically(out / "log.jsonl", lines.encode())
        state.save(out / "state.safetensors")
        log.info("epoch %d: loss %.4f  %s", report["epoch"], report["loss"], line(measured))
    return report
