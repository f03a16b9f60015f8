"""A process that `torchrun` starts for tests/test_distributed.py: trains and writes the results.

`torchrun --nproc-per-node 2 two_processes.py PAIRS OUT`.
"""

import sys
from pathlib import Path

import torch
from pair_samples import tiny

from training import distributed
from training.data.arrays import Arrays, read_arrays
from training.data.augmentation import batches
from training.data.datasets import load
from training.data.sampling import order
from training.run.loop import train
from training.run.start import start
from training.run.state import TrainingError
from training.run.step import step

RECIPE = tiny(
    "batch_size=4",
    "epochs=2",
    "queue_length=4",
    "queue_hardest=2",
    "queue_start_epoch=0",
    "sampling=hard",
)


def read(folder: Path) -> Arrays:
    return read_arrays(load("folder", folder, "all"), RECIPE.encoder, 0.0)


def first_steps(arrays: Arrays) -> dict[str, object]:
    """The first step's gradients, and the losses, queue and random state after two steps."""
    state = start(RECIPE, arrays, 0, "cpu")
    taken = order(RECIPE, arrays.positions, 0, 0)
    losses, gradients = [], []
    for batch in batches(arrays, RECIPE, 0, 0, taken):
        losses.append(step(state, batch, RECIPE, "cpu").wait())
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in state.network.parameters()])
        )
    return {
        "losses": losses,
        "gradients": gradients[0],
        "queue": state.queue.state_dict(),
        "drops_by": torch.initial_seed(),  # the seed of stochastic depth in the last step
    }


def begun(arrays: Arrays, seed: int) -> dict[str, torch.Tensor]:
    """This process's weights at the beginning of a run."""
    return start(RECIPE, arrays, seed, "cpu").network.state_dict()


def refused(arrays: Arrays) -> str:
    """The error for a trunk with batch norm."""
    recipe = tiny("batch_size=4", "encoder.network.trunk=resnet18")
    try:
        start(recipe, arrays, 0, "cpu")
    except TrainingError as error:
        return str(error)
    return ""


def main() -> None:
    torch.set_num_threads(1)
    folder, out = map(Path, sys.argv[1:])
    arrays = read(folder)
    with distributed.process_group("cpu") as device:
        rank = torch.distributed.get_rank()
        apart = {"begun": begun(arrays, seed=rank), "refused": refused(arrays)}
        torch.save(first_steps(arrays) | apart, out / f"{rank}.pt")
        train(RECIPE, arrays, out / "run", validation=arrays, device=device)


if __name__ == "__main__":
    main()
