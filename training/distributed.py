"""One training run on several processes (`torchrun`): each encodes its share of every batch.

Descriptors are gathered, so every process has the loss and the queue of the whole batch. Each
process sends the gradients of its own share back through the network; their sum is the whole
batch's gradient. In a single process all of this is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from model.errors import SkyfixError


class ProcessError(SkyfixError):
    """The processes cannot share a batch evenly."""


def process_count() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes the files and draws the bars."""
    return rank() == 0


def own_rows(batch_size: int) -> slice:
    """`rows_of` this process."""
    return rows_of(rank(), batch_size, process_count())


def rows_of(process: int, batch_size: int, processes: int) -> slice:
    """The rows of a batch that a process encodes. Raises ProcessError."""
    if batch_size % processes:
        raise ProcessError(
            f"a batch of {batch_size} cannot be shared by {processes} processes: "
            "override batch_size"
        )
    rows = batch_size // processes
    return slice(rows * process, rows * (process + 1))


def gather(own: Tensor) -> Tensor:
    """The rows of all processes in order, (B / processes, ...) -> (B, ...); no gradient."""
    own = own.detach().contiguous()
    if process_count() == 1:
        return own
    rows = [torch.empty_like(own) for _ in range(process_count())]
    distributed.all_gather(rows, own)
    return torch.cat(rows)


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Write the first process's values into every process's tensors."""
    if process_count() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up every parameter's gradient over the processes."""
    if process_count() > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)


def wait_for_all() -> None:
    """Return once every process has called this."""
    if process_count() > 1:
        distributed.barrier()


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the other processes if `torchrun` started this one; yields the device to use.

    With CUDA, each process uses the GPU of its number on the machine.
    """
    if not distributed.is_torchelastic_launched():
        yield device
        return
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        device = f"cuda:{distributed.get_node_local_rank()}"
        torch.cuda.set_device(device)
    try:
        yield device
    finally:
        distributed.destroy_process_group()
