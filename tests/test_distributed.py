"""Two processes that share a batch give the results of one process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair_samples import write_pairs
from two_processes import RECIPE, begun, first_steps, read

from model.checkpoint import Checkpoint
from training import distributed
from training.run.loop import train

HERE = Path(__file__).parent


def on_two_processes(folder: Path, out: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*launch, str(HERE / "two_processes.py"), str(folder), str(out)],
        check=True,
        cwd=HERE.parent,
        timeout=120,
        capture_output=True,
    )


def test_two_processes_give_the_loss_gradient_queue_and_weights_of_one(tmp_path):
    folder = write_pairs(tmp_path / "pairs", 8)
    on_two_processes(folder, tmp_path)
    expected = first_steps(read(folder))
    limit = 1e-5 * expected["gradients"].abs().max()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert (first["gradients"] - expected["gradients"]).abs().max() < limit
    assert torch.equal(first["queue"]["tile_ids"], expected["queue"]["tile_ids"])
    assert torch.equal(first["gradients"], second["gradients"])
    assert torch.equal(first["queue"]["descriptors"], second["queue"]["descriptors"])
    assert first["drops_by"] == expected["drops_by"] != second["drops_by"]
    check_beginning(read(folder), first, second)
    check_weights(folder, tmp_path / "run", tmp_path / "alone")


def check_beginning(arrays, first, second):
    """Each process draws its own weights, yet both begin with the first process's weights."""
    expected = begun(arrays, seed=0)
    for process in (first, second):
        assert process["begun"].keys() == expected.keys()
        assert all(torch.equal(process["begun"][name], value) for name, value in expected.items())
        assert "resnet18 has batch norm" in process["refused"]


def check_weights(folder, shared, alone):
    """Adam turns roundings of tiny gradients into steps: compare with the distance trained."""
    arrays = read(folder)
    before = begun(arrays, seed=0)
    single = Checkpoint.load(train(RECIPE, arrays, alone, validation=arrays)).tensors
    both = Checkpoint.load(shared / "last.safetensors").tensors
    apart = sum((both[name] - tensor).square().sum() for name, tensor in single.items())
    way = sum((before[name] - tensor).square().sum() for name, tensor in single.items())
    assert (apart / way).sqrt() < 0.05
    names = {file.name for file in shared.iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "log.jsonl", "state.safetensors"}


def test_a_batch_is_shared_evenly_or_refused():
    rows = [list(range(12))[distributed.rows_of(number, 12, 3)] for number in range(3)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(distributed.ProcessError, match="batch of 64 cannot be shared by 3 proc"):
        distributed.rows_of(0, 64, 3)
