"""One training run on several processes (`torchrun`): each describes its share of every batch.

Descriptors are gathered, so the loss and the queue are those of the whole batch in every process;
each sends the gradients of its own share back through the network, and their sum is the whole
batch's gradient. In a single process all of this is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from model.errors import SkyfixError


class ProcessError(SkyfixError):
    """The batch cannot be shared out."""


def count() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes the files and draws the bars."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def share(batch_size: int) -> slice:
    """The rows of a batch that are this process's own.

    Raises:
        ProcessError: the batch cannot be shared out evenly.
    """
    number = distributed.get_rank() if distributed.is_initialized() else 0
    return rows_of(batch_size, number, count())


def rows_of(batch_size: int, number: int, processes: int) -> slice:
    """The rows of a batch that process `number` of so many describes."""
    if batch_size % processes:
        raise ProcessError(
            f"a batch of {batch_size} cannot be shared by {processes} processes: "
            "override batch_size"
        )
    rows = batch_size // processes
    return slice(rows * number, rows * (number + 1))


def gather(own: Tensor) -> Tensor:
    """The rows of all processes in their order, (B / count, ...) -> (B, ...); no gradient."""
    own = own.detach().contiguous()
    if count() == 1:
        return own
    rows = [torch.empty_like(own) for _ in range(count())]
    distributed.all_gather(rows, own)
    return torch.cat(rows)


def agree(tensors: Iterable[Tensor]) -> None:
    """Write the first process's values into every process's tensors."""
    if count() > 1:
        for one in tensors:
            distributed.broadcast(one, 0)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up every parameter's gradient over the processes."""
    if count() > 1:
        for one in parameters:
            if one.grad is not None:
                distributed.all_reduce(one.grad)


def wait() -> None:
    """Return once every process has come here."""
    if count() > 1:
        distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the other processes if `torchrun` started this one; gives the device to use.

    A CUDA device becomes the one of this process's number on its machine.
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
