"""One training step: a batch in, the weights moved, its loss out.

The loss is a function of the batch's descriptors alone. So the descriptors are made first and the
loss gives the gradient of each. The gradients then go back through the network chunk by chunk; a
chunk that was not kept is encoded again (GradCache, Gao et al. 2021). The sum is the gradient of
the whole batch, whatever the size of the chunks and however many processes share the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from training import distributed
from training.data.augmentation import Batch
from training.losses import info_nce, soft_margin_triplet
from training.mining import same_place
from training.recipes import Recipe
from training.run.state import PendingLoss, TrainingState

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def step(state: TrainingState, batch: Batch, recipe: Recipe, device: str) -> PendingLoss:
    """Move the weights down the loss of a batch against itself and the queue; return that loss.

    `batch` is this process's share; the loss is the whole batch's. The step does not wait for a
    GPU: there, a loss that is not finite shows later, and moves no weight meanwhile.

    Raises:
        TrainingError: as `PendingLoss.wait`, on a CPU.
    """
    ids, street_positions, tile_positions = (
        distributed.gather(values.to(device, non_blocking=True))
        for values in (batch.ids, batch.street_positions, batch.tile_positions)
    )
    street, aerial, send_back = _encode(state, batch, recipe, device)
    near = recipe.negative_distance_m
    queue = state.queue if state.epoch >= recipe.queue_start_epoch else None
    pair_mask = same_place(ids, street_positions, ids, tile_positions, near)
    mined: dict[str, Any] = {}
    if queue is not None:
        mask = queue.mask(ids, street_positions, near)
        mined = {"queue": queue.negatives(), "queue_mask": mask}
    loss = _loss(street, aerial, pair_mask, mined, recipe)
    state.optimiser.zero_grad()
    send_back(torch.autograd.grad(state.scaler.scale(loss), (street, aerial)))
    distributed.sum_gradients(state.network.parameters())
    pending = _move_weights(state, loss)
    state.average(recipe.ema)
    if queue is not None:
        queue.push(
            aerial,
            ids,
            tile_positions,
            street=street,
            hardest=recipe.queue_hardest,
            min_distance_m=near,
        )
    if state.seen is not None:
        rows = distributed.gather(batch.rows.to(device, non_blocking=True))
        state.seen[:, rows] = torch.stack([street, aerial]).detach()
    return pending


def _move_weights(state: TrainingState, loss: Tensor) -> PendingLoss:
    """Move the weights, unless the loss or its gradient is not finite."""
    length = loss.new_zeros(())
    if not state.scaler.is_enabled():  # the scaler itself skips such a step and lowers the scale
        # A finite gradient past 1e19 overflows here, too: training never recovers from it.
        length = get_total_norm(
            [weight.grad for weight in state.network.parameters() if weight.grad is not None]
        )
    pending = PendingLoss(f"in epoch {state.epoch}, step {state.step}", loss, length)
    if not loss.is_cuda:
        pending.wait()
    elif not state.scaler.is_enabled():
        # The fused optimiser reads this flag, as GradScaler sets it, and then moves nothing.
        state.optimiser.found_inf = (loss.detach() + length).isfinite().logical_not().float()  # type: ignore[attr-defined]
    state.scaler.step(state.optimiser)
    state.scaler.update()
    return pending


def _loss(
    street: Tensor, aerial: Tensor, pair_mask: Tensor, mined: dict[str, Any], recipe: Recipe
) -> Tensor:
    if recipe.loss == "info_nce":
        return info_nce(
            street, aerial, recipe.temperature, recipe.label_smoothing, pair_mask, **mined
        )
    return soft_margin_triplet(
        street,
        aerial,
        recipe.alpha,
        pair_mask=pair_mask,
        queue_weight=recipe.queue_weight,
        **mined,
    )


def _encode(
    state: TrainingState, batch: Batch, recipe: Recipe, device: str
) -> tuple[Tensor, Tensor, Callable[[Sequence[Tensor]], None]]:
    """The whole batch's descriptors (B, D), and a function that sends their gradients back."""
    rows = len(batch.ids)
    size = recipe.chunk_size or rows
    chunks = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
    own = distributed.own_rows(rows * distributed.process_count())

    def encode(chunk: slice) -> tuple[Tensor, Tensor]:
        # A trunk's random drops must be the same when the chunk is encoded again and in a resumed
        # run, but differ between processes: the seed is the chunk's row in the whole batch.
        first = own.start + chunk.start
        torch.manual_seed(hash((state.seed, state.epoch, state.step, first)))
        return forward(state.network, Batch(*(part[chunk] for part in batch)), recipe, device)

    kept = len(chunks) == 1
    with torch.set_grad_enabled(kept):
        descriptors = [encode(chunk) for chunk in chunks]
    street, aerial = (
        distributed.gather(torch.cat(side)).requires_grad_()
        for side in zip(*descriptors, strict=True)
    )

    def send_back(gradients: Sequence[Tensor]) -> None:
        for chunk in chunks:
            again = descriptors[0] if kept else encode(chunk)
            torch.autograd.backward(again, [side[own][chunk] for side in gradients])

    return street, aerial, send_back


def forward(network: nn.Module, batch: Batch, recipe: Recipe, device: str) -> tuple[Tensor, Tensor]:
    """A batch's street and aerial descriptors, each (B, D), as serving would encode them."""
    preprocessing = recipe.encoder.preprocessing
    strips = batch.strips.to(device).float().div_(255.0)
    views = preprocessing.normalise(preprocessing.project(strips, batch.norths.to(device)))
    tiles = preprocessing.normalise(batch.tiles.to(device).float().div_(255.0))
    with autocast(recipe, device):
        descriptors: tuple[Tensor, Tensor] = network(
            views.contiguous(memory_format=torch.channels_last),
            tiles.contiguous(memory_format=torch.channels_last),
        )
    return descriptors


def autocast(recipe: Recipe, device: str, *, cache: bool = True) -> torch.autocast:
    """The arithmetic that the recipe trains in."""
    dtype = AUTOCAST[recipe.precision]
    return torch.autocast(
        torch.device(device).type, dtype, enabled=dtype != torch.float32, cache_enabled=cache
    )


def record(network: nn.Module, recipe: Recipe, device: str) -> None:
    """Make a CUDA device run the network, forward and backward, as two recorded graphs.

    A small network's kernels end sooner than a CPU launches them one by one. The recording is for
    whole batches in training; the module's weights and their readers are unchanged.
    """
    size = recipe.encoder.preprocessing.input_size
    shape = (recipe.batch_size // distributed.process_count(), 3, size, size)
    samples = tuple(
        torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    # Recording and replay use different streams on purpose.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    # Without a cache: a recording must cast the weights anew at each replay.
    with autocast(recipe, device, cache=False):
        torch.cuda.make_graphed_callables(network, samples)
