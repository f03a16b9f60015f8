"""One training step: a batch in, the weights moved, its loss out.

The loss is a function of the batch's descriptors alone. So they are made first, the loss gives
the gradient of each, and that goes back through the network chunk by chunk, each chunk described
again if it was not kept (GradCache, Gao et al. 2021). The gradient is that of the whole batch,
whatever the size of the chunks and however many processes share the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from training import distributed as processes
from training.data.augmentation import Batch
from training.losses import info_nce, soft_margin_triplet
from training.mining import same_place
from training.recipes import Recipe
from training.run.state import Told, TrainingState

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def step(state: TrainingState, batch: Batch, recipe: Recipe, device: str) -> Told:
    """One step down the loss of a batch against itself and the queue; tells that loss.

    `batch` is this process's share; the loss is of the whole. A GPU is not waited for: there, a
    loss that is not a number is told later, and moves no weight meanwhile.

    Raises:
        TrainingError: as `Told.loss`, on a CPU.
    """
    ids, streets_at, tiles_at = (
        processes.gather(one.to(device, non_blocking=True))
        for one in (batch.ids, batch.street_positions, batch.tile_positions)
    )
    street, aerial, send_back = _describe(state, batch, recipe, device)
    near = recipe.negative_distance_m
    queue = state.queue if state.epoch >= recipe.queue_start_epoch else None
    same = same_place(ids, streets_at, ids, tiles_at, near)
    mined: dict[str, Any] = {}
    if queue is not None:
        mined = {"queue": queue.negatives(), "queue_mask": queue.mask(ids, streets_at, near)}
    loss = _loss(street, aerial, same, mined, recipe)
    state.optimiser.zero_grad()
    state.scaler.scale(loss).backward()
    send_back()
    processes.sum_gradients(state.network.parameters())
    told = _move(state, loss)
    state.average(recipe.ema)
    if queue is not None:
        queue.push(
            aerial, ids, tiles_at, street=street, hardest=recipe.queue_hardest, min_distance_m=near
        )
    if state.seen is not None:
        rows = processes.gather(batch.rows.to(device, non_blocking=True))
        state.seen[:, rows] = torch.stack([street, aerial]).detach()
    return told


def _move(state: TrainingState, loss: Tensor) -> Told:
    """Moves the weights, unless the loss or its gradient is not finite."""
    length = loss.new_zeros(())
    if not state.scaler.is_enabled():  # which itself leaves out such a step, and lowers the scale
        # A finite one past 1e19 overflows, too: no training comes back from there.
        length = get_total_norm(
            [one.grad for one in state.network.parameters() if one.grad is not None]
        )
    told = Told(f"in epoch {state.epoch}, step {state.step}", loss, length)
    if not loss.is_cuda:
        told.loss()
    elif not state.scaler.is_enabled():
        # As GradScaler has it: the fused optimiser itself moves nothing then.
        state.optimiser.found_inf = (loss.detach() + length).isfinite().logical_not().float()  # type: ignore[attr-defined]
    state.scaler.step(state.optimiser)
    state.scaler.update()
    return told


def _loss(
    street: Tensor, aerial: Tensor, same: Tensor, mined: dict[str, Any], recipe: Recipe
) -> Tensor:
    if recipe.loss == "info_nce":
        return info_nce(street, aerial, recipe.temperature, recipe.label_smoothing, same, **mined)
    return soft_margin_triplet(
        street, aerial, recipe.alpha, pair_mask=same, queue_weight=recipe.queue_weight, **mined
    )


def _describe(
    state: TrainingState, batch: Batch, recipe: Recipe, device: str
) -> tuple[Tensor, Tensor, Callable[[], None]]:
    """The whole batch's descriptors (B, D), and what sends their gradients back to the weights."""
    rows = len(batch.ids)
    size = recipe.chunk_size or rows
    chunks = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
    own = processes.share(rows * processes.count())

    def described(chunk: slice) -> tuple[Tensor, Tensor]:
        # What a trunk drops at random must be the same again, here and in a resumed run, but not
        # in another process: so by the chunk's place in the whole batch.
        first = own.start + chunk.start
        torch.manual_seed(hash((state.seed, state.epoch, state.step, first)))
        return forward(state.network, Batch(*(one[chunk] for one in batch)), recipe, device)

    kept = len(chunks) == 1
    with torch.set_grad_enabled(kept):
        views = [described(chunk) for chunk in chunks]
    street, aerial = (
        processes.gather(torch.cat(side)).requires_grad_() for side in zip(*views, strict=True)
    )

    def send_back() -> None:
        for chunk in chunks:
            again = views[0] if kept else described(chunk)
            gradients = [_gradient(one)[own][chunk] for one in (street, aerial)]
            torch.autograd.backward(again, gradients)

    return street, aerial, send_back


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def forward(network: nn.Module, batch: Batch, recipe: Recipe, device: str) -> tuple[Tensor, Tensor]:
    """A batch's street and aerial descriptors, each (B, D), as serving would describe them."""
    preprocessing = recipe.encoder.preprocessing
    strips = batch.strips.to(device).float().div_(255.0)
    views = preprocessing.normalise(preprocessing.project(strips, batch.norths.to(device)))
    tiles = preprocessing.normalise(batch.tiles.to(device).float().div_(255.0))
    with autocast(recipe, device):
        described: tuple[Tensor, Tensor] = network(
            views.contiguous(memory_format=torch.channels_last),
            tiles.contiguous(memory_format=torch.channels_last),
        )
    return described


def autocast(recipe: Recipe, device: str, *, cache: bool = True) -> torch.autocast:
    """The arithmetic that the recipe trains in."""
    dtype = AUTOCAST[recipe.precision]
    return torch.autocast(
        torch.device(device).type, dtype, enabled=dtype != torch.float32, cache_enabled=cache
    )


def record(network: nn.Module, recipe: Recipe, device: str) -> None:
    """Have a CUDA device run the network, forward and backward, as two recorded graphs.

    The kernels of a small network end sooner than a processor launches them one by one. For
    whole batches in training; the module's weights, and all that reads them, stay as they are.
    """
    size = recipe.encoder.preprocessing.input_size
    shape = (recipe.batch_size // processes.count(), 3, size, size)
    samples = tuple(
        torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    # A recording is made on a stream of its own; that it is played on another is meant.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    # Without a cache: a recording must cast the weights anew whenever it is played.
    with autocast(recipe, device, cache=False):
        torch.cuda.make_graphed_callables(network, samples)
