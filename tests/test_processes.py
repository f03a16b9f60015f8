"""Two processes on one batch are one process on it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair_samples import write_pairs
from two_processes import RECIPE, first_steps, read

from model.checkpoint import Checkpoint
from training import processes
from training.loop import start, train

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 8)


@pytest.fixture(scope="module")
def shared(folder, tmp_path_factory):
    """What two gloo processes left behind."""
    out = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*launch, str(HERE / "two_processes.py"), str(folder), str(out)],
        check=True,
        cwd=HERE.parent,
        timeout=120,
        capture_output=True,
    )
    return out


def test_loss_gradient_and_queue_are_those_of_one_process(folder, shared):
    expected = first_steps(read(folder))
    limit = 1e-5 * expected["gradients"].abs().max()
    for rank in (0, 1):
        found = torch.load(shared / f"{rank}.pt")
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
        assert (found["gradients"] - expected["gradients"]).abs().max() < limit
        assert torch.equal(found["queue"]["tile_ids"], expected["queue"]["tile_ids"])


def test_all_processes_hold_the_same_bits(shared):
    first, second = (torch.load(shared / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["gradients"], second["gradients"])
    assert torch.equal(first["queue"]["descriptors"], second["queue"]["descriptors"])


def test_the_weights_are_those_of_one_process(folder, shared, tmp_path):
    """Adam turns roundings into steps where a gradient is nearly 0: small against the way made."""
    arrays = read(folder)
    begun = start(RECIPE, arrays, 0, "cpu").network.state_dict()
    alone = Checkpoint.load(train(RECIPE, arrays, tmp_path, validation=arrays)).tensors
    together = Checkpoint.load(shared / "run" / "last.safetensors").tensors
    apart = sum((together[name] - one).square().sum() for name, one in alone.items())
    way = sum((begun[name] - one).square().sum() for name, one in alone.items())
    assert (apart / way).sqrt() < 0.05
    names = {one.name for one in (shared / "run").iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "log.jsonl", "state.safetensors"}


def test_a_batch_is_shared_out_evenly_or_not_at_all():
    rows = [list(range(12))[processes.rows_of(12, number, 3)] for number in range(3)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(processes.ProcessError, match="batch of 64 cannot be shared by 3 proc"):
        processes.rows_of(64, 0, 3)
